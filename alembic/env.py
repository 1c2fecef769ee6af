"""Runs the migrations against DATABASE_URL, online, one run at a time.

Invariant: nobody waits for longer than LOCK_TIMEOUT behind a statement that waits for its lock. One that has none by
then lets all pass, and its migration is tried again. What has been migrated stays; what was broken off is undone.
"""

import asyncio
import random
import sys

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from alembic import context
from result_aggregator_service.settings import DatabaseSettings, SettingsError
from result_aggregator_service.storage.tables import metadata

LOCK_TIMEOUT = "2s"
STATEMENT_TIMEOUT = "60s"
TRIES = 30
SECONDS_BETWEEN_TRIES = (1.0, 4.0)
LOCK_NOT_AVAILABLE = "55P03"
#: The advisory lock of a run: the first eight bytes of SHA-256("result-aggregator-service/migrations"), signed.
RUN_LOCK = -6_628_998_299_067_967_003


def limit_waits(connection: Connection) -> None:
    """Local to the transaction: behind a pooler the session is lent to others after each."""
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
    connection.execute(text(f"SET LOCAL statement_timeout = '{STATEMENT_TIMEOUT}'"))


def run(connection: Connection) -> None:
    """Run the migrations in one transaction each."""
    event.listen(connection, "begin", limit_waits)
    context.configure(
        connection=connection, target_metadata=metadata, compare_server_default=True, transaction_per_migration=True
    )
    with context.begin_transaction():
        context.run_migrations()


async def migrate_patiently(engine: AsyncEngine) -> None:
    """Begin again where a lock was not had in time, at most TRIES times."""
    for tries_left in reversed(range(TRIES)):
        try:
            async with engine.connect() as connection:
                await connection.run_sync(run)
                await connection.commit()
            return
        except DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) != LOCK_NOT_AVAILABLE or not tries_left:
                raise
        await told_to_wait("a table is in use")


async def told_to_wait(why: str) -> None:
    """Wait a while that no other run waits as well, and say so."""
    seconds = random.uniform(*SECONDS_BETWEEN_TRIES)
    sys.stderr.write(f"alembic: {why}: trying again in {seconds:.1f} s\n")
    sys.stderr.flush()
    await asyncio.sleep(seconds)


async def migrate() -> None:
    """Connect directly where that is possible. Nothing is prepared by name, so that a pooler will do as well."""
    settings = DatabaseSettings.load()
    connect_args: dict[str, object] = {"statement_cache_size": 0}
    if tls := settings.postgres_ssl():
        connect_args["ssl"] = tls
    engine = create_async_engine(settings.postgres_direct_url, poolclass=NullPool, connect_args=connect_args)
    try:
        async with engine.connect() as turn:
            # Asked for again and again: who waits for it holds a snapshot, for which an index made concurrently waits.
            # It belongs to a transaction, so that it holds behind a pooler, too.
            while not await turn.scalar(text(f"SELECT pg_try_advisory_xact_lock({RUN_LOCK})")):
                await turn.rollback()
                await told_to_wait("another run migrates")
            # The driver's portal is kept until its next statement, and with it a snapshot. This one needs none.
            await turn.execute(text("SAVEPOINT locked"))
            await migrate_patiently(engine)
    finally:
        await engine.dispose()


if context.is_offline_mode():
    sys.exit("alembic: only online migrations are supported: set DATABASE_URL and leave out --sql")
try:
    asyncio.run(migrate())
except SettingsError as error:
    sys.exit(f"alembic: {error}")
