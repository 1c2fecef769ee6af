"""A migrated PostgreSQL of the test's own, and what the service writes it with."""

from collections.abc import AsyncIterator

import pytest
from pydantic import SecretStr

import tests.hypothesis_profiles  # noqa: F401 - sets how hard Hypothesis looks
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import Database, create_engine
from tests.integration.storage.projection import Projection


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    settings = Settings(database_url=SecretStr(database_url), environment="development", database_pool_size=10)
    database = Database(create_engine(settings))
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
def projection(database: Database) -> Projection:
    return Projection(database)
