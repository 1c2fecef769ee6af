"""One server process: started, watched until it answers, paused, killed, stopped, started again on the same port.

Invariant: a server never outlives the process that started it (on Linux not even when that one is killed), and no
signal is ever sent to a process that this module did not start.
"""

import atexit
import contextlib
import os
import pwd
import queue
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

LOOPBACK = "127.0.0.1"
_LAUNCH = Path(__file__).with_name("launch.py")
_POLL_SECONDS = 0.01
_PORT_TRIES = 5
_LOG_TAIL_LINES = 30
# Ports below the range from which the kernel takes the local ports of outgoing connections.
_LOWEST_PORT = 20_000
_DEFAULT_EPHEMERAL_START = 32_768
_RESERVATIONS_KEPT = 100
_reservations: deque[socket.socket] = deque()


class ServerError(RuntimeError):
    """A server could not be started or stopped; the message ends with the tail of its log."""


class _PortTakenError(ServerError):
    """The server died because another process holds its port."""


def free_port() -> int:
    """A TCP port on loopback that nobody holds, and that no other call gives out for a while, in any process.

    Not one of the kernel's ephemeral ports where that can be helped: while a server is down for an outage test, a
    client that keeps connecting to such a port can be given that very port as its own and meet itself.
    """
    system_random = random.SystemRandom()
    try:
        ephemeral_start = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        ephemeral_start = _DEFAULT_EPHEMERAL_START
    if ephemeral_start > _LOWEST_PORT + 1000:
        for _ in range(50):
            port = system_random.randrange(_LOWEST_PORT, ephemeral_start)
            if _reserve(port) is not None:
                return port
    any_port = _reserve(0)
    if any_port is None:
        raise ServerError("no TCP port on loopback is free")
    return any_port


def _reserve(port: int) -> int | None:
    """Bind the port, or any for 0, and keep it bound; None if somebody else has it.

    A server is slow to start, and until it listens the port would seem to be free. It is not disturbed: beside a socket
    that is bound but does not listen, another that sets SO_REUSEADDR too, as servers do, may be bound.
    """
    reservation = socket.socket()
    try:
        reservation.bind((LOOPBACK, port))
    except OSError:
        reservation.close()
        return None
    reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if len(_reservations) == _RESERVATIONS_KEPT:
        _reservations.popleft().close()
    _reservations.append(reservation)
    return int(reservation.getsockname()[1])


@atexit.register
def _release() -> None:
    while _reservations:
        _reservations.pop().close()


@contextlib.contextmanager
def server_folder(prefix: str = "embedded-servers-") -> Iterator[Path]:
    """A new folder for the data of servers, removed at the end.

    It lies in a temporary folder that every user of the machine can pass through: as root PostgreSQL runs under another
    user, to whom a folder below /root, or pytest's `tmp_path`, is closed.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=_open_temp_folder()))
    try:
        if os.geteuid() == 0:
            folder.chmod(0o711)
        yield folder
    finally:
        shutil.rmtree(folder)


def _open_temp_folder() -> Path:
    candidates = [Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")]
    for candidate in candidates:
        if candidate.is_dir() and os.access(candidate, os.W_OK) and first_closed_folder(candidate) is None:
            return candidate
    return candidates[0]


def first_closed_folder(path: Path) -> Path | None:
    """The first folder on the way to `path` (itself included) that other users may not enter; None if none is."""
    resolved = path.resolve()
    for folder in [*reversed(resolved.parents), resolved]:
        if folder.is_dir() and not folder.stat().st_mode & 0o001:
            return folder
    return None


def user_to_run_under() -> tuple[int, int] | None:
    """User and group id for a server that refuses root: None if this is another user already.

    Raises:
        ServerError: there is no such user. It has to have a name, since PostgreSQL's initdb asks for it.
    """
    if os.geteuid() != 0:
        return None
    for name in ("nobody", "daemon"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise ServerError("running as root, this server needs another user to run as: neither nobody nor daemon exists")


_Fork = Callable[[], subprocess.Popen[bytes]]


class _ForkingThread:
    """A thread that lasts as long as the process and starts all its servers.

    The kernel sends the parent-death signal when the *thread* that forked ends. Were a server started from a worker
    thread, it would be killed as soon as that one is done.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[tuple[_Fork, Future[subprocess.Popen[bytes]]]] = queue.SimpleQueue()
        threading.Thread(target=self._serve, name="embedded-servers", daemon=True).start()

    def _serve(self) -> None:
        while True:
            call, future = self._calls.get()
            try:
                future.set_result(call())
            except BaseException as error:  # noqa: BLE001 - it is raised again in the thread that asked
                future.set_exception(error)

    def run(self, call: _Fork) -> subprocess.Popen[bytes]:
        future: Future[subprocess.Popen[bytes]] = Future()
        self._calls.put((call, future))
        return future.result()


@cache
def _forking_thread(pid: int) -> _ForkingThread:
    """The one of this process: a forked child has none of its parent's threads."""
    return _ForkingThread()


def launch(
    command: Sequence[str],
    *,
    log: Path,
    environment: dict[str, str] | None = None,
    user: tuple[int, int] | None = None,
    namespace: int | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` so that it ends with this process, is out of reach of the terminal's Ctrl-C, and logs to a file.

    It works in the folder of its log. `user` is a user id and a group id to run under (for root only), `namespace` the
    pid of a process whose mounts it is to see. The first item of `command` is an absolute path.
    """
    user_id, group_id = ("-", "-") if user is None else (str(user[0]), str(user[1]))
    conditions = [str(os.getpid()), "-" if namespace is None else str(namespace), user_id, group_id]
    launcher = [sys.executable, "-I", "-S", str(_LAUNCH), *conditions, *command]

    def fork() -> subprocess.Popen[bytes]:
        with log.open("ab") as output:
            return subprocess.Popen(
                launcher,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=log.parent,
                env=plain_environment() if environment is None else environment,
                start_new_session=True,
            )

    return _forking_thread(os.getpid()).run(fork)


def run_tool(
    name: str,
    command: Sequence[str],
    *,
    log: Path,
    timeout_seconds: float,
    environment: dict[str, str] | None = None,
    user: tuple[int, int] | None = None,
) -> None:
    """Run a program that prepares a server to its end, under the same conditions as `launch`.

    Raises:
        ServerError: it failed or took too long.
    """
    start = log.stat().st_size if log.exists() else 0
    process = launch(command, log=log, environment=environment, user=user)
    try:
        status = process.wait(timeout_seconds)
    except subprocess.TimeoutExpired:
        raise ServerError(f"{name} did not end within {timeout_seconds:g} s\n{log_tail(log, start)}") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if status != 0:
        raise ServerError(f"{name} ended with status {status}\n{log_tail(log, start)}")


def plain_environment() -> dict[str, str]:
    """An environment in which no variable of the caller (PGPORT, KAFKA_OPTS, a language) changes what a server does."""
    # The last one is for the Python that runs launch.py, which may not find its own library without.
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def descendants(pid: int) -> list[int]:
    """The pids of all processes below `pid`: PostgreSQL's children are process groups of their own."""
    children: dict[int, list[int]] = {}
    for child, parent, _ in _processes():
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _processes() -> list[tuple[int, int, str]]:
    """Pid, parent's pid and state (a letter) of each process of the machine."""
    if not Path("/proc/self/stat").exists():
        command = ["ps", "-A", "-o", "pid=", "-o", "ppid=", "-o", "state="]
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        lines = [line.split() for line in listing.splitlines()]
        return [(int(pid), int(parent), state[0]) for pid, parent, state in lines]
    found = []
    for name in filter(str.isdigit, os.listdir("/proc")):
        # A process may end while it is looked at.
        with contextlib.suppress(OSError):
            # Its name, in parentheses, may hold anything; state and parent follow it.
            state, parent = Path("/proc", name, "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            found.append((int(name), int(parent), state))
    return found


def _signal_all(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _is_gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    # What has ended but was not yet collected by its own parent still has a pid.
    return any(child == pid and state in "ZX" for child, _, state in _processes())


# Reads its standard input: a byte means that the pause is over; the end of the file, that the pausing process has died.
# Then it kills the paused ones, which, being stopped, would not notice the death of their own parent.
_PAUSE_WATCH = """
import os, signal, sys
if not os.read(0, 1):
    for pid in sys.argv[1:]:
        try:
            os.kill(int(pid), signal.SIGKILL)
        except ProcessLookupError:
            pass
"""


def log_tail(log: Path, start: int = 0) -> str:
    """The last lines of a log, leaving out what lies before the byte `start`."""
    try:
        with log.open("rb") as content:
            content.seek(start)
            text = content.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    return "\n".join(text.splitlines()[-_LOG_TAIL_LINES:])


class ServerProcess(ABC):
    """A server under our control. Blocking; in async code call its methods through `asyncio.to_thread`."""

    name: ClassVar[str]
    start_timeout_seconds: ClassVar[float] = 30.0
    stop_timeout_seconds: ClassVar[float] = 30.0
    stop_signal: ClassVar[signal.Signals] = signal.SIGTERM

    def __init__(self, data_dir: Path, port: int | None = None) -> None:
        self.data_dir = data_dir.absolute()
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._pause_watch: subprocess.Popen[bytes] | None = None
        self._paused: list[int] = []
        self._log_start = 0

    # What a server has to say.

    @abstractmethod
    def _prepare(self, port: int) -> None:
        """Make what the server needs on disk where it is not there yet; called before each start."""

    @abstractmethod
    def _launch(self, port: int) -> subprocess.Popen[bytes]:
        """Start the process by `launch`, logging to `self.log`."""

    @abstractmethod
    def _is_ready(self, process: subprocess.Popen[bytes], port: int) -> bool:
        """Whether `process`, and not a stranger on its port, accepts requests."""

    # What a server offers.

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1, chosen at the first start and kept from then on."""
        if self._port is None:
            raise ServerError(f"{self.name} has no port before its first start")
        return self._port

    @property
    def log(self) -> Path:
        return self.data_dir / f"{self.name.lower().replace(' ', '-')}.log"

    @property
    def pid(self) -> int | None:
        """The process id while the server runs."""
        return None if self._process is None or self._process.poll() is not None else self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process exists, paused or not."""
        return self.pid is not None

    def start(self) -> Self:
        """Start the server, on the port and data it had before if any; returns when it accepts requests.

        Raises:
            ServerError: it died, or was not ready within `start_timeout_seconds`.
        """
        if self.is_running:
            raise ServerError(f"{self.name} runs already, on port {self.port}")
        self.data_dir.mkdir(parents=True, exist_ok=True)
        tries = _PORT_TRIES if self._port is None else 1
        for attempt in range(1, tries + 1):
            port = free_port() if self._port is None else self._port
            try:
                self._start_on(port)
            except _PortTakenError:
                if attempt == tries:
                    raise
            else:
                self._port = port
                break
        return self

    def _start_on(self, port: int) -> None:
        self._prepare(port)
        self._log_start = self.log.stat().st_size if self.log.exists() else 0
        process = self._process = self._launch(port)
        deadline = time.monotonic() + self.start_timeout_seconds
        try:
            while True:
                # Asked before the process is looked at: a stranger may hold the port of one that has just died.
                ready = self._is_ready(process, port)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(0 if ready else _POLL_SECONDS)
                if process.returncode is not None:
                    taken = "Address already in use" in self.log_tail()
                    raise (_PortTakenError if taken else ServerError)(
                        f"{self.name} ended with status {process.returncode} on start\n{self.log_tail()}"
                    )
                if ready:
                    return
                if time.monotonic() > deadline:
                    raise ServerError(
                        f"{self.name} was not ready after {self.start_timeout_seconds:g} s\n{self.log_tail()}"
                    )
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        """Ask the server to end, and wait; nothing happens if it does not run.

        Raises:
            ServerError: it did not end within `stop_timeout_seconds`, and was killed.
        """
        process = self._process
        if process is None:
            return
        self.resume()
        process.send_signal(self.stop_signal)
        try:
            process.wait(self.stop_timeout_seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise ServerError(
                f"{self.name} did not stop within {self.stop_timeout_seconds:g} s and was killed\n{self.log_tail()}"
            ) from None
        self._process = None

    def kill(self) -> None:
        """SIGKILL to the server and its children, as when the machine loses power; returns when all have ended."""
        process = self._process
        if process is None:
            return
        family: list[int] = []
        if process.poll() is None:
            # Stopped first, so that it starts no more children while they are looked for.
            process.send_signal(signal.SIGSTOP)
            family = descendants(process.pid)
            process.kill()
            _signal_all(family, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + self.stop_timeout_seconds
        while not all(_is_gone(pid) for pid in family):
            if time.monotonic() > deadline:
                raise ServerError(f"children of the killed {self.name} are still there: {family}")
            time.sleep(_POLL_SECONDS)
        self._end_pause_watch()
        self._paused = []
        self._process = None

    def pause(self) -> None:
        """SIGSTOP to the server and its children: connections stay open and nothing answers."""
        process = self._process
        if process is None or process.poll() is not None:
            raise ServerError(f"{self.name} does not run, so it cannot be paused")
        if self._paused:
            return
        process.send_signal(signal.SIGSTOP)
        children = descendants(process.pid)
        _signal_all(children, signal.SIGSTOP)
        self._paused = [process.pid, *children]
        if children:
            self._pause_watch = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _PAUSE_WATCH, *map(str, children)],
                stdin=subprocess.PIPE,
                start_new_session=True,
            )

    def resume(self) -> None:
        """SIGCONT to what `pause` stopped; nothing happens if it is not paused."""
        self._end_pause_watch()
        children, self._paused = self._paused[1:], []
        if self._process is not None and self._process.poll() is None:
            # The parent last: only it collects children that have ended, so until then their pids stay theirs.
            _signal_all(children, signal.SIGCONT)
            self._process.send_signal(signal.SIGCONT)

    def _end_pause_watch(self) -> None:
        watch, self._pause_watch = self._pause_watch, None
        if watch is not None:
            watch.communicate(b".")

    def log_tail(self) -> str:
        """The last lines that the server logged since its last start."""
        return log_tail(self.log, self._log_start)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
