"""Connections to PostgreSQL. A session that may write is another type than one that may only read one snapshot."""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import NewType

import asyncpg
import orjson
import structlog
from sqlalchemy import URL, text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from result_aggregator_service.settings import Settings

_log = structlog.get_logger(__name__)

WriteSession = NewType("WriteSession", AsyncSession)
"""A session inside the one transaction of a unit of work; whoever is handed it neither begins nor commits."""

ReadSession = NewType("ReadSession", AsyncSession)
"""A session inside a read-only transaction that sees one snapshot throughout."""

# A replica that hangs in a transaction, or whose machine is gone, must not keep its locks from the others: TCP alone
# would let it for hours. Local to the transaction, so that it passes through a transaction-pooling proxy.
_END_IF_SILENT = text("SET LOCAL idle_in_transaction_session_timeout = '10s'")


def create_engine(settings: Settings) -> AsyncEngine:
    """The pool. Statements that outlive `DATABASE_COMMAND_TIMEOUT_SECONDS` fail; a connection is tried before use."""
    connect_args: dict[str, object] = {
        "timeout": 5,
        "command_timeout": settings.database_command_timeout_seconds,
        "server_settings": {"application_name": settings.service_name},
    }
    if tls := settings.postgres_ssl():
        connect_args["ssl"] = tls
    if settings.database_prepared_statements:
        # The driver counts from 1 in each process. Behind a pooler that keeps no statements, under one name there might
        # be another process's statement; so it is none at all, which is an error.
        process = secrets.token_hex(4)
        names = count(1)
        connect_args["prepared_statement_name_func"] = lambda: f"ras_{process}_{next(names):x}"
    else:
        # The driver then names no statement, and sends the text with each execution. SQLAlchemy's own cache stays: it
        # keeps what a statement takes and returns, which need not be asked for each time.
        connect_args["statement_cache_size"] = 0
    return create_async_engine(
        settings.postgres_url,
        pool_size=settings.database_pool_size,
        max_overflow=settings.database_max_overflow,
        pool_timeout=5,
        pool_pre_ping=True,
        pool_recycle=1800,
        json_serializer=lambda value: orjson.dumps(value).decode(),
        json_deserializer=orjson.loads,
        connect_args=connect_args,
    )


class Database:
    """Opens units of work, for writing and for reading."""

    def __init__(self, engine: AsyncEngine) -> None:
        self.engine = engine
        self._write = async_sessionmaker(engine, expire_on_commit=False)
        self._read = async_sessionmaker(
            engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True),
            expire_on_commit=False,
        )

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[WriteSession]:
        """One transaction: committed at the end of the block, rolled back if it raises or falls silent for 10 s."""
        async with self._write() as session, session.begin():
            await session.execute(_END_IF_SILENT)
            yield WriteSession(session)

    @asynccontextmanager
    async def snapshot(self) -> AsyncIterator[ReadSession]:
        """One read-only transaction: everything read in the block is of one moment."""
        async with self._read() as session, session.begin():
            yield ReadSession(session)


async def connect_directly(settings: Settings) -> asyncpg.Connection:
    """A connection of its own, kept: for LISTEN and session advisory locks, past any transaction-pooling proxy."""
    connection = await _connect(settings, settings.postgres_direct_url, "direct")
    try:
        await _tell_if_pooled(connection)
    except BaseException:
        connection.terminate()
        raise
    return connection


async def _tell_if_pooled(connection: asyncpg.Connection) -> None:
    """A pooler makes up the process id that it gives on connecting. One that pools sessions does no harm."""
    if connection.get_server_pid() != await connection.fetchval("SELECT pg_backend_pid()"):
        _log.warning(
            "direct_connection_is_pooled",
            reason="if sessions are lent by the transaction, wake-ups are lost and two relays may publish at once",
            mend="set DATABASE_DIRECT_URL to the database itself, or OUTBOX_LISTEN=false",
        )


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
