"""The system's PgBouncer in transaction mode, on 127.0.0.1: each transaction of a client may get another session.

Invariant: whoever connects is taken for the user of the URL that it was made with, so no password of its own is needed.
"""

import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import ClassVar
from urllib.parse import unquote, urlsplit

from embedded.process import LOOPBACK, ServerError, ServerProcess, launch, user_to_run_under


class EmbeddedPgBouncer(ServerProcess):
    """A PgBouncer before the PostgreSQL server of `url`, for each of its databases with `pool_size` sessions to share.

    Whatever its version, it keeps no prepared statements, which those before 1.21 cannot. Like PostgreSQL it refuses
    root, so its folder has to lie in one of `server_folder`. `settings` are further ones of pgbouncer.ini.
    """

    name: ClassVar[str] = "PgBouncer"
    # At once: from 1.23 on SIGTERM waits for the clients to leave.
    stop_signal: ClassVar[signal.Signals] = signal.SIGQUIT

    def __init__(
        self,
        data_dir: Path,
        url: str,
        port: int | None = None,
        *,
        pool_size: int = 3,
        settings: dict[str, str] | None = None,
    ) -> None:
        super().__init__(data_dir, port)
        self._server = urlsplit(url)
        self._settings = {
            "listen_addr": LOOPBACK,
            "unix_socket_dir": "",
            "auth_type": "any",
            "pool_mode": "transaction",
            "default_pool_size": str(pool_size),
            "max_client_conn": "500",
            **(settings or {}),
        }

    def url_for(self, url: str) -> str:
        """The URL of a database of the server, past this one."""
        return urlsplit(url)._replace(netloc=f"pgbouncer@{LOOPBACK}:{self.port}").geturl()

    @staticmethod
    def why_unavailable() -> str | None:
        """What this machine lacks, or None if nothing."""
        try:
            _binary()
        except ServerError as error:
            return str(error)
        return None

    def _prepare(self, port: int) -> None:
        server = self._server
        target = {
            "host": server.hostname or LOOPBACK,
            "port": server.port or 5432,
            "user": unquote(server.username or ""),
            "password": unquote(server.password or ""),
        }
        database = " ".join(f"{name}={_quoted(str(value))}" for name, value in target.items())
        lines = ["[databases]", f"* = {database}", "[pgbouncer]", f"listen_port = {port}"]
        lines += [f"{name} = {value}" for name, value in self._settings.items()]
        if _version() >= (1, 21):
            lines.append("max_prepared_statements = 0")
        self._configuration.unlink(missing_ok=True)
        self._configuration.touch(mode=0o600)
        self._configuration.write_text("\n".join(lines) + "\n")
        user = user_to_run_under()
        if user is not None:
            os.chown(self._configuration, *user)

    def _launch(self, port: int) -> subprocess.Popen[bytes]:
        return launch([_binary(), str(self._configuration)], log=self.log, user=user_to_run_under())

    def _is_ready(self, process: subprocess.Popen[bytes], port: int) -> bool:
        return "process up" in self.log_tail()

    @property
    def _configuration(self) -> Path:
        return self.data_dir / "pgbouncer.ini"


def _version() -> tuple[int, ...]:
    told = subprocess.run([_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    return tuple(int(number) for number in re.findall(r"\d+", told.splitlines()[0])[:2])


def _quoted(value: str) -> str:
    return "'{}'".format(value.replace("'", "''"))


def _binary() -> str:
    # Debian puts it where only root looks for programs.
    found = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise ServerError("no PgBouncer on this machine (apt-get install pgbouncer)")
    return found
