"""The service as production starts it: a process of its own, settings in its environment, nothing in between."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import httpx

from embedded.process import LOOPBACK, free_port, launch, plain_environment
from tests.integration.service.wiring import KEY
from tests.servers import CHECKOUT
from tests.waiting import eventually

CREDENTIALS = {"X-Internal-API-Key": KEY, "X-Service-ID": "api-gateway-service"}


class ServiceProcess:
    """`python -m result_aggregator_service`; killed at the end of the block if it still runs."""

    def __init__(self, folder: Path, **settings: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._log = folder / f"service-{time.monotonic_ns()}.log"
        self.port = free_port()
        self.environment = {"PORT": str(self.port), "METRICS_PORT": str(free_port()), "INTERNAL_API_KEY": KEY}
        self.environment |= settings
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        tracing = {name: given for name, given in os.environ.items() if name.startswith("COVERAGE_")}
        environment = {**plain_environment(), **tracing, "PYTHONPATH": str(CHECKOUT), **self.environment}
        command = [sys.executable, "-m", "result_aggregator_service"]
        self._process = launch(command, log=self._log, environment=environment)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None
        return self._process

    async def get(self, path: str) -> httpx.Response:
        """An answer of its API; AssertionError if there is none."""
        assert self.process.poll() is None, self.output()
        try:
            async with httpx.AsyncClient(timeout=10.0, headers=CREDENTIALS) as client:
                return await client.get(f"http://{LOOPBACK}:{self.port}{path}")
        except httpx.TransportError as error:
            raise AssertionError(f"no answer: {error!r}") from error

    async def answers(self, path: str, status: int, *, within: float = 30.0) -> dict[str, Any]:
        """The JSON of an answer, once it comes with this status."""

        async def probe() -> dict[str, Any]:
            response = await self.get(path)
            assert response.status_code == status, response.text
            document: dict[str, Any] = response.json()
            return document

        return await eventually(probe, within=within, what=f"{status} for {path}")

    async def metric(self, sample: str) -> float:
        """The value of one sample of its metrics; 0 if it is not there yet."""
        for line in (await self.get("/metrics")).text.splitlines():
            if line.startswith(f"{sample} "):
                return float(line.removeprefix(f"{sample} "))
        return 0.0

    def output(self) -> str:
        """Everything that it wrote."""
        return self._log.read_text()

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one kind; the last one may still be being written."""
        whole, _, _ = self.output().rpartition("\n")
        lines = [json.loads(line) for line in whole.splitlines() if line.startswith("{")]
        return [line for line in lines if line.get("event") == event]

    async def ended(self, *, within: float) -> int:
        """Its exit status, once it ends by itself."""

        def ended() -> bool:
            assert self.process.poll() is not None, self.output()
            return True

        await eventually(ended, within=within, what="the end of the process")
        return self.process.returncode

    async def terminated(self, *, within: float, number: signal.Signals = signal.SIGTERM) -> int:
        """Its exit status after a signal."""
        self.process.send_signal(number)
        return await self.ended(within=within)


async def in_thread(work: Any, *arguments: Any) -> None:
    """Blocking work on a server, beside the loop."""
    await asyncio.to_thread(work, *arguments)
