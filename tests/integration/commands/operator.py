"""An operator at a terminal: types a command of the service, in a process of its own, and sees how it ends.

The processes are forked from one that has imported the service once, which takes longer than most commands.
"""

import contextlib
import fcntl
import multiprocessing
import os
import signal
import struct
import sys
import tempfile
import termios
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import eventually

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["result_aggregator_service.__main__"])


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    out: bytes
    err: bytes


class Typed:
    """A command that runs."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], folder: Path) -> None:
        self._out, self._err = folder / "out", folder / "err"
        self._out.touch()
        self._err.touch()
        self._process = _FORKS.Process(target=_type, args=(arguments, environment, self._out, self._err), daemon=True)
        self._process.start()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process.pid is not None
        os.kill(self._process.pid, number)

    async def ended(self, *, within: float = 90.0) -> Ended:
        """How it ended, once it has."""

        def has_ended() -> bool:
            assert self._process.exitcode is not None, self._err.read_bytes()
            return True

        await eventually(has_ended, within=within, what="the end of the command")
        return Ended(self._process.exitcode or 0, self._out.read_bytes(), self._err.read_bytes())

    def kill(self) -> None:
        """End it, if it still runs."""
        self._process.kill()
        self._process.join()


class Operator:
    """Types `python -m result_aggregator_service <command> ...` under an environment."""

    def __init__(self, command: str, environment: Mapping[str, str]) -> None:
        self._command = command
        self._environment = environment

    async def __call__(self, *arguments: str, **changed: str) -> Ended:
        """Type it and wait for its end; `changed` are variables for this once."""
        with self.typing(*arguments, **changed) as typed:
            return await typed.ended()

    async def on_terminal(self, *arguments: str, columns: int = 80) -> bytes:
        """What a terminal so wide shows of a command, which succeeds. Less than its buffer holds: some 4,000 bytes."""
        here, there = os.openpty()
        try:
            fcntl.ioctl(there, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
            device = Path(os.ttyname(there))
            process = _FORKS.Process(
                target=_type, args=([self._command, *arguments], {**self._environment, "COLUMNS": ""}, device, device)
            )
            process.start()
            try:
                await eventually(lambda: process.exitcode is not None, within=90, what="the end of the command")
            finally:
                process.kill()
                process.join()
            shown = os.read(here, 65_536)
            assert process.exitcode == 0, shown
            return shown
        finally:
            os.close(here)
            os.close(there)

    @contextlib.contextmanager
    def typing(self, *arguments: str, **changed: str) -> Iterator[Typed]:
        """A command that runs in the block."""
        with tempfile.TemporaryDirectory() as folder:
            typed = Typed([self._command, *arguments], {**self._environment, **changed}, Path(folder))
            try:
                yield typed
            finally:
                typed.kill()


def _type(arguments: Sequence[str], environment: Mapping[str, str], out: Path, err: Path) -> None:
    """In the new process: what `python -m result_aggregator_service` does."""
    from result_aggregator_service.__main__ import main

    for path, descriptor in ((out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_NOCTTY), descriptor)
    # The streams that were inherited take what they write to for what it was when they were made.
    sys.stdout, sys.stderr = (os.fdopen(descriptor, "w", closefd=False) for descriptor in (1, 2))
    os.environ.update(environment)
    # multiprocessing lets go of SIGINT in its children; a shell does not.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(list(arguments), prog_name="result-aggregator-service")
