"""A TCP server in the test's own event loop."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from embedded.process import LOOPBACK

Accept = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None] | None]


@asynccontextmanager
async def listening(accept: Accept) -> AsyncIterator[int]:
    """The port on loopback of which every connection is handed over; once it ends, all that were accepted have been.

    Python 3.11 leaks a connection whose server is closed in the turn of the event loop in which it is accepted: it gets
    its transport in the next one only, and that asks for an open server. After one more it is handed over.
    """
    server = await asyncio.start_server(accept, LOOPBACK, 0)
    (listener,) = server.sockets
    try:
        yield listener.getsockname()[1]
    finally:
        asyncio.get_running_loop().remove_reader(listener.fileno())
        for _ in ("transport", "hand-over"):
            await asyncio.sleep(0)
        server.close()
