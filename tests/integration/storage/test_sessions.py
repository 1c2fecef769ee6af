"""Sessions on the pool: one moment, all or nothing, and no connection that something has happened to is used again."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import MultipleResultsFound, NoResultFound

from result_aggregator_service.storage.batch_reader import BatchReader
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.errors import DATABASE_ERRORS
from tests.integration.storage.projection import Projection
from tests.unit.domain import messages as say

READER = BatchReader()
_NUMBERS = text("SELECT n FROM generate_series(1, :count) AS n")
_PID = text("SELECT pg_backend_pid()")
_END = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid = ANY($1)"
_MADE = text("SELECT count(*) FROM pending_invalidations")
_MAKE = text("INSERT INTO pending_invalidations (batch_id) VALUES ('b')")


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """One beside the pool."""
    own = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    yield own
    await own.close()


async def connections_used(database: Database, number: int = 1) -> list[int]:
    """The server's processes of so many transactions at once."""
    all_begun = asyncio.Barrier(number)

    async def one() -> int:
        async with database.snapshot() as session:
            pid = int(await session.scalar(_PID))
            await all_begun.wait()
            return pid

    return sorted(await asyncio.gather(*(one() for _ in range(number))))


# What is read and written.


async def test_everything_is_of_one_moment(projection: Projection) -> None:
    await projection.poll(say.registered(["e1"], "b1"))
    async with projection.database.snapshot() as session:
        before = await READER.versions(session, ["b1"])
        await projection.poll(say.spellcheck("e1", "b1"))
        assert await READER.versions(session, ["b1"]) == before
    async with projection.database.snapshot() as session:
        assert await READER.versions(session, ["b1"]) != before


async def test_nothing_can_be_written_by_who_reads(database: Database) -> None:
    with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
        async with database.snapshot() as session:
            await session.execute(_MAKE)


async def fails(database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(_MAKE)
        raise LookupError


async def is_refused(database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(_MAKE)
        await session.execute(text("SELECT FROM nowhere"))


async def does_not_heed_a_refusal(database: Database) -> None:
    async with database.transaction() as session:
        await session.execute(_MAKE)
        with contextlib.suppress(asyncpg.UndefinedTableError):
            await session.execute(text("SELECT FROM nowhere"))


@pytest.mark.parametrize(
    ("does", "error"),
    [
        (fails, LookupError),
        (is_refused, asyncpg.UndefinedTableError),
        (does_not_heed_a_refusal, asyncpg.InFailedSQLTransactionError),
    ],
)
async def test_what_raises_is_taken_back_and_its_connection_used_again(
    database: Database, does: Callable[[Database], Awaitable[None]], error: type[Exception]
) -> None:
    used = await connections_used(database)
    with pytest.raises(error):
        await does(database)
    assert await connections_used(database) == used
    async with database.snapshot() as session:
        assert await session.scalar(_MADE) == 0


async def test_what_is_not_one_value_is_not_taken_for_one(database: Database) -> None:
    async with database.snapshot() as session:
        assert list(await session.scalars(_NUMBERS, {"count": 3})) == [1, 2, 3]
        assert await session.scalar(_NUMBERS, {"count": 1}) == 1
        assert (await session.scalars(_NUMBERS, {"count": 0})).one_or_none() is None
        assert (await session.execute(_NUMBERS, {"count": 0})).one_or_none() is None
        with pytest.raises(NoResultFound):
            (await session.scalars(_NUMBERS, {"count": 0})).one()
        with pytest.raises(MultipleResultsFound):
            (await session.execute(_NUMBERS, {"count": 2})).one_or_none()


async def test_a_single_statement_leaves_no_transaction_behind(
    database: Database, connection: asyncpg.Connection
) -> None:
    async with database.single_statement() as session:
        pid = await session.scalar(_PID)
    assert await connection.fetchval("SELECT state FROM pg_stat_activity WHERE pid = $1", pid) == "idle"


# Connections that something has happened to.


async def test_connections_that_died_in_the_pool_are_replaced_before_anybody_notices(
    database: Database, connection: asyncpg.Connection
) -> None:
    for read in ("transaction", "snapshot", "single_statement"):
        pids = await connections_used(database, 4)
        await connection.execute(_END, pids)
        async with getattr(database, read)() as session:
            assert await session.scalar(_PID) not in pids


async def test_a_connection_that_dies_in_a_transaction_is_an_error_and_not_used_again(
    database: Database, connection: asyncpg.Connection
) -> None:
    used = await connections_used(database)

    async def dies() -> None:
        async with database.transaction() as session:
            await session.execute(_MAKE)
            await connection.execute(_END, used)
            await session.execute(_MAKE)

    with pytest.raises(DATABASE_ERRORS):
        await dies()
    assert await connections_used(database) != used
    assert await connection.fetchval(_MADE.text) == 0


async def test_a_transaction_that_is_given_up_in_the_middle_leaves_nothing(
    database: Database, connection: asyncpg.Connection
) -> None:
    used = await connections_used(database)
    made = asyncio.Event()

    async def sleeps() -> None:
        async with database.transaction() as session:
            await session.execute(_MAKE)
            made.set()
            await session.execute(text("SELECT pg_sleep(600)"))

    sleeping = asyncio.create_task(sleeps())
    await made.wait()
    sleeping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sleeping
    assert await connections_used(database) != used
    assert await connection.fetchval(_MADE.text) == 0


async def test_what_a_migration_made_of_a_table_is_read_by_who_knew_it_before(
    database: Database, connection: asyncpg.Connection
) -> None:
    everything = text("SELECT * FROM pending_invalidations")
    async with database.single_statement() as session:
        assert (await session.execute(everything)).all() == []
    await connection.execute("ALTER TABLE pending_invalidations ADD COLUMN further integer")
    async with database.single_statement() as session:
        assert (await session.execute(everything)).all() == []
    await connection.execute("ALTER TABLE pending_invalidations DROP COLUMN further")
    with pytest.raises(asyncpg.InvalidCachedStatementError):
        async with database.snapshot() as reading:
            await reading.execute(everything)
    async with database.snapshot() as reading:
        assert (await reading.execute(everything)).all() == []
