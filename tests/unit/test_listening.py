"""The tests' own server leaves nothing open, in whatever turn of the event loop it ends."""

import asyncio
import gc
import socket

import pytest

from tests.listening import listening

LAST_TURN = 5


@pytest.mark.parametrize("turns", range(LAST_TURN + 1))
def test_a_connection_that_is_just_being_accepted_is_handed_over_and_not_leaked(turns: int) -> None:
    accepted: list[asyncio.StreamWriter] = []

    def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.append(writer)
        writer.transport.abort()

    async def listen(client: socket.socket) -> None:
        async with listening(accept) as port:
            client.connect(("127.0.0.1", port))
            for _ in range(turns):
                await asyncio.sleep(0)
        handed_over = len(accepted)
        assert turns < LAST_TURN or handed_over == 1
        for _ in range(LAST_TURN):
            await asyncio.sleep(0)
        assert len(accepted) == handed_over

    with socket.socket() as client:
        asyncio.run(listen(client))
    accepted.clear()
    gc.collect()  # what was leaked is told of now
