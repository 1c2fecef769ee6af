"""Settings: where each is looked for, in which forms, and what is said of a wrong one."""

import os
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import SecretStr

from result_aggregator_service.contracts.enums import Phase
from result_aggregator_service.failpoints import Action, Armed, Failpoint
from result_aggregator_service.settings import DEVELOPMENT_API_KEY, PREFIX, DatabaseSettings, Settings, SettingsError

SECRET = "s3cr3t-Pa55word"
URL = f"postgresql+asyncpg://user:{SECRET}@db:5432/ras"
Load = Callable[..., Settings]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[Mapping[str, str]], None]:
    """`environment({...})`: these variables and no others, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def only(variables: Mapping[str, str]) -> None:
        for name in os.environ:
            if name.upper().removeprefix(PREFIX).removesuffix("_FILE").lower() in Settings.model_fields:
                monkeypatch.delenv(name)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)

    only({})
    return only


@pytest.fixture
def load(environment: Callable[[Mapping[str, str]], None]) -> Load:
    """`load(NAME=value, ...)`: the settings under an environment that has only these, and what is always needed."""

    def loaded(**variables: str) -> Settings:
        environment({"DATABASE_URL": URL, "INTERNAL_API_KEY": "key", **variables})
        return Settings.load()

    return loaded


def complaint(load: Load, **variables: str) -> str:
    """What is said of wrong settings: one line, and no secret in it."""
    with pytest.raises(SettingsError) as raised:
        load(**variables)
    said = str(raised.value)
    assert "\n" not in said
    assert SECRET not in said
    assert raised.value.__cause__ is None
    return said


# Where a setting is looked for.


def test_the_defaults_are_those_of_the_specification(load: Load) -> None:
    settings = load()
    expected: dict[str, Any] = {
        "service_name": "result-aggregator-service",
        "host": "0.0.0.0",
        "port": 4003,
        "metrics_port": 9096,
        "database_pool_size": 20,
        "database_max_overflow": 10,
        "kafka_consumer_group_id": "result-aggregator-group",
        "kafka_auto_offset_reset": "earliest",
        "kafka_session_timeout_ms": 30000,
        "kafka_producer_client_id": "ras-producer",
        "outbox_poll_interval": 5,
        "outbox_batch_size": 100,
        "redis_cache_ttl_seconds": 300,
        "redis_idempotency_ttl_seconds": 86400,
        "cache_enabled": True,
        "allowed_service_ids": ["api-gateway-service", "admin-dashboard-service"],
        "api_timeout_seconds": 30,
        "expected_phases": [Phase.SPELLCHECK, Phase.CJ_ASSESSMENT],
        "results_grace_seconds": 60,
        "max_message_bytes": 8 * 1024 * 1024,
        "raise_on_deserialization_error": False,
        "database_breaker_seconds": 5,
        "outbox_breaker_seconds": 30,
        "failpoints": (),
    }
    assert {name: getattr(settings, name) for name in expected} == expected


def test_every_setting_of_the_specification_is_there() -> None:
    promised = """
        SERVICE_NAME SERVICE_VERSION HOST PORT METRICS_PORT DATABASE_URL DATABASE_POOL_SIZE DATABASE_MAX_OVERFLOW
        KAFKA_BOOTSTRAP_SERVERS KAFKA_CONSUMER_GROUP_ID KAFKA_AUTO_OFFSET_RESET KAFKA_MAX_POLL_RECORDS
        KAFKA_SESSION_TIMEOUT_MS KAFKA_PRODUCER_CLIENT_ID OUTBOX_POLL_INTERVAL OUTBOX_BATCH_SIZE REDIS_URL
        REDIS_CACHE_TTL_SECONDS REDIS_IDEMPOTENCY_TTL_SECONDS CACHE_ENABLED INTERNAL_API_KEY ALLOWED_SERVICE_IDS
        LOG_LEVEL ENVIRONMENT API_TIMEOUT_SECONDS STORE_POISON_PILLS POISON_PILL_TTL_SECONDS
        RAISE_ON_DESERIALIZATION_ERROR EXPECTED_PHASES RESULTS_GRACE_SECONDS MAX_MESSAGE_BYTES OUTBOX_RETENTION_HOURS
        OUTBOX_PARKED_KEY_POLICY DATABASE_DIRECT_URL
    """
    assert {name.lower() for name in promised.split()} <= set(Settings.model_fields)


def test_the_prefixed_name_wins_over_the_plain_one_and_that_over_file_dotenv_and_default(
    load: Load, tmp_path: Path
) -> None:
    named = tmp_path / "secret"
    named.write_text("from-file\n")
    dotenv = tmp_path / ".env"
    dotenv.write_text("INTERNAL_API_KEY=from-dotenv\nPORT=1111\n")
    everything = {
        "RESULT_AGGREGATOR_SERVICE_INTERNAL_API_KEY": "prefixed",
        "INTERNAL_API_KEY": "plain",
        "INTERNAL_API_KEY_FILE": str(named),
    }

    def key(**variables: str) -> str:
        return load(**variables).internal_api_key.get_secret_value()

    assert key(**everything) == "prefixed"
    del everything["RESULT_AGGREGATOR_SERVICE_INTERNAL_API_KEY"]
    assert key(**everything) == "plain"
    assert load(PORT="2222", RESULT_AGGREGATOR_SERVICE_PORT="3333").port == 3333
    assert load(PORT="2222").port == 2222
    assert load().port == 1111
    dotenv.unlink()
    assert load().port == 4003


def test_a_file_wins_over_dotenv_and_dotenv_over_the_default(
    environment: Callable[[Mapping[str, str]], None], tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(f"INTERNAL_API_KEY=from-dotenv\nDATABASE_URL={URL}\n")
    environment({})
    assert Settings.load().internal_api_keys == ("from-dotenv",)
    (tmp_path / "key").write_text("from-file\n")
    environment({"INTERNAL_API_KEY_FILE": str(tmp_path / "key")})
    assert Settings.load().internal_api_keys == ("from-file",)


def test_the_environment_wins_over_dotenv_under_whichever_name(load: Load, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RESULT_AGGREGATOR_SERVICE_PORT=5555\n")
    assert load(PORT="2222").port == 2222


def test_an_argument_wins_over_the_environment(environment: Callable[[Mapping[str, str]], None]) -> None:
    environment({"DATABASE_URL": URL, "RESULT_AGGREGATOR_SERVICE_PORT": "1", "INTERNAL_API_KEY": "key"})
    settings = Settings(database_url=SecretStr("postgresql://argument/d"), port=2)
    assert (settings.postgres_url.host, settings.port) == ("argument", 2)


def test_dotenv_knows_the_prefixed_names_too(load: Load, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("RESULT_AGGREGATOR_SERVICE_PORT=5555\nPORT=1111\nUNKNOWN=1\n")
    assert load().port == 5555


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_secrets_file_is_read_without_the_end_of_its_line(load: Load, tmp_path: Path, ending: str) -> None:
    (tmp_path / "password").write_bytes(f" {SECRET} {ending}".encode())
    settings = load(
        KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT",
        KAFKA_SASL_USERNAME="me",
        KAFKA_SASL_PASSWORD_FILE=str(tmp_path / "password"),
    )
    assert settings.kafka_client_options()["sasl_plain_password"] == f" {SECRET} "


@pytest.mark.parametrize("name", ["DATABASE_URL", "DATABASE_DIRECT_URL", "REDIS_URL", "INTERNAL_API_KEY"])
@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_every_secret_may_come_from_a_file(
    environment: Callable[[Mapping[str, str]], None], tmp_path: Path, name: str, prefix: str
) -> None:
    secret = "redis://h/3" if name == "REDIS_URL" else URL
    (tmp_path / "secret").write_text(secret)
    needed = {"DATABASE_URL": URL, "INTERNAL_API_KEY": "key"}
    needed.pop(name, None)
    environment({**needed, f"{prefix}{name}_FILE": str(tmp_path / "secret")})
    assert getattr(Settings.load(), name.lower()).get_secret_value() == secret


def test_a_secrets_file_that_cannot_be_read_is_named(load: Load, tmp_path: Path) -> None:
    said = complaint(load, REDIS_URL_FILE=str(tmp_path / "nowhere"))
    assert said.startswith("REDIS_URL_FILE: cannot read ")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    assert complaint(load, REDIS_URL_FILE=str(tmp_path / "binary")).startswith("REDIS_URL_FILE: cannot read ")


# Forms.


@pytest.mark.parametrize("text", ['["a", "b"]', "a,b", " a , b ,", ' ["a","b"]'])
def test_lists_are_json_or_words_separated_by_commas(load: Load, text: str) -> None:
    assert load(ALLOWED_SERVICE_IDS=text).allowed_service_ids == ["a", "b"]


def test_an_empty_instance_id_is_none(load: Load) -> None:
    assert load(KAFKA_GROUP_INSTANCE_ID="").kafka_group_instance_id is None


def test_expected_phases_are_phases(load: Load) -> None:
    assert load(EXPECTED_PHASES="nlp,spellcheck").expected_phases == [Phase.NLP, Phase.SPELLCHECK]
    assert load(EXPECTED_PHASES='["ai_feedback"]').expected_phases == [Phase.AI_FEEDBACK]


def test_several_keys_may_be_valid_at_once(load: Load) -> None:
    assert load(INTERNAL_API_KEY=" old, new ,,").internal_api_keys == ("old", "new")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql+asyncpg://u:p@h:1/d", "postgresql+asyncpg://u:p@h:1/d"),
        ("postgresql://u:p@h/d", "postgresql+asyncpg://u:p@h/d"),
        ("postgres://u:p%40w@h/d", "postgresql+asyncpg://u:p%40w@h/d"),
        ("postgresql://h/d?sslmode=require", "postgresql+asyncpg://h/d?ssl=require"),
        ("postgresql://u@/d?host=/run/pg", "postgresql+asyncpg://u@/d?host=%2Frun%2Fpg"),
    ],
)
def test_postgresqls_url_may_have_any_usual_form(load: Load, url: str, expected: str) -> None:
    assert load(DATABASE_URL=url).postgres_url.render_as_string(hide_password=False) == expected


def test_the_direct_url_is_the_other_one_unless_it_is_set(load: Load) -> None:
    settings = load(DATABASE_URL="postgresql://proxy/d")
    assert settings.postgres_direct_url.host == "proxy"
    settings = load(DATABASE_URL="postgresql://proxy/d", DATABASE_DIRECT_URL="postgresql://direct/d")
    assert (settings.postgres_url.host, settings.postgres_direct_url.host) == ("proxy", "direct")


def test_a_migration_needs_a_database_and_nothing_else(environment: Callable[[Mapping[str, str]], None]) -> None:
    environment({"DATABASE_URL": URL})
    assert DatabaseSettings.load().postgres_url.database == "ras"
    environment({})
    with pytest.raises(SettingsError, match=r"^DATABASE_URL: is not set$"):
        DatabaseSettings.load()


# Wrong ones.


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("PORT", "65536", "PORT: "),
        ("PORT", "http", "PORT: "),
        ("PORT", "-1", "PORT: "),
        ("RESULT_AGGREGATOR_SERVICE_PORT", "http", "PORT: "),
        ("LOG_LEVEL", "LOUD", "LOG_LEVEL: "),
        ("KAFKA_AUTO_OFFSET_RESET", "none", "KAFKA_AUTO_OFFSET_RESET: "),
        ("KAFKA_MAX_POLL_RECORDS", "0", "KAFKA_MAX_POLL_RECORDS: "),
        ("KAFKA_SESSION_TIMEOUT_MS", "0", "KAFKA_SESSION_TIMEOUT_MS: "),
        ("KAFKA_BOOTSTRAP_SERVERS", "", "KAFKA_BOOTSTRAP_SERVERS: "),
        ("OUTBOX_POLL_INTERVAL", "0", "OUTBOX_POLL_INTERVAL: "),
        ("OUTBOX_PARKED_KEY_POLICY", "drop", "OUTBOX_PARKED_KEY_POLICY: "),
        ("RESULTS_GRACE_SECONDS", "-1", "RESULTS_GRACE_SECONDS: "),
        ("CACHE_ENABLED", "perhaps", "CACHE_ENABLED: "),
        ("EXPECTED_PHASES", "spellcheck,proofreading", "EXPECTED_PHASES: "),
        ("EXPECTED_PHASES", "", "EXPECTED_PHASES: "),
        ("EXPECTED_PHASES", "[]", "EXPECTED_PHASES: "),
        ("ALLOWED_SERVICE_IDS", '["a"', "ALLOWED_SERVICE_IDS: not a JSON list"),
        ("ALLOWED_SERVICE_IDS", "", "ALLOWED_SERVICE_IDS: names no service"),
        ("ALLOWED_SERVICE_IDS", '["a", ""]', "ALLOWED_SERVICE_IDS: names no service, or one without a name"),
        ("DATABASE_URL", f"mysql://u:{SECRET}@h/d", "DATABASE_URL: 'mysql://' is not PostgreSQL"),
        ("DATABASE_URL", f"just {SECRET}", "DATABASE_URL: not a URL"),
        ("DATABASE_URL", f"postgresql://u:{SECRET}@h:port/d", "DATABASE_URL: not a URL"),
        ("DATABASE_URL", f"postgresql://user:{SECRET}", "DATABASE_URL: not a URL"),
        ("DATABASE_DIRECT_URL", f"sqlite://{SECRET}", "DATABASE_DIRECT_URL: 'sqlite://' is not PostgreSQL"),
        ("REDIS_URL", f"http://:{SECRET}@h", "REDIS_URL: not a URL of Redis; expected "),
        ("REDIS_URL", f"just {SECRET}", "REDIS_URL: not a URL of Redis; expected "),
        ("REDIS_URL", f"redis://:{SECRET}@h:70000/0", "REDIS_URL: not a URL: Port out of range"),
        ("KAFKA_SECURITY_PROTOCOL", "SASL_SSL", "KAFKA_SASL_USERNAME: SASL_SSL needs it"),
        ("KAFKA_SECURITY_PROTOCOL", "TLS", "KAFKA_SECURITY_PROTOCOL: "),
        ("DATABASE_BREAKER_SECONDS", "0", "DATABASE_BREAKER_SECONDS: "),
        ("FAILPOINTS", "relay.send.before", "FAILPOINTS: 'relay.send.before' is not <failpoint>=<action>"),
        ("FAILPOINTS", "relay.sent=kill", "FAILPOINTS: 'relay.sent' is no failpoint; there are poll.decode.before, "),
        ("FAILPOINTS", "relay.send.after=die", "FAILPOINTS: 'die' is no action of a failpoint; there are kill, log"),
    ],
)
def test_a_wrong_setting_is_named_in_one_clear_line(load: Load, name: str, value: str, said: str) -> None:
    assert complaint(load, **{name: value}).startswith(said)


def test_several_wrong_settings_are_named_together(load: Load) -> None:
    said = complaint(load, PORT="http", LOG_LEVEL="LOUD")
    assert "PORT: " in said
    assert "LOG_LEVEL: " in said


def test_no_secret_shows_when_the_settings_are_shown(load: Load) -> None:
    settings = load(INTERNAL_API_KEY=SECRET, REDIS_URL=f"redis://:{SECRET}@h", KAFKA_SASL_PASSWORD=SECRET)
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings.model_dump())
    assert SECRET not in settings.model_dump_json()


# Failpoints.


def test_failpoints_are_armed_by_words_separated_by_commas(load: Load) -> None:
    settings = load(ENVIRONMENT="testing", FAILPOINTS="relay.send.after=kill@3, poll.decode.before=log,")
    assert settings.failpoints == (
        Armed(Failpoint.RELAY_SEND_AFTER, Action.KILL, 3),
        Armed(Failpoint.POLL_DECODE_BEFORE, Action.LOG),
    )


def test_failpoints_are_refused_in_production_and_wherever_nothing_else_is_said(load: Load) -> None:
    refusal = "FAILPOINTS: not where ENVIRONMENT is production"
    assert complaint(load, FAILPOINTS="relay.send.after=kill").startswith(refusal)
    assert complaint(load, FAILPOINTS="relay.send.after=kill", ENVIRONMENT="production").startswith(refusal)


# The key of the API.


@pytest.mark.parametrize("key", ["", " ", ",", " , "])
def test_without_a_key_nothing_starts_outside_development(load: Load, key: str) -> None:
    assert complaint(load, INTERNAL_API_KEY=key).startswith("INTERNAL_API_KEY: is not set")
    assert complaint(load, INTERNAL_API_KEY=key, ENVIRONMENT="staging").startswith("INTERNAL_API_KEY: is not set")


def test_in_development_there_is_a_key_until_one_is_set(load: Load) -> None:
    assert load(INTERNAL_API_KEY="", ENVIRONMENT="development").internal_api_keys == (DEVELOPMENT_API_KEY,)
    assert load(INTERNAL_API_KEY="own", ENVIRONMENT="development").internal_api_keys == ("own",)


# Clients.


def test_kafka_without_security_is_made_with_its_address_only(load: Load) -> None:
    assert load(KAFKA_BOOTSTRAP_SERVERS="a:1,b:2").kafka_client_options() == {
        "bootstrap_servers": "a:1,b:2",
        "security_protocol": "PLAINTEXT",
    }


def test_kafka_with_sasl_and_tls_gets_all_that_they_need(load: Load) -> None:
    options = load(
        KAFKA_SECURITY_PROTOCOL="SASL_SSL",
        KAFKA_SASL_MECHANISM="SCRAM-SHA-512",
        KAFKA_SASL_USERNAME="me",
        KAFKA_SASL_PASSWORD=SECRET,
    ).kafka_client_options()
    assert options["sasl_mechanism"] == "SCRAM-SHA-512"
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("me", SECRET)
    assert options["ssl_context"].check_hostname is True


def test_postgresql_is_trusted_by_the_url_alone_unless_an_authority_is_named(load: Load, tmp_path: Path) -> None:
    assert load().postgres_ssl() is None
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "authority.pem"))
    context = load(DATABASE_SSL_CA_FILE=str(tmp_path / "authority.pem")).postgres_ssl()
    assert context is not None
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)


@pytest.mark.parametrize("name", ["DATABASE_SSL_CA_FILE", "REDIS_SSL_CA_FILE", "KAFKA_SSL_CA_FILE"])
def test_an_authority_without_a_certificate_is_told_of_before_anything_connects(
    load: Load, tmp_path: Path, name: str
) -> None:
    (tmp_path / "empty.pem").touch()
    assert complaint(load, **{name: str(tmp_path / "nowhere.pem")}).startswith(f"{name}: cannot read ")
    assert complaint(load, **{name: str(tmp_path / "empty.pem")}).endswith("holds no certificate in PEM")


def test_a_client_certificate_fits_its_key(load: Load, tmp_path: Path) -> None:
    one, other = (trustme.CA().issue_cert("ras") for _ in range(2))
    certificate, key, wrong = (str(tmp_path / name) for name in ("certificate", "key", "wrong"))
    one.cert_chain_pems[0].write_to_path(certificate)
    one.private_key_pem.write_to_path(key)
    other.private_key_pem.write_to_path(wrong)
    load(REDIS_URL=f"rediss://h/0?ssl_certfile={certificate}&ssl_keyfile={key}")
    said = "REDIS_URL: no certificate with the key that fits it"
    assert complaint(load, REDIS_URL=f"rediss://h/0?ssl_certfile={certificate}&ssl_keyfile={wrong}").startswith(said)
    load(REDIS_URL="redis://h")
    assert complaint(load, KAFKA_SSL_KEY_FILE=key).startswith("KAFKA_SSL_KEY_FILE: is of no use")
    load(KAFKA_SSL_CERT_FILE=certificate, KAFKA_SSL_KEY_FILE=key)
    said = "KAFKA_SSL_CERT_FILE: no certificate with the key that fits it"
    assert complaint(load, KAFKA_SSL_CERT_FILE=certificate, KAFKA_SSL_KEY_FILE=wrong).startswith(said)
    assert complaint(load, KAFKA_SSL_CERT_FILE=f"{certificate}?").startswith(
        "KAFKA_SSL_CERT_FILE: the certificate or its key cannot be read"
    )


@pytest.mark.parametrize("option", ["ssl_cert_reqs=none", "ssl_check_hostname=no", "ssl_ca_certs=/x", "ssl_ciphers="])
def test_a_redis_url_cannot_say_whom_to_trust(load: Load, option: str) -> None:
    said = complaint(load, REDIS_URL=f"rediss://:{SECRET}@h/0?{option}")
    assert said.startswith(f"REDIS_URL: {option.split('=')[0]} is not taken: ")
    assert SECRET not in said


def test_redis_with_tls_is_verified_and_without_it_is_not_asked_to_be(load: Load) -> None:
    assert load(REDIS_URL="redis://h").redis_ssl() is None
    context = load(REDIS_URL="rediss://h").redis_ssl()
    assert context is not None
    assert (context.check_hostname, context.verify_mode) == (True, ssl.CERT_REQUIRED)
