"""A container on a database of the test's own; polls are handed to it by hand, without Kafka."""

from collections.abc import AsyncIterator

import pytest
from dishka import AsyncContainer

import tests.hypothesis_profiles  # noqa: F401  # before any property is collected
from result_aggregator_service.settings import Settings
from tests.integration.projection.projection import ReadModel
from tests.integration.service.wiring import container_of, settings_for


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    return settings_for(
        database_url, redis_url=redis_url, kafka_bootstrap_servers="127.0.0.1:9", results_grace_seconds=2.0
    )


@pytest.fixture
async def container(settings: Settings) -> AsyncIterator[AsyncContainer]:
    async with container_of(settings) as made:
        yield made


@pytest.fixture
async def read_model(container: AsyncContainer) -> ReadModel:
    return await ReadModel.of(container)
