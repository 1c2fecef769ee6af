"""A database of the test's own, and the Kafka that all share."""

from collections.abc import AsyncIterator

import pytest
from dishka import AsyncContainer

from result_aggregator_service.settings import Settings
from tests.integration.service.wiring import Wire, container_of, settings_for
from tests.servers import KafkaServer


@pytest.fixture
def settings(database_url: str, kafka_server: KafkaServer) -> Settings:
    return settings_for(database_url, kafka_bootstrap_servers=kafka_server.bootstrap_servers, outbox_poll_interval=60.0)


@pytest.fixture
async def container(settings: Settings) -> AsyncIterator[AsyncContainer]:
    async with container_of(settings) as made:
        yield made


@pytest.fixture
async def wire(kafka_server: KafkaServer) -> AsyncIterator[Wire]:
    async with Wire(kafka_server.bootstrap_servers, is_apache=kafka_server.is_apache) as up:
        yield up
