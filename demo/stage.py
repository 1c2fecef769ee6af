"""The servers of the demo and the service itself, each a process of its own; nothing of it outlives this process.

Settings reach the service through its environment only, and it starts by the two commands production starts it by.
"""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import httpx

from embedded.mock_kafka import MockKafka
from embedded.postgres import EmbeddedPostgres
from embedded.process import LOOPBACK, ServerProcess, free_port, launch, plain_environment, run_tool, server_folder
from embedded.valkey import EmbeddedValkey

CHECKOUT = Path(__file__).resolve().parents[1]
_MIGRATION_TIMEOUT_SECONDS = 60.0


class ServiceProcess(ServerProcess):
    """`python -m result_aggregator_service`, ready when /readyz says so."""

    name: ClassVar[str] = "result-aggregator-service"
    start_timeout_seconds: ClassVar[float] = 45.0

    def __init__(self, data_dir: Path, settings: dict[str, str]) -> None:
        super().__init__(data_dir)
        self._settings = settings

    @property
    def url(self) -> str:
        """Where its API is."""
        return f"http://{LOOPBACK}:{self.port}"

    def _prepare(self, port: int) -> None:
        pass

    def environment(self) -> dict[str, str]:
        """The environment of the process; also that of a command which works on the same deployment."""
        return _environment(self._settings)

    def _launch(self, port: int) -> subprocess.Popen[bytes]:
        environment = {**self.environment(), "PORT": str(port), "METRICS_PORT": str(free_port())}
        return launch([sys.executable, "-m", "result_aggregator_service"], log=self.log, environment=environment)

    def _is_ready(self, process: subprocess.Popen[bytes], port: int) -> bool:
        try:
            return httpx.get(f"http://{LOOPBACK}:{port}/readyz", timeout=2.0).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False


@dataclass(frozen=True)
class Stage:
    """Where everything is, once it stands."""

    api_url: str
    api_key: str
    bootstrap_servers: str
    database_url: str
    service: ServiceProcess


@contextmanager
def stage(grace_seconds: float, **further_settings: str) -> Iterator[Stage]:
    """Start PostgreSQL, Valkey, the Kafka mock and the service; stop them in the opposite order.

    Raises:
        ServerError: one of them did not start; the message ends with the tail of its log.
    """
    with ExitStack() as running:
        folder = running.enter_context(server_folder("result-aggregator-demo-"))
        postgres = running.enter_context(EmbeddedPostgres(folder / "postgres", durable=False))
        valkey = running.enter_context(EmbeddedValkey(folder / "valkey"))
        kafka = running.enter_context(MockKafka())
        api_key = secrets.token_hex(16)
        settings = {
            "DATABASE_URL": postgres.url,
            "REDIS_URL": valkey.url,
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "INTERNAL_API_KEY": api_key,
            "HOST": LOOPBACK,
            "RESULTS_GRACE_SECONDS": f"{grace_seconds:g}",
            "OUTBOX_POLL_INTERVAL": "1",
            "LOG_LEVEL": "INFO",
            **further_settings,
        }
        migrate(postgres.url, log=folder / "alembic.log")
        service = running.enter_context(ServiceProcess(folder / "service", settings))
        yield Stage(service.url, api_key, kafka.bootstrap_servers, postgres.url, service)


def migrate(database_url: str, *, log: Path) -> None:
    """Give a database the newest schema.

    Raises:
        ServerError: it failed; the message ends with the tail of the log.
    """
    run_tool(
        "alembic upgrade head",
        [sys.executable, "-m", "alembic", "--config", str(CHECKOUT / "alembic.ini"), "upgrade", "head"],
        log=log,
        timeout_seconds=_MIGRATION_TIMEOUT_SECONDS,
        environment=_environment({"DATABASE_URL": database_url}),
    )


def _environment(settings: dict[str, str]) -> dict[str, str]:
    # The processes work in the data folder, where no `.env` of a developer lies, so they must be told of the checkout.
    tracing = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}
    return {**plain_environment(), **tracing, "PYTHONPATH": str(CHECKOUT), "PYTHONUNBUFFERED": "1", **settings}
