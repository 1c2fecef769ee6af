"""A TCP proxy on 127.0.0.1 that makes the faults of a network: latency, silence, refusals, resets.

Invariant: what passes on a connection passes once, whole and in order; only a connection that was cut or reset loses
what was under way. It keeps its port for good, and leaves neither thread nor socket behind.
"""

import asyncio
import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from embedded.process import LOOPBACK, ServerError, free_port

_CHUNK_BYTES = 65536
# For each direction of a connection; more is left to the sender, as a full network buffer does.
_BUFFERED_CHUNKS = 64
_PORT_TRIES = 5
_BACKLOG = 256
# On, for zero seconds: closing sends a reset and throws away what was not sent.
_LINGER_NOT = struct.pack("ii", 1, 0)

_Chunks = asyncio.Queue[tuple[float, bytes]]


@dataclass
class _Flow:
    """The bytes of one direction, over all connections."""

    passed: int = 0
    # How many more may pass before all connections are reset; None for any number.
    allowance: int | None = None


@dataclass(eq=False)
class _Connection:
    client: socket.socket
    server: socket.socket = field(default_factory=socket.socket)
    is_reset: bool = False

    def __post_init__(self) -> None:
        for end in (self.client, self.server):
            end.setblocking(False)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def close(self) -> None:
        for end in (self.client, self.server):
            if self.is_reset:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            else:
                # Before the close, which would be a reset where something was left unread.
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_WR)
            end.close()


class TcpProxy:
    """Passes connections to `target_port` on, until it is told otherwise.

    `delay`, `hang`, `cut` and `cut_after` last until `pass_on` and may be combined; `reset` is one blow. All methods
    may be called from any thread, block for milliseconds, and return when the fault is there. The target need not run:
    a connection to a dead one is accepted and reset. `port` is chosen at the first start if it is not given.
    """

    name = "TCP proxy"

    def __init__(self, target_port: int, port: int | None = None) -> None:
        self.target_port = target_port
        self._port = port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        # From here on, the loop's thread alone writes.
        self._listener: socket.socket | None = None
        self._connections: dict[_Connection, asyncio.Task[None]] = {}
        self._changed = asyncio.Event()
        self._delay_seconds = 0.0
        self._hanging = False
        self._to_server = _Flow()
        self._to_client = _Flow()
        self._accepted = 0
        self._resets = 0

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1 that clients connect to."""
        if self._port is None:
            raise ServerError(f"the {self.name} has no port before its first start")
        return self._port

    # What it has seen since it was made.

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._connections)

    @property
    def connections_accepted(self) -> int:
        return self._accepted

    @property
    def connections_reset(self) -> int:
        """How many `reset` and `cut_after` have ended."""
        return self._resets

    @property
    def bytes_to_server(self) -> int:
        return self._to_server.passed

    @property
    def bytes_to_client(self) -> int:
        return self._to_client.passed

    # Its life.

    def start(self) -> Self:
        """Listen, and pass on.

        Raises:
            ServerError: it runs already, or its port is taken.
        """
        if self._loop is not None:
            raise ServerError(f"the {self.name} runs already, on port {self.port}")
        for attempt in range(1, _PORT_TRIES + 1):
            port = free_port() if self._port is None else self._port
            try:
                self._listener = _listen(port)
            except ServerError:
                if self._port is not None or attempt == _PORT_TRIES:
                    raise
            else:
                self._port = port
                break
        self._loop = asyncio.SelectorEventLoop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"tcp-proxy-{self._port}", daemon=True)
        self._thread.start()
        self.pass_on()
        return self

    def stop(self) -> None:
        """Cut all connections and end; nothing happens if it does not run."""
        if self._loop is None or self._thread is None:
            return
        self.cut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._loop = self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    # The faults.

    def delay(self, seconds: float) -> None:
        """Let every byte arrive so much later, in each direction: a round trip takes twice that longer."""

        def change() -> None:
            self._delay_seconds = seconds

        self._apply(change)

    def hang(self) -> None:
        """Accept connections and keep those there are, but pass nothing, not even that an end was closed.

        What was sent meanwhile arrives after `pass_on`.
        """

        def change() -> None:
            self._hanging = True

        self._apply(change)

    def cut(self) -> None:
        """Close all connections in an orderly way, and refuse new ones."""

        def change() -> None:
            self._stop_listening()
            self._end_connections(reset=False)

        self._apply(change)

    def reset(self) -> None:
        """Reset all present connections in mid-flow; new ones are treated as before."""
        self._apply(lambda: self._end_connections(reset=True))

    def cut_after(self, count: int, *, from_client: bool = False) -> None:
        """Let so many more bytes from the server through, of all connections together; then reset all connections.

        The reset comes in place of the next byte: after `cut_after(0)` a request arrives and its answer does not. New
        connections pass again. With `from_client` the bytes to the server are counted, so that a request is cut short.
        """

        def change() -> None:
            (self._to_server if from_client else self._to_client).allowance = count

        self._apply(change)

    def pass_on(self) -> None:
        """End all faults.

        Raises:
            ServerError: after `cut`, somebody else has taken the port.
        """

        def change() -> None:
            self._delay_seconds = 0.0
            self._hanging = False
            self._to_server.allowance = self._to_client.allowance = None
            if self._listener is None:
                self._listener = _listen(self.port)
            asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)

        self._apply(change)

    # On the loop's thread.

    def _apply(self, change: Callable[[], None]) -> None:
        """Make a change there; returns when the connections that it ended are closed."""
        if self._loop is None:
            raise ServerError(f"the {self.name} does not run")

        async def applied() -> None:
            change()
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()
            ending = [task for task in self._connections.values() if task.cancelling()]
            if ending:
                await asyncio.wait(ending)

        asyncio.run_coroutine_threadsafe(applied(), self._loop).result()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _end_connections(self, *, reset: bool) -> None:
        for connection, task in self._connections.items():
            if not task.cancelling():
                connection.is_reset = reset
                self._resets += reset
                task.cancel()

    def _accept(self, listener: socket.socket) -> None:
        # A client may be gone again before it is accepted.
        with contextlib.suppress(BlockingIOError, ConnectionAbortedError):
            connection = _Connection(listener.accept()[0])
            self._accepted += 1
            task = self._connections[connection] = asyncio.get_running_loop().create_task(self._carry(connection))
            # Not in the task's own "finally", which one that is cancelled before its first step never reaches.
            task.add_done_callback(lambda _: self._close(connection))

    def _close(self, connection: _Connection) -> None:
        connection.close()
        del self._connections[connection]

    async def _carry(self, connection: _Connection) -> None:
        client, server = connection.client, connection.server
        try:
            await self._until_passing()
            await asyncio.get_running_loop().sock_connect(server, (LOOPBACK, self.target_port))
            async with asyncio.TaskGroup() as tasks:
                for source, sink, flow in ((client, server, self._to_server), (server, client, self._to_client)):
                    chunks = _Chunks(_BUFFERED_CHUNKS)
                    tasks.create_task(self._receive(source, chunks))
                    tasks.create_task(self._send(sink, chunks, flow))
        except* OSError:
            # One end was reset, or the target does not listen: that is passed on too.
            connection.is_reset = True

    async def _receive(self, source: socket.socket, chunks: _Chunks) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._until_passing()
            data = await loop.sock_recv(source, _CHUNK_BYTES)
            await chunks.put((loop.time(), data))
            if not data:
                return

    async def _send(self, sink: socket.socket, chunks: _Chunks, flow: _Flow) -> None:
        loop = asyncio.get_running_loop()
        while True:
            received_at, data = await chunks.get()
            await self._until_due(received_at)
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            allowed = data if flow.allowance is None else data[: flow.allowance]
            if flow.allowance is not None:
                flow.allowance -= len(allowed)
            await loop.sock_sendall(sink, allowed)
            flow.passed += len(allowed)
            if len(allowed) < len(data):
                flow.allowance = None
                self._end_connections(reset=True)
                return

    async def _until_passing(self) -> None:
        while self._hanging:
            await self._changed.wait()

    async def _until_due(self, received_at: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._until_passing()
            early_by = received_at + self._delay_seconds - loop.time()
            if early_by <= 0:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), early_by)


def _listen(port: int) -> socket.socket:
    try:
        listener = socket.create_server((LOOPBACK, port), backlog=_BACKLOG)
    except OSError as error:
        raise ServerError(f"the TCP proxy cannot listen on port {port}: {error.strerror}") from error
    listener.setblocking(False)
    return listener
