"""Connections to Redis kept at hand, on which commands are sent together.

To take a connection from the client's pool for each command, and to give it back, costs this process more than most
commands do.
"""

from collections.abc import Sequence
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

#: So many are kept out of the client's pool, which others need, too.
_KEPT = 16

Command = tuple[str | int | bytes, ...]


class KeptConnections:
    """The kept connections of one process."""

    def __init__(self) -> None:
        self._idle: list[AbstractConnection] = []

    async def exchange(self, commands: Sequence[Command], redis: Redis) -> list[Any]:
        """Send commands together; return their answers, for a refused one its ResponseError."""
        if self._idle:
            try:
                return await self._exchange(self._idle.pop(), commands, redis)
            except RedisConnectionError:
                # It may have died with the server's last process, and so may the others; once more, with a new one.
                while self._idle:
                    await _give_up(self._idle.pop(), redis)
        connection = await redis.connection_pool.get_connection()  # type: ignore[no-untyped-call]
        return await self._exchange(connection, commands, redis)

    async def _exchange(self, connection: AbstractConnection, commands: Sequence[Command], redis: Redis) -> list[Any]:
        try:
            await connection.send_packed_command(b"".join(map(_packed, commands)))
            answers = [await _answer(connection) for _ in commands]
        except BaseException:
            await _give_up(connection, redis)
            raise
        if len(self._idle) < _KEPT:
            self._idle.append(connection)
        else:
            await redis.connection_pool.release(connection)
        return answers


def _packed(command: Command) -> bytes:
    """A command as it is sent; the client's own way of writing one takes seven times as long."""
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub knows of one word only
    return packed


async def _answer(connection: AbstractConnection) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error


async def _give_up(connection: AbstractConnection, redis: Redis) -> None:
    """Give a connection back without what may still come on it."""
    await connection.disconnect(nowait=True)
    await redis.connection_pool.release(connection)
