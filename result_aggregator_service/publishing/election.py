"""Which replica publishes: the one that holds an advisory lock of PostgreSQL, on the connection it works on.

Two ways, one lock, so that replicas may differ. *A tenure* holds the lock for a session, listens for commits, and gives
signs of life: PostgreSQL ends a session that falls silent, and the lock with it, so that a replica that hangs, or whose
machine is gone, is replaced within seconds. *A turn* holds it for one transaction, and so passes through a proxy that
gives each transaction another session; nobody tells it of commits.

The lock elects but does not fence: what a deposed relay still sends arrives again under the same event id.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg

from result_aggregator_service.publishing.outbox_manager import NOTIFY_CHANNEL
from result_aggregator_service.publishing.outbox_queue import PLANS_OF_CLAIMS, OutboxQueue
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import connect_directly, connect_through_proxy
from result_aggregator_service.storage.errors import DATABASE_ERRORS

#: The advisory lock of the relay: the first eight bytes of SHA-256("result-aggregator-service/relay"), signed.
ELECTION_LOCK = -4_158_831_258_090_969_055
_RELEASED = "ras_relay_released"  # the channel on which one that resigns says so


class Election:
    """Where a relay is a candidate.

    Both ways raise OSError, TimeoutError or asyncpg's errors if PostgreSQL is away, and so does the queue they give.
    """

    def __init__(
        self,
        settings: Settings,
        queue: type[OutboxQueue] = OutboxQueue,
        *,
        seconds_between_tries: float = 1.0,
        # TCP alone keeps a session, and its locks, for hours when a machine is gone, and for good when a process hangs.
        seconds_of_silence: int = 10,
    ) -> None:
        self._settings = settings
        self._queue_type = queue
        self._seconds_between_tries = seconds_between_tries
        self._seconds_of_silence = seconds_of_silence

    @contextlib.asynccontextmanager
    async def tenure(
        self, *, stopping: asyncio.Event, wake: asyncio.Event, standing_by: Callable[[], None]
    ) -> AsyncIterator[OutboxQueue | None]:
        """Wait until elected, telling `standing_by` of it each second; None if it is to stop before it ever was.

        `wake` is set whenever there may be something to publish, or the tenure is over.
        """
        async with _open(connect_directly(self._settings)) as connection:
            released = asyncio.Event()
            await connection.add_listener(_RELEASED, lambda *_: released.set())
            await connection.execute(f"SET idle_session_timeout = '{self._seconds_of_silence}s'; SET {PLANS_OF_CLAIMS}")
            while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", ELECTION_LOCK):
                standing_by()
                await first_of(stopping, released, seconds=self._seconds_between_tries)
                if stopping.is_set():
                    yield None
                    return
                released.clear()
            await connection.add_listener(NOTIFY_CHANNEL, lambda *_: wake.set())
            connection.add_termination_listener(lambda *_: wake.set())
            queue = self._queue(connection)
            async with _signs_of_life(connection, queue, every=self._seconds_of_silence / 5):
                yield queue
            # A tenure that ends badly ends with its session, and so does the lock.
            await connection.execute(f"SELECT pg_advisory_unlock({ELECTION_LOCK})")
            await connection.execute(f"SELECT pg_notify('{_RELEASED}', '')")

    @contextlib.asynccontextmanager
    async def candidacy(self) -> AsyncIterator[asyncpg.Connection]:
        """A connection to take turns on."""
        async with _open(connect_through_proxy(self._settings)) as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def turn(self, connection: asyncpg.Connection) -> AsyncIterator[OutboxQueue | None]:
        """A transaction in which nobody else publishes; None if somebody else is publishing."""
        async with connection.transaction():
            await connection.execute(
                f"SET LOCAL idle_in_transaction_session_timeout = '{self._seconds_of_silence}s';"
                f"SET LOCAL {PLANS_OF_CLAIMS}"
            )
            if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", ELECTION_LOCK):
                yield None
                return
            queue = self._queue(connection)
            async with _signs_of_life(connection, queue, every=self._seconds_of_silence / 5):
                yield queue

    def _queue(self, connection: asyncpg.Connection) -> OutboxQueue:
        return self._queue_type(connection, parked_key_policy=self._settings.outbox_parked_key_policy)


async def first_of(*events: asyncio.Event, seconds: float) -> None:
    """Wait until one of the events is set, but no longer than that."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


@contextlib.asynccontextmanager
async def _open(connecting: Awaitable[asyncpg.Connection]) -> AsyncIterator[asyncpg.Connection]:
    connection = await connecting
    try:
        yield connection
    finally:
        with contextlib.suppress(*DATABASE_ERRORS):
            await connection.close(timeout=2)


@contextlib.asynccontextmanager
async def _signs_of_life(connection: asyncpg.Connection, queue: OutboxQueue, *, every: float) -> AsyncIterator[None]:
    """Keep the session from falling silent meanwhile; close it if PostgreSQL does not answer in time."""
    over = asyncio.Event()

    async def give() -> None:
        try:
            while True:
                await first_of(over, seconds=every)
                if over.is_set():
                    return
                async with asyncio.timeout(2.5 * every):
                    await queue.sign_of_life()
        except DATABASE_ERRORS:
            connection.terminate()

    giving = asyncio.create_task(give(), name="relay's signs of life")
    try:
        yield
    finally:
        over.set()  # not cancelled: that would take a transaction that is open with it
        await giving
