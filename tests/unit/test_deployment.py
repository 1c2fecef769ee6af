"""The files of the deployment agree with the service and with each other, as far as can be seen without an engine."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from result_aggregator_service.settings import PREFIX, Settings

CHECKOUT = Path(__file__).resolve().parents[2]
DOCKERFILE = (CHECKOUT / "Dockerfile").read_text()
COMPOSE = (CHECKOUT / "docker-compose.yml").read_text()
EXAMPLE = (CHECKOUT / "deploy" / ".env.example").read_text()
SECRETS = {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "INTERNAL_API_KEY"}
APPLICATION = "result-aggregator-service"


def test_every_setting_that_compose_gives_the_service_is_one() -> None:
    given = _environment("migrations") | _environment(APPLICATION)

    tracing = set(re.findall(r"`(OTEL_[A-Z_]+)[`=]", (CHECKOUT / "docs" / "tracing.md").read_text()))
    assert given.keys() <= _names_of_settings() | tracing
    assert {
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "DATABASE_URL",
        "KAFKA_BOOTSTRAP_SERVERS",
        "REDIS_URL",
        "INTERNAL_API_KEY",
    } <= given.keys()


def test_every_setting_that_the_image_and_the_docs_name_is_one() -> None:
    image = set(re.findall(r"^ {4}([A-Z_]+)=", DOCKERFILE.rpartition("FROM ")[2], re.MULTILINE))
    rows = re.findall(r"^\| (`[A-Z].*?) \|", (CHECKOUT / "docs" / "deployment.md").read_text(), re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`([A-Z_]+)`", row)}

    assert image >= {"PORT", "METRICS_PORT"}
    assert image - {"PYTHONUNBUFFERED", "PYTHONDONTWRITEBYTECODE", "HOME"} <= _names_of_settings()
    assert documented
    assert documented <= _names_of_settings()


@pytest.mark.parametrize("name", ["PORT", "METRICS_PORT"])
def test_the_ports_are_the_ones_of_the_settings(name: str) -> None:
    default = str(Settings.model_fields[name.lower()].default)

    assert f"{name}={default}" in DOCKERFILE
    assert _environment(APPLICATION)[name] == default
    assert re.search(rf"^EXPOSE .*\b{default}\b", DOCKERFILE, re.MULTILINE)


def test_prometheus_asks_the_metrics_port_of_the_service() -> None:
    port = _environment(APPLICATION)["METRICS_PORT"]

    assert f'"{APPLICATION}:{port}"' in (CHECKOUT / "deploy" / "prometheus.yml").read_text()


def test_the_service_is_given_the_time_to_drain_before_it_is_killed() -> None:
    drain = float(_environment(APPLICATION)["SHUTDOWN_TIMEOUT_SECONDS"])
    grace = re.search(r"stop_grace_period: (\d+)s", _service(APPLICATION))

    assert grace is not None
    assert float(grace[1]) >= 1.5 * drain + 5


def test_kafka_takes_messages_that_are_too_large_for_the_service_so_that_quarantine_shows_them() -> None:
    assert int(_environment("kafka")["KAFKA_MESSAGE_MAX_BYTES"]) > Settings.model_fields["max_message_bytes"].default


def test_images_are_pinned_by_tag_and_name_no_registry() -> None:
    images = re.findall(r"^ +image: (\S+)$", COMPOSE, re.MULTILINE)
    images += re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)

    assert len(images) == 7
    for image in images:
        name, _, tag = image.removeprefix("${RAS_IMAGE:-").removesuffix("}").rpartition(":")
        assert tag not in ("", "latest")
        assert re.fullmatch(r"[a-z0-9-]+(/[a-z0-9-]+)?", name)
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${PYTHON_IMAGE}"}


def test_no_secret_is_in_the_files() -> None:
    for secret in SECRETS:
        uses = re.findall(rf"\$\{{{secret}(.)(.)", COMPOSE)
        assert uses
        assert set(uses) == {(":", "?")}, f"{secret} has a default"
        assert re.search(rf"^{secret}=$", EXAMPLE, re.MULTILINE)


def test_the_example_names_every_variable_that_compose_reads_with_the_default_that_it_has() -> None:
    defaults = dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", COMPOSE))
    shown = dict(re.findall(r"^#?([A-Z_]+)=(.*)$", EXAMPLE, re.MULTILINE))

    assert shown == defaults | dict.fromkeys(SECRETS, "")


def test_a_wrong_or_missing_secret_is_told_of_with_its_mend() -> None:
    for mend in re.findall(r"\$\{[A-Z_]+:\?([^}]*)\}", COMPOSE):
        assert "cp deploy/.env.example .env" in mend


@pytest.mark.parametrize("name", ["postgres", "redis", "kafka", APPLICATION, "prometheus", "grafana"])
def test_every_server_has_a_health_check(name: str) -> None:
    assert re.search(r"^ {4}healthcheck:\n {6}test:", _service(name), re.MULTILINE)


@pytest.mark.parametrize("name", ["migrations", APPLICATION])
def test_the_service_and_its_migrations_can_change_nothing_in_their_container_and_gain_no_rights(name: str) -> None:
    application = COMPOSE.partition("\nx-application: &application\n")[2].partition("\n\n")[0]
    defaults = COMPOSE.partition("\nx-defaults: &defaults\n")[2].partition("\n\n")[0]

    assert _service(name).startswith("    <<: *application\n")
    assert application.startswith("  <<: *defaults\n")
    assert "  read_only: true\n" in application
    assert application.endswith("  cap_drop: [ALL]")
    assert '  security_opt: ["no-new-privileges:true"]\n' in defaults
    for undone in ("read_only", "cap_add", "security_opt", "privileged", "user", "volumes"):
        assert f"\n    {undone}:" not in _service(name), undone


@pytest.mark.parametrize("name", ["prometheus", "grafana"])
def test_what_watches_starts_with_its_profile_only_and_can_change_nothing(name: str) -> None:
    service = _service(name)

    assert "    profiles: [observability]\n" in service
    assert "    read_only: true\n" in service
    assert "    cap_drop: [ALL]\n" in service
    mounted = re.findall(r"^ {6}- \./(\S+):(\S+):ro$", service, re.MULTILINE)
    assert mounted
    for path, _ in mounted:
        assert (CHECKOUT / path).exists(), path


def test_the_service_starts_after_its_servers_and_the_migrations() -> None:
    waits = dict(re.findall(r"^ {6}([a-z]+): \{ condition: (\w+) \}$", _service(APPLICATION), re.MULTILINE))

    assert waits == {
        "migrations": "service_completed_successfully",
        "postgres": "service_healthy",
        "kafka": "service_healthy",
        "redis": "service_healthy",
    }


def test_the_image_ends_as_another_user_than_root_and_without_a_shell_between() -> None:
    last_stage = DOCKERFILE.rpartition("FROM ")[2]

    assert re.search(r"^USER [1-9]\d*:[1-9]\d*$", last_stage, re.MULTILINE)
    assert 'CMD ["python", "-m", "result_aggregator_service"]' in last_stage
    assert "RUN" not in last_stage


def test_the_image_is_built_with_the_same_pdm_as_the_checkout() -> None:
    packages = re.search(r"^PDM_PACKAGES := (.+)$", (CHECKOUT / "Makefile").read_text(), re.MULTILINE)

    assert packages is not None
    assert packages[1] in DOCKERFILE


def test_only_what_the_image_needs_reaches_the_build() -> None:
    lines = [line for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)

    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == {name for names in copied for name in names.split()}


def _names_of_settings() -> set[str]:
    return {prefix + name.upper() for name in Settings.model_fields for prefix in ("", PREFIX)}


def _service(name: str) -> str:
    """The lines of one service of the compose file, which indents by two."""
    return _block(COMPOSE.partition("\nservices:\n")[2], name, 2)


def _environment(service: str) -> dict[str, str]:
    return dict(_entries(_block(_service(service), "environment", 4)))


def _entries(block: str) -> Iterator[tuple[str, str]]:
    for line in block.splitlines():
        name, colon, value = line.strip().partition(": ")
        if colon and not name.startswith("#"):
            yield name, value.strip('"')


def _block(text: str, key: str, indent: int) -> str:
    margin = " " * indent
    found = re.search(rf"^{margin}{key}:\n((?:{margin} .*\n|\n)+)", text, re.MULTILINE)
    assert found is not None, f"{key} is not there"
    return found[1]
