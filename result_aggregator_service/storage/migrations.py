"""Whether the database is migrated far enough for this code. The service never creates a table by itself."""

from asyncpg import UndefinedTableError
from sqlalchemy import text

from result_aggregator_service.storage.engine import Database

#: The revision that this code needs. Later ones will do: they only expand what is there (see the docs on upgrades).
REQUIRED_REVISION = "0003"
MEND = "run `alembic upgrade head`"


async def missing_migrations(database: Database) -> str | None:
    """What is missing and how to mend it; None if nothing is. Raises what the database raises if it is away."""
    try:
        async with database.snapshot() as session:
            revision = (await session.scalars(text("SELECT version_num FROM alembic_version"))).one_or_none()
    except UndefinedTableError:
        revision = None
    if revision is None:
        return f"the database has not been migrated: {MEND}"
    if revision < REQUIRED_REVISION:
        return f"the database is at revision {revision}, this version needs {REQUIRED_REVISION}: {MEND}"
    return None
