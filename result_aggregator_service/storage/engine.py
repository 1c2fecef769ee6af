"""The pool of connections to PostgreSQL, units of work on it, and connections of their own past it."""

import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any, TypeVar

import asyncpg
import orjson
import structlog
from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.errors import DATABASE_ERRORS, spoils_connection
from result_aggregator_service.storage.pool import Lent, Pool
from result_aggregator_service.storage.session import DriverSession, ReadSession, Session, WriteSession

_log = structlog.get_logger(__name__)

Done = TypeVar("Done")

# A replica that hangs in a transaction, or whose machine is gone, must not keep its locks from the others: TCP alone
# would let it for hours. Local to the transaction, so that it passes through a transaction-pooling proxy.
#
# What is written is few rows, found by their keys, whatever the tables hold: one plan for all, made once. Left to
# decide, PostgreSQL plans anew each time as long as there are few keys, which takes several times as long as the work.
# As such a plan may be made while a table is empty, it is told to use the indexes; and not to compile for the costs
# that it then expects where there is no index.
_BEGIN_WRITING = """
BEGIN;
SET LOCAL idle_in_transaction_session_timeout = '10s';
SET LOCAL plan_cache_mode = force_generic_plan;
SET LOCAL enable_seqscan = off;
SET LOCAL jit = off
"""
_BEGIN_READING = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


def create_engine(settings: Settings) -> AsyncEngine:
    """The pool. Statements that outlive `DATABASE_COMMAND_TIMEOUT_SECONDS` fail."""
    connect_args: dict[str, object] = {
        "timeout": 5,
        "command_timeout": settings.database_command_timeout_seconds,
        "server_settings": {"application_name": settings.service_name},
        # A session keeps what it prepared; the driver keeps nothing beside it.
        "statement_cache_size": 0,
    }
    if tls := settings.postgres_ssl():
        connect_args["ssl"] = tls
    return create_async_engine(
        settings.postgres_url,
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_max_overflow,
        pool_recycle=1800,
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        connect_args=connect_args,
        execution_options={
            "prepared_statements": settings.database_prepared_statements,
            "connections": settings.database_pool_size + settings.database_max_overflow,
        },
    )


class Database:
    """Opens units of work, for writing and for reading."""

    def __init__(self, engine: AsyncEngine) -> None:
        # The driver's own names count from 1 in each process. Behind a pooler that keeps no statements, under one name
        # there might be another process's statement; so it is none at all, which is an error.
        self._prefix = f"ras_{secrets.token_hex(4)}_"
        self._numbers = count(1)
        self._prepares: bool = engine.get_execution_options().get("prepared_statements", True)
        self._pool = Pool(engine, self._name_of_next)

    async def close(self) -> None:
        """End all connections; no unit of work may be open."""
        await self._pool.close()

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        """One transaction: committed at the end of the block, rolled back if it raises or falls silent for 10 s."""
        async with self._unit_of_work(_BEGIN_WRITING) as session:
            yield WriteSession(session)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[ReadSession]:
        """One read-only transaction: everything read in the block is of one moment."""
        async with self._unit_of_work(_BEGIN_READING) as session:
            yield ReadSession(session)

    @asynccontextmanager
    async def single_statement(self) -> AsyncIterator[ReadSession]:
        """For one statement that reads: it sees one moment by itself, and needs no transaction round it."""
        yield ReadSession(_SingleStatements(self))

    @asynccontextmanager
    async def _unit_of_work(self, begin: str) -> AsyncIterator[DriverSession]:
        lent, _ = await self._begun(lambda session: session.driver.execute(begin))
        session = lent.session
        try:
            yield session
            # So, and by no error, PostgreSQL answers to the end of a transaction in which something failed.
            if await session.driver.execute("COMMIT") == "ROLLBACK":
                raise asyncpg.InFailedSQLTransactionError("nothing was committed: an error before was not heeded")
        except BaseException as error:
            # Given up in the middle, or of no use any more: the pool is not to have it again.
            if not isinstance(error, Exception) or spoils_connection(error) or not await _rolled_back(session):
                await self._pool.give_up(lent)
            else:
                await self._pool.give_back(lent)
            raise
        await self._pool.give_back(lent)

    async def run(self, sql: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        """Run SQL as the driver takes it, in no transaction but its own; it may only read, as it may be run again."""
        lent, rows = await self._begun(lambda session: session.fetch(sql, *arguments))
        await self._pool.give_back(lent)
        return rows

    def _name_of_next(self) -> str:
        """A name for what a session prepares next; none, if nothing is to outlive a transaction."""
        return f"{self._prefix}{next(self._numbers):x}" if self._prepares else ""

    async def _begun(self, begin: Callable[[DriverSession], Awaitable[Done]]) -> tuple[Lent, Done]:
        """Take a connection and begin on it: on another one, where one that was idle turns out dead.

        So none has to be tried before use. To begin over again has to do no harm.
        """
        while True:
            lent = await self._pool.take()
            try:
                return lent, await begin(lent.session)
            except BaseException as error:
                await self._pool.give_up(lent)
                if lent.is_new or not spoils_connection(error):
                    raise


async def _rolled_back(session: DriverSession) -> bool:
    try:
        await session.driver.execute("ROLLBACK")
    except DATABASE_ERRORS:
        return False
    return True


class _SingleStatements(Session):
    """Each statement by itself, on whatever connection is free."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        return await self._database.run(sql, *arguments)


async def connect_directly(settings: Settings) -> asyncpg.Connection:
    """A connection of its own, kept: for LISTEN and session advisory locks, past any transaction-pooling proxy."""
    connection = await _connect(settings, settings.postgres_direct_url, "direct")
    try:
        if await is_pooled(connection):
            _log.warning(
                "direct_connection_is_pooled",
                reason="if sessions are lent by the transaction, wake-ups are lost and two relays may publish at once",
                mend="set DATABASE_DIRECT_URL to the database itself, or OUTBOX_LISTEN=false",
            )
    except BaseException:
        connection.terminate()
        raise
    return connection


async def is_pooled(connection: asyncpg.Connection) -> bool:
    """Whether it is a pooler's: that makes up the process id which it gives on connecting."""
    there: int = await connection.fetchval("SELECT pg_backend_pid()")
    return connection.get_server_pid() != there


async def connect_through_proxy(settings: Settings) -> asyncpg.Connection:
    """A connection of its own, kept, that relies on nothing that outlives a transaction."""
    return await _connect(settings, settings.postgres_url, "turns", cached_statements=0)


async def _connect(settings: Settings, url: URL, what_for: str, *, cached_statements: int = 100) -> asyncpg.Connection:
    url = url.set(drivername="postgresql")
    query = dict(url.query)
    if "ssl" in query:
        query["sslmode"] = query.pop("ssl")
    return await asyncpg.connect(
        url.set(query=query).render_as_string(hide_password=False),
        ssl=settings.postgres_ssl(),
        timeout=5,
        command_timeout=settings.database_command_timeout_seconds,
        server_settings={"application_name": f"{settings.service_name} ({what_for})"},
        statement_cache_size=cached_statements,
    )
