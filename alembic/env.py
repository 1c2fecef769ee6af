"""Runs the migrations against DATABASE_URL, online; a lock not had in time is an error, never a queue behind it."""

import asyncio
import sys

from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from alembic import context
from result_aggregator_service.settings import DatabaseSettings, SettingsError
from result_aggregator_service.storage.tables import metadata

LOCK_TIMEOUT = "5s"


def run(connection: Connection) -> None:
    """Run the migrations in one transaction each."""
    context.configure(
        connection=connection, target_metadata=metadata, compare_server_default=True, transaction_per_migration=True
    )
    with context.begin_transaction():
        connection.execute(text(f"SET lock_timeout = '{LOCK_TIMEOUT}'"))
        context.run_migrations()


async def migrate() -> None:
    """Connect directly: a transaction-pooling proxy would not keep the session's lock timeout."""
    settings = DatabaseSettings.load()
    connect_args = {"ssl": tls} if (tls := settings.postgres_ssl()) else {}
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
