"""Runs the migrations against DATABASE_URL, online; a lock not had in time is an error, never a queue behind it."""

import asyncio
import sys

from sqlalchemy import Connection, event, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from alembic import context
from result_aggregator_service.settings import DatabaseSettings, SettingsError
from result_aggregator_service.storage.tables import metadata

LOCK_TIMEOUT = "5s"


def limit_waits(connection: Connection) -> None:
    """Local to the transaction: behind a pooler the session is lent to others after each."""
    connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))


def run(connection: Connection) -> None:
    """Run the migrations in one transaction each."""
    event.listen(connection, "begin", limit_waits)
    context.configure(
        connection=connection, target_metadata=metadata, compare_server_default=True, transaction_per_migration=True
    )
    with context.begin_transaction():
        context.run_migrations()


async def migrate() -> None:
    """Connect directly where that is possible. Nothing is prepared by name, so that a pooler will do as well."""
    settings = DatabaseSettings.load()
    connect_args: dict[str, object] = {"statement_cache_size": 0}
    if tls := settings.postgres_ssl():
        connect_args["ssl"] = tls
    engine = create_async_engine(settings.postgres_direct_url, poolclass=NullPool, connect_args=connect_args)
    try:
        async with engine.connect() as connection:
            await connection.run_sync(run)
            await connection.commit()
    finally:
        await engine.dispose()


if context.is_offline_mode():
    sys.exit("alembic: only online migrations are supported: set DATABASE_URL and leave out --sql")
try:
    asyncio.run(migrate())
except SettingsError as error:
    sys.exit(f"alembic: {error}")
