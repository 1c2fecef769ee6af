"""One replica of the service: a process of its own that is started, doomed, killed and looked at from outside."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx

from demo.stage import ServiceProcess
from torture.waiting import TortureError, wait_until

API_KEY = "key-of-the-torture"
_CREDENTIALS = {"X-Internal-API-Key": API_KEY, "X-Service-ID": "api-gateway-service"}
_REQUEST_SECONDS = 10.0
_COMMAND_SECONDS = 600.0


class Replica(ServiceProcess):
    """A process of the service; `settings` may be changed between its starts."""

    def __init__(self, name: str, folder: Path, settings: dict[str, str]) -> None:
        super().__init__(folder / name, {**settings, "INTERNAL_API_KEY": API_KEY})
        self.label = name
        self.settings = self._settings
        self._awaited = True

    def start_unawaited(self, **settings: str) -> None:
        """Start it, with further settings for this one start, without waiting until it is ready: it may never be."""
        usual = self._settings
        self._settings, self._awaited = {**usual, **settings}, False
        try:
            self.start()
        finally:
            self._settings, self._awaited = usual, True

    def _is_ready(self, process: subprocess.Popen[bytes], port: int) -> bool:
        return not self._awaited or super()._is_ready(process, port)

    def is_ready(self) -> bool:
        """Whether /readyz says that it can serve."""
        try:
            return httpx.get(f"{self.url}/readyz", timeout=_REQUEST_SECONDS).status_code == httpx.codes.OK
        except httpx.HTTPError:
            return False

    def wait_until_ready(self, within: float = 60.0) -> None:
        """Wait until /readyz says that it can serve."""
        wait_until(self.is_ready, within=within, what=f"{self.label} is ready\n{self.log_tail()}")

    def death_within(self, seconds: float) -> int | None:
        """Its exit status, negative for the signal that ended it; None if it still lives after so many seconds."""
        if self._process is None:
            raise TortureError(f"{self.label} was not started")
        try:
            status = self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return None
        self._process = None
        return status

    def run_command(self, *arguments: str, **settings: str) -> None:
        """Run an operator's command with this replica's settings, some of them changed, to its end.

        Raises:
            TortureError: its status was not 0.
        """
        done = subprocess.run(
            [sys.executable, "-m", "result_aggregator_service", *arguments],
            env={**self.environment(), **settings},
            cwd=self.data_dir,
            capture_output=True,
            text=True,
            timeout=_COMMAND_SECONDS,
            check=False,
        )
        if done.returncode != 0:
            raise TortureError(f"{' '.join(arguments)} ended with {done.returncode}\n{done.stderr[-2000:]}")

    def get(self, path: str) -> httpx.Response:
        """An answer of its API.

        Raises:
            httpx.HTTPError: there was none.
        """
        return httpx.get(f"{self.url}{path}", timeout=_REQUEST_SECONDS, headers=_CREDENTIALS)

    def metric(self, sample: str) -> float:
        """The value of one sample of its metrics, labels included; 0 where it has none or does not answer."""
        try:
            text = self.get("/metrics").text
        except httpx.HTTPError:
            return 0.0
        values = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f"{sample} ")]
        return float(values[0]) if values else 0.0

    def logged(self, event: str) -> list[dict[str, Any]]:
        """The log lines of one kind, of all its starts."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        found = [json.loads(line) for line in lines if line.startswith("{") and f'"{event}"' in line]
        return [line for line in found if line.get("event") == event]
