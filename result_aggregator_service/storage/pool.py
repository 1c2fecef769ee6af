"""Connections to PostgreSQL, lent and given back; those that are idle are kept at hand for the next who needs one.

SQLAlchemy's pool makes them, counts them and ends them. But each time one is taken from it or given back it changes to
another stack, and so costs this process as much again as a small statement does. Who has to wait, waits here: there a
connection given back may go past those who wait.
"""

import asyncio
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import cast

import asyncpg
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import QueuePool

from result_aggregator_service.storage.session import DriverSession

#: Then SQLAlchemy's pool has a connection again, which replaces those that are old.
SECONDS_KEPT = 60.0
#: For a connection, where as many are lent as there may be.
SECONDS_TO_WAIT = 5.0


@dataclass(frozen=True, slots=True)
class Lent:
    """A connection, the session on it, whether it was made just now, and until when it may be kept (monotonic)."""

    connection: AsyncConnection
    session: DriverSession
    is_new: bool
    keep_until: float


class Pool:
    """Lends connections; `name` gives what a session calls a statement that it prepares."""

    def __init__(
        self,
        engine: AsyncEngine,
        name: Callable[[], str],
        *,
        seconds_kept: float = SECONDS_KEPT,
        seconds_to_wait: float = SECONDS_TO_WAIT,
    ) -> None:
        self._engine = engine
        self._name = name
        self._seconds_kept = seconds_kept
        self._seconds_to_wait = seconds_to_wait
        self._idle: list[Lent] = []
        self._is_closed = False
        self._limit: int = engine.get_execution_options().get("connections", sys.maxsize)
        self._may_be_lent = asyncio.Semaphore(self._limit)

    async def take(self) -> Lent:
        """A connection, as yet untried: one that was idle may be dead.

        Raises:
            TimeoutError: all are lent, and none was given back in time.
            asyncpg.PostgresError, OSError: none could be made.
        """
        if self._may_be_lent.locked():
            await self._wait()
        else:
            await self._may_be_lent.acquire()
        try:
            return self._idle.pop() if self._idle else await self._made()
        except BaseException:
            self._may_be_lent.release()
            raise

    async def give_back(self, lent: Lent) -> None:
        """Give back a connection that is outside any transaction."""
        if self._is_closed:
            await self.give_up(lent)
            return
        try:
            if len(self._idle) < self._size() and time.monotonic() < lent.keep_until:
                self._idle.append(replace(lent, is_new=False) if lent.is_new else lent)
            else:
                await lent.connection.close()
        finally:
            self._may_be_lent.release()

    async def give_up(self, lent: Lent) -> None:
        """End a connection that is of no use any more, or of which that is not known."""
        try:
            await lent.connection.invalidate()
            await lent.connection.close()
        finally:
            self._may_be_lent.release()

    async def close(self) -> None:
        """End all connections: those that are lent as soon as they are given back."""
        self._is_closed = True
        while self._idle:
            await self._idle.pop().connection.close()
        await self._engine.dispose()

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(self._seconds_to_wait):
                await self._may_be_lent.acquire()
        except TimeoutError:
            raise TimeoutError(
                f"all {self._limit} connections to PostgreSQL are in use, and none became free within "
                f"{self._seconds_to_wait:g} s; DATABASE_POOL_SIZE and DATABASE_MAX_OVERFLOW say how many there may be"
            ) from None

    async def _made(self) -> Lent:
        """One that SQLAlchemy's pool still has, or a new one."""
        connection = await self._engine.connect()
        try:
            pooled = await connection.get_raw_connection()
            is_new = not pooled.info
            driver = cast("asyncpg.Connection[asyncpg.Record]", pooled.driver_connection)
            session = DriverSession(driver, pooled.info.setdefault("prepared", {}), self._name)
        except BaseException:
            await connection.invalidate()
            await connection.close()
            raise
        return Lent(connection, session, is_new, time.monotonic() + self._seconds_kept)

    def _size(self) -> int:
        """How many connections SQLAlchemy's pool would keep."""
        return self._engine.pool.size() if isinstance(self._engine.pool, QueuePool) else 0
