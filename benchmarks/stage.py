"""The servers, the service and the bare route, each a process of its own; nothing of them outlives this process."""

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import httpx

from benchmarks import bare
from demo.stage import CHECKOUT, ServiceProcess, migrate
from embedded import (
    ApacheKafka,
    EmbeddedPostgres,
    EmbeddedValkey,
    MockKafka,
    ServerError,
    ServerProcess,
    server_folder,
)
from embedded.process import LOOPBACK, descendants, launch, plain_environment

GROUP_ID = "result-aggregator-group"
_REQUEST_SECONDS = 60.0


class BareProcess(ServerProcess):
    """`python -m benchmarks.bare` with these answers."""

    name: ClassVar[str] = "bare Quart"

    def __init__(self, data_dir: Path, answers: Mapping[str, bare.Recorded]) -> None:
        super().__init__(data_dir)
        self._answers = answers

    def _prepare(self, port: int) -> None:
        bare.write(self.data_dir / "answers.json", self._answers)

    def _launch(self, port: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "benchmarks.bare", str(port), str(self.data_dir / "answers.json")]
        return launch(command, log=self.log, environment={**plain_environment(), "PYTHONPATH": str(CHECKOUT)})

    def _is_ready(self, process: subprocess.Popen[bytes], port: int) -> bool:
        try:
            return httpx.get(f"http://{LOOPBACK}:{port}/", timeout=2.0).status_code == httpx.codes.NOT_FOUND
        except httpx.HTTPError:
            return False


@dataclass(frozen=True)
class Stage:
    """The servers, and what the service is told of them."""

    folder: Path
    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    kafka: MockKafka | ApacheKafka
    credentials: Mapping[str, str]
    settings: Mapping[str, str]

    @contextmanager
    def service(self, **settings: str) -> Iterator[ServiceProcess]:
        """The service, for a while."""
        with ServiceProcess(self.folder / "service", {**self.settings, **settings}) as service:
            yield service

    def api(self, service: ServiceProcess) -> httpx.Client:
        """A client of the service."""
        return httpx.Client(
            base_url=service.url, headers=dict(self.credentials), timeout=_REQUEST_SECONDS, trust_env=False
        )


@contextmanager
def stage(*, writes: bool = False, postgres_settings: dict[str, str] | None = None) -> Iterator[Stage]:
    """PostgreSQL with the newest schema, Valkey, the Kafka mock.

    Where `writes` are what is measured, it is Apache Kafka, and PostgreSQL waits for the disk. The settings are further
    lines of postgresql.conf.

    Raises:
        ServerError: one of them did not start.
    """
    with ExitStack() as running:
        folder = running.enter_context(server_folder("result-aggregator-benchmark-"))
        postgres = running.enter_context(
            EmbeddedPostgres(folder / "postgres", durable=writes, settings=postgres_settings)
        )
        valkey = running.enter_context(EmbeddedValkey(folder / "valkey"))
        kafka: MockKafka | ApacheKafka = ApacheKafka(folder / "kafka") if writes else MockKafka()
        running.enter_context(kafka)
        migrate(postgres.url, log=folder / "alembic.log")
        key = secrets.token_hex(16)
        settings = {
            "DATABASE_URL": postgres.url,
            "REDIS_URL": valkey.url,
            "KAFKA_BOOTSTRAP_SERVERS": kafka.bootstrap_servers,
            "KAFKA_CONSUMER_GROUP_ID": GROUP_ID,
            "INTERNAL_API_KEY": key,
            "HOST": LOOPBACK,
        }
        credentials = {"X-Internal-API-Key": key, "X-Service-ID": "api-gateway-service"}
        yield Stage(folder, postgres, valkey, kafka, credentials, settings)


def cpu_seconds(server: ServerProcess) -> float:
    """What a server has used so far: all threads of its process, its children, and those of them that have ended.

    Raises:
        ServerError: it does not run.
    """
    if server.pid is None:
        raise ServerError(f"{server.name} does not run")
    ticks = 0
    for pid in (server.pid, *descendants(server.pid)):
        # Of PostgreSQL's processes one may end while they are looked at; then its parent has its time.
        with suppress(FileNotFoundError, ProcessLookupError):
            # Its name, in parentheses, may hold anything; fields 14 to 17 are the times, own and of children (proc(5)).
            fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))
    return ticks / os.sysconf("SC_CLK_TCK")
