"""Every setting of the service, read from the environment. A wrong one stops the start with one clear line.

Each is read from `RESULT_AGGREGATOR_SERVICE_<NAME>`, else `<NAME>`, else (secrets) the file named by `<NAME>_FILE`,
else `.env`, else its default.
"""

import json
import os
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import parse_qs, urlsplit

from pydantic import AliasChoices, AliasGenerator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from result_aggregator_service import __version__
from result_aggregator_service.contracts.enums import Phase
from result_aggregator_service.failpoints import Armed
from result_aggregator_service.tls import client_context

PREFIX = "RESULT_AGGREGATOR_SERVICE_"
_REDIS_SCHEMES = ("redis", "rediss", "unix")
#: What a Redis URL may say of TLS; whose certificates are trusted is no matter of the URL.
_REDIS_TLS_OPTIONS = frozenset({"ssl_certfile", "ssl_keyfile", "ssl_password"})
DEVELOPMENT_API_KEY = "development-only-key"

Seconds = Annotated[float, Field(gt=0)]
Milliseconds = Annotated[int, Field(gt=0)]
Port = Annotated[int, Field(ge=0, le=65535)]


class SettingsError(Exception):
    """A setting is missing or wrong. The text is one line that names it, what is wrong and, where known, the mend."""


class DatabaseSettings(BaseSettings):
    """What a migration needs of the settings."""

    model_config = SettingsConfigDict(
        env_file=".env",
        extra="ignore",
        alias_generator=AliasGenerator(
            validation_alias=lambda name: AliasChoices(f"{PREFIX}{name.upper()}", name.upper())
        ),
        populate_by_name=True,
        frozen=True,
    )

    database_url: SecretStr
    database_direct_url: SecretStr | None = None
    database_ssl_ca_file: Path | None = None

    @classmethod
    def load(cls) -> Self:
        """Read the settings.

        Raises:
            SettingsError: one is missing or wrong.
        """
        try:
            return cls()
        except ValidationError as error:
            raise SettingsError("; ".join(_complaint(part["loc"], part["msg"]) for part in error.errors())) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the environment, then files named by it, then `.env`."""
        return init_settings, env_settings, SecretFiles(settings_cls), dotenv_settings

    @field_validator("database_url", "database_direct_url")
    @classmethod
    def _postgres_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is None:
            return None
        try:
            url = make_url(value.get_secret_value())
        except (ArgumentError, ValueError):  # a ValueError of its own would quote what it took for the port
            raise ValueError("not a URL; expected postgresql+asyncpg://user:password@host:port/database") from None
        if url.drivername not in ("postgresql", "postgres", "postgresql+asyncpg"):
            raise ValueError(
                f"'{url.drivername}://' is not PostgreSQL; expected postgresql+asyncpg:// or postgresql://"
            )
        query = dict(url.query)
        if "sslmode" in query:  # libpq's name for what asyncpg calls ssl
            query["ssl"] = query.pop("sslmode")
        url = url.set(drivername="postgresql+asyncpg", query=query)
        return SecretStr(url.render_as_string(hide_password=False))

    @field_validator("database_ssl_ca_file", "redis_ssl_ca_file", "kafka_ssl_ca_file", check_fields=False)
    @classmethod
    def _authority(cls, value: Path | None) -> Path | None:
        """Read now: told of later, a wrong file would look like a server that is away."""
        if value is None:
            return None
        try:
            client_context(value)
        except ssl.SSLError:
            raise ValueError(f"{str(value)!r} holds no certificate in PEM") from None
        except OSError as error:
            raise ValueError(f"cannot read {str(value)!r}: {error.strerror}") from None
        return value

    @property
    def postgres_url(self) -> URL:
        """Where the pool connects to."""
        return make_url(self.database_url.get_secret_value())

    @property
    def postgres_direct_url(self) -> URL:
        """Where a session can be kept: for LISTEN and advisory locks."""
        return make_url((self.database_direct_url or self.database_url).get_secret_value())

    def postgres_ssl(self) -> ssl.SSLContext | None:
        """How PostgreSQL is to be trusted, where the URL alone does not say so."""
        return client_context(self.database_ssl_ca_file) if self.database_ssl_ca_file else None


class Settings(DatabaseSettings):
    """The settings, by the names they have in the environment (lower case here)."""

    # the service
    service_name: str = Field(default="result-aggregator-service", min_length=1)
    service_version: str = __version__
    environment: str = "production"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"
    host: str = "0.0.0.0"
    port: Port = 4003
    metrics_port: Port = 9096
    shutdown_timeout_seconds: Seconds = 20.0

    # PostgreSQL
    database_prepared_statements: bool = True
    database_pool_size: int = Field(default=20, ge=1)
    database_max_overflow: int = Field(default=10, ge=0)
    database_command_timeout_seconds: Seconds = 30.0
    database_breaker_seconds: Seconds = 5.0

    # Kafka
    kafka_bootstrap_servers: str = Field(default="localhost:9092", min_length=1)
    kafka_consumer_group_id: str = Field(default="result-aggregator-group", min_length=1)
    kafka_group_instance_id: str | None = None
    kafka_auto_offset_reset: Literal["earliest", "latest"] = "earliest"
    kafka_max_poll_records: int = Field(default=2_000, ge=1)
    kafka_session_timeout_ms: Milliseconds = 30_000
    kafka_max_poll_interval_ms: Milliseconds = 300_000
    kafka_producer_client_id: str = "ras-producer"
    kafka_topic_partitions: int = Field(default=4, ge=1)
    kafka_topic_replication_factor: int = Field(default=1, ge=1)
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "PLAIN"
    kafka_sasl_username: str | None = None
    kafka_sasl_password: SecretStr | None = None
    kafka_ssl_ca_file: Path | None = None
    kafka_ssl_cert_file: Path | None = None
    kafka_ssl_key_file: Path | None = None

    # Redis
    redis_url: SecretStr = SecretStr("redis://localhost:6379/0")
    redis_ssl_ca_file: Path | None = None
    redis_timeout_seconds: Seconds = 0.2
    redis_cache_ttl_seconds: int = Field(default=300, ge=1)
    redis_idempotency_ttl_seconds: int = Field(default=86_400, ge=1)
    cache_enabled: bool = True
    cache_sample_rate: float = Field(default=0.0, ge=0, le=1)

    # the API
    internal_api_key: SecretStr = SecretStr("")
    allowed_service_ids: Annotated[list[str], NoDecode] = ["api-gateway-service", "admin-dashboard-service"]
    api_timeout_seconds: Seconds = 30.0
    api_max_connections: int = Field(default=1_000, ge=1)
    api_receive_timeout_seconds: Seconds = 10.0
    api_send_timeout_seconds: Seconds = 60.0
    api_gzip_min_bytes: int = Field(default=1024 * 1024, ge=1)

    # the read model
    expected_phases: Annotated[list[Phase], NoDecode, Field(min_length=1)] = [Phase.SPELLCHECK, Phase.CJ_ASSESSMENT]
    results_grace_seconds: float = Field(default=60.0, ge=0)
    inbox_retention_hours: float = Field(default=168.0, gt=0)

    # bad messages
    max_message_bytes: int = Field(default=8 * 1024 * 1024, ge=1)
    store_poison_pills: bool = True
    poison_pill_ttl_seconds: int = Field(default=86_400, ge=1)
    raise_on_deserialization_error: bool = False

    # the outbox
    outbox_listen: bool = True
    outbox_poll_interval: Seconds = 5.0
    outbox_batch_size: int = Field(default=100, ge=1)
    outbox_max_attempts: int = Field(default=5, ge=1)
    outbox_send_timeout_seconds: Seconds = 30.0
    outbox_breaker_seconds: Seconds = 30.0
    outbox_retention_hours: float = Field(default=24.0, gt=0)
    outbox_parked_key_policy: Literal["block", "skip"] = "block"

    # tests of crashes
    failpoints: Annotated[tuple[Armed, ...], NoDecode] = ()

    @field_validator("failpoints", mode="before")
    @classmethod
    def _failpoints(cls, value: Any) -> Any:
        """Words separated by commas."""
        if not isinstance(value, str):
            return value
        return tuple(Armed.parse(word.strip()) for word in value.split(",") if word.strip())

    @model_validator(mode="after")
    def _no_failpoints_in_production(self) -> Self:
        if self.failpoints and self.environment == "production":
            raise ValueError("FAILPOINTS: not where ENVIRONMENT is production, as it is unless set: unset FAILPOINTS")
        return self

    @field_validator("allowed_service_ids", "expected_phases", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        """A JSON list, or words separated by commas."""
        if not isinstance(value, str):
            return value
        if value.lstrip().startswith("["):
            try:
                return json.loads(value)
            except ValueError as error:
                raise ValueError(f"not a JSON list: {error}") from None
        return [word.strip() for word in value.split(",") if word.strip()]

    @field_validator("allowed_service_ids")
    @classmethod
    def _somebody_may_ask(cls, value: list[str]) -> list[str]:
        # An empty id is what a caller has that names none.
        if not all(value) or not value:
            raise ValueError("names no service, or one without a name; name each service that may ask")
        return value

    @field_validator("redis_url")
    @classmethod
    def _redis_url(cls, value: SecretStr) -> SecretStr:
        parts = urlsplit(value.get_secret_value())
        if parts.scheme not in _REDIS_SCHEMES:
            raise ValueError("not a URL of Redis; expected redis://, rediss:// (TLS) or unix://")
        try:
            _ = parts.port
        except ValueError as error:
            raise ValueError(f"not a URL: {error}") from None
        for option in parse_qs(parts.query, keep_blank_values=True):
            if option.startswith("ssl_") and option not in _REDIS_TLS_OPTIONS:
                raise ValueError(
                    f"{option} is not taken: the certificate and its host name are always verified, "
                    "with REDIS_SSL_CA_FILE or what the system trusts"
                )
        return value

    @field_validator("kafka_group_instance_id")
    @classmethod
    def _none_if_empty(cls, value: str | None) -> str | None:
        """Compose files pass on a variable that is not set as an empty one."""
        return value or None

    @model_validator(mode="after")
    def _api_key_is_set(self) -> Self:
        if not self.internal_api_keys and self.environment != "development":
            raise ValueError("INTERNAL_API_KEY: is not set; it has a default only where ENVIRONMENT is development")
        if self.kafka_security_protocol.startswith("SASL") and not (
            self.kafka_sasl_username and self.kafka_sasl_password
        ):
            raise ValueError(f"KAFKA_SASL_USERNAME: {self.kafka_security_protocol} needs it and KAFKA_SASL_PASSWORD")
        return self

    @model_validator(mode="after")
    def _client_certificates_fit_their_keys(self) -> Self:
        if self.kafka_ssl_cert_file is not None:
            _present_certificate("KAFKA_SSL_CERT_FILE", self._kafka_ssl)
        elif self.kafka_ssl_key_file is not None:
            raise ValueError("KAFKA_SSL_KEY_FILE: is of no use without KAFKA_SSL_CERT_FILE")
        _present_certificate("REDIS_URL", self.redis_ssl)
        return self

    @property
    def internal_api_keys(self) -> tuple[str, ...]:
        """The keys that are valid now: several while they are being rotated."""
        keys = tuple(key.strip() for key in self.internal_api_key.get_secret_value().split(",") if key.strip())
        if not keys and self.environment == "development":
            return (DEVELOPMENT_API_KEY,)
        return keys

    def kafka_client_options(self) -> dict[str, Any]:
        """What every Kafka client of the service is made with."""
        options: dict[str, Any] = {
            "bootstrap_servers": self.kafka_bootstrap_servers,
            "security_protocol": self.kafka_security_protocol,
        }
        if self.kafka_security_protocol in ("SSL", "SASL_SSL"):
            options["ssl_context"] = self._kafka_ssl()
        if self.kafka_security_protocol.startswith("SASL") and self.kafka_sasl_password:
            options["sasl_mechanism"] = self.kafka_sasl_mechanism
            options["sasl_plain_username"] = self.kafka_sasl_username
            options["sasl_plain_password"] = self.kafka_sasl_password.get_secret_value()
        return options

    def _kafka_ssl(self) -> ssl.SSLContext:
        context = client_context(self.kafka_ssl_ca_file)
        if self.kafka_ssl_cert_file:
            context.load_cert_chain(self.kafka_ssl_cert_file, self.kafka_ssl_key_file)
        return context

    def redis_ssl(self) -> ssl.SSLContext | None:
        """How Redis is to be trusted, and which certificate it is shown, if the URL asks for TLS."""
        parts = urlsplit(self.redis_url.get_secret_value())
        if parts.scheme != "rediss":
            return None
        context = client_context(self.redis_ssl_ca_file)
        options = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if "ssl_certfile" in options:
            context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"), options.get("ssl_password"))
        return context


class SecretFiles(PydanticBaseSettingsSource):
    """Secrets from files: `<NAME>_FILE` names the file that holds `<NAME>`; a line's end after it is not part of it."""

    SECRETS = frozenset({"database_url", "database_direct_url", "redis_url", "internal_api_key", "kafka_sasl_password"})

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """The secret's text, if a file is named for it."""
        for variable in (f"{PREFIX}{field_name.upper()}_FILE", f"{field_name.upper()}_FILE"):
            if variable in os.environ:
                try:
                    return Path(os.environ[variable]).read_text().rstrip("\r\n"), field_name, False
                except (OSError, UnicodeDecodeError) as error:
                    raise SettingsError(f"{variable}: cannot read {os.environ[variable]!r}: {error}") from None
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        """All secrets that files are named for."""
        found: dict[str, Any] = {}
        for name in self.SECRETS & self.settings_cls.model_fields.keys():
            value, _, _ = self.get_field_value(self.settings_cls.model_fields[name], name)
            if value is not None:
                # Under the name that the other sources give it; under another, `.env` would win.
                found[f"{PREFIX}{name.upper()}"] = value
        return found


def _present_certificate(name: str, context: Callable[[], object]) -> None:
    """Make a TLS context, to see that the client's own certificate can be read and fits its key."""
    try:
        context()
    except ssl.SSLError as error:
        raise ValueError(f"{name}: no certificate with the key that fits it: {error.reason or 'no PEM'}") from None
    except OSError as error:
        raise ValueError(f"{name}: the certificate or its key cannot be read: {error.strerror}") from None


def _complaint(location: tuple[int | str, ...], message: str) -> str:
    """One setting's trouble; pydantic's text names no value, so no secret shows."""
    message = message.removeprefix("Value error, ")
    if not location:
        return message
    name = str(location[0]).removeprefix(PREFIX).upper()
    return f"{name}: {'is not set' if message == 'Field required' else message}"
