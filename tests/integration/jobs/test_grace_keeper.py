"""The grace keeper as it runs: it ticks while the group is caught up, and outlives whatever goes away."""

from collections.abc import Awaitable, Callable, Iterable

import pytest

from embedded import ApacheKafka
from result_aggregator_service.contracts.topics import CONSUMED
from result_aggregator_service.jobs.grace import GraceKeeper
from result_aggregator_service.storage.engine import Database
from tests.integration.projection.projection import ReadModel
from tests.integration.service.process import in_thread
from tests.integration.service.wiring import Wire, container_of, settings_for, turning, value
from tests.servers import KafkaServer, position_group_at_end
from tests.unit.domain import messages as say
from tests.unit.domain.messages import FAILURES
from tests.waiting import eventually

CLOCK = "SELECT caught_up_seconds FROM service_state"


async def test_it_ticks_only_while_the_group_is_caught_up_and_goes_on_after_an_outage_of_kafka(
    database_url: str, redis_url: str, own_apache_kafka: ApacheKafka
) -> None:
    kafka = own_apache_kafka.bootstrap_servers
    settings = settings_for(
        database_url,
        redis_url=redis_url,
        kafka_bootstrap_servers=kafka,
        kafka_max_poll_records=2,
        results_grace_seconds=1.0,
    )
    await position_group_at_end(kafka, settings.kafka_consumer_group_id, CONSUMED)
    async with container_of(settings) as container:
        read_model, keeper = await ReadModel.of(container), await container.get(GraceKeeper)
        database = await container.get(Database)

        async def clock_passes(reading: float) -> bool:
            return bool(await value(database, CLOCK) > reading)

        async def nothing_is_to_be_invalidated() -> bool:
            return bool(await value(database, "SELECT count(*) FROM pending_invalidations") == 0)

        async with turning(keeper):
            await eventually(lambda: clock_passes(0.0), within=20)
            async with Wire(kafka) as wire:
                await wire.say(*(say.slot(f"e{number}") for number in range(3)), partition=0)

            async def stands() -> bool:
                return await value(database, "SELECT caught_up FROM service_state") is False

            await eventually(stands)
            await read_model.poll(say.registered(), say.end(status=FAILURES))
            await in_thread(own_apache_kafka.stop)
            await eventually(lambda: keeper.heartbeat.state == "waiting for Kafka", within=30)
            reading = await value(database, CLOCK)
            await in_thread(own_apache_kafka.start)
            assert await value(database, CLOCK) == reading
            assert await read_model.status() == "processing_pipelines"
            await position_group_at_end(kafka, settings.kafka_consumer_group_id, CONSUMED)  # somebody catches up

            async def finished() -> bool:
                return await read_model.status() == "completed_with_failures"

            await eventually(finished, within=30)
            await eventually(nothing_is_to_be_invalidated)  # readers see it at once, though nobody keeps house here
        assert len(await read_model.announced()) == 1


@pytest.mark.apache_kafka
async def test_it_outlives_an_outage_of_the_database(
    kafka_server: KafkaServer, kafka_group: Callable[[Iterable[str]], Awaitable[str]]
) -> None:
    settings = settings_for(
        "postgresql://nobody@127.0.0.1:9/none",
        redis_url="redis://127.0.0.1:9/0",
        kafka_bootstrap_servers=kafka_server.bootstrap_servers,
        kafka_consumer_group_id=await kafka_group(CONSUMED),
    )
    async with container_of(settings) as container:
        keeper = await container.get(GraceKeeper)
        async with turning(keeper):
            await eventually(lambda: keeper.heartbeat.state == "waiting for PostgreSQL", within=20)
