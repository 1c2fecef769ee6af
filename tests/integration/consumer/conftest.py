"""A database, a Redis and a consumer group of the test's own, on the Kafka that all share."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

import pytest

from result_aggregator_service.contracts.topics import CONSUMED
from result_aggregator_service.settings import Settings
from tests.integration.service.wiring import Wire, settings_for
from tests.servers import KafkaServer


@pytest.fixture
async def settings(
    database_url: str,
    redis_url: str,
    kafka_server: KafkaServer,
    kafka_group: Callable[[Iterable[str]], Awaitable[str]],
) -> Settings:
    return settings_for(
        database_url,
        redis_url=redis_url,
        kafka_bootstrap_servers=kafka_server.bootstrap_servers,
        kafka_consumer_group_id=await kafka_group(CONSUMED),
    )


@pytest.fixture
async def wire(kafka_server: KafkaServer) -> AsyncIterator[Wire]:
    async with Wire(kafka_server.bootstrap_servers, is_apache=kafka_server.is_apache) as up:
        yield up
