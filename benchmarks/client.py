"""The load of the reads: HTTP/1.1 over kept connections. Status and length of every answer are checked.

Written for this, because a general client costs more for each request than the service does.
"""

import asyncio
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle

from benchmarks.errors import LoadError
from benchmarks.worker import Order, Took

_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_WITHOUT_BODY = (204, 304)
_SECONDS_TO_ANSWER = 60.0


@dataclass(frozen=True, slots=True)
class Load(Order):
    """What to ask, and what every answer must be. `requests` are paths with their headers; they are asked in turn, on
    each connection one after another.
    """

    host: str
    port: int
    requests: Sequence[tuple[str, Mapping[str, str]]]
    connections: int
    seconds: float
    status: int
    length: int

    async def run(self) -> Took:
        """Ask; done when the last answer has come.

        Raises:
            LoadError: an answer was not the expected one, or did not come; the text begins with the first of the paths.
        """
        try:
            return await _asked(self)
        except (LoadError, OSError, TimeoutError) as error:
            raise LoadError(f"{self.requests[0][0]}: {type(error).__name__}: {error}") from error


async def _asked(load: Load) -> Took:
    loop = asyncio.get_running_loop()
    run = _Run(load, cycle([_request(load, path, headers) for path, headers in load.requests]))
    connections = []
    for _ in range(load.connections):
        _, connection = await loop.create_connection(lambda: _Connection(run), load.host, load.port)
        connections.append(connection)
    started = time.perf_counter()
    run.deadline = started + load.seconds
    for connection in connections:
        connection.ask()
    async with asyncio.timeout(load.seconds + _SECONDS_TO_ANSWER):
        await asyncio.gather(*(connection.done for connection in connections))
    return Took(len(run.latencies), time.perf_counter() - started, sorted(run.latencies))


def _request(load: Load, path: str, headers: Mapping[str, str]) -> bytes:
    lines = [f"GET {path} HTTP/1.1", f"Host: {load.host}:{load.port}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode()


@dataclass
class _Run:
    """What the connections of one load share."""

    load: Load
    requests: Iterator[bytes]
    deadline: float = 0.0
    latencies: list[float] = field(default_factory=list)


class _Connection(asyncio.Protocol):
    """One connection: a question, its answer, the next question, until the time is over."""

    _transport: asyncio.Transport

    def __init__(self, run: _Run) -> None:
        self._run = run
        self._head = b""
        self._missing: int | None = None  # bytes of the body; None: its head is not complete
        self._asked_at = 0.0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self) -> None:
        """Send the next request."""
        self._head, self._missing = b"", None
        self._asked_at = time.perf_counter()
        self._transport.write(next(self._run.requests))

    def data_received(self, data: bytes) -> None:
        if self._missing is None:
            self._head += data
            head, end, body = self._head.partition(b"\r\n\r\n")
            if not end:
                return
            try:
                self._missing = self._length(head) - len(body)
            except LoadError as error:
                self._end(error)
                return
        else:
            self._missing -= len(data)
        if self._missing > 0:
            return
        now = time.perf_counter()
        self._run.latencies.append(now - self._asked_at)
        if self._missing < 0:
            self._end(LoadError("an answer is longer than it said"))
        elif now < self._run.deadline:
            self.ask()
        else:
            self._end(None)

    def _length(self, head: bytes) -> int:
        load, status = self._run.load, int(head[9:12])
        if status != load.status:
            raise LoadError(f"the answer is {status}, not {load.status}: {head!r}")
        if status in _WITHOUT_BODY:
            return 0
        found = _LENGTH.search(head)
        if found is None or int(found[1]) != load.length:
            raise LoadError(f"the answer is not of {load.length} bytes: {head!r}")
        return load.length

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(LoadError(f"the server closed the connection: {exc}"))

    def _end(self, error: Exception | None) -> None:
        if not self.done.done():
            if error is None:
                self.done.set_result(None)
            else:
                self.done.set_exception(error)
        self._transport.close()
