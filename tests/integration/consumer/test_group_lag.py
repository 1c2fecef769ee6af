"""The group's lag, told from the broker; and aiokafka's consumers, ended for good."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from embedded import ApacheKafka
from result_aggregator_service.consumer.group_lag import GroupLag
from result_aggregator_service.consumer.stopping import stop_consumer
from result_aggregator_service.contracts.topics import CONSUMED, ESSAY_SLOT_ASSIGNED
from result_aggregator_service.settings import Settings
from tests.integration.service.process import in_thread
from tests.integration.service.wiring import Wire, settings_for
from tests.servers import create_topics
from tests.unit.domain import messages as say
from tests.waiting import eventually

NOWHERE = "postgresql://nobody@127.0.0.1:9/none"


@pytest.mark.apache_kafka
async def test_the_lag_is_that_of_the_partition_that_is_furthest_behind(settings: Settings, wire: Wire) -> None:
    async with GroupLag(settings) as lag:
        await eventually(lambda: _is(lag, 0))
        await wire.say(*(say.slot(f"e{number}") for number in range(3)), partition=1)
        await wire.say(say.registered(), say.slot("e4"), partition=2)
        assert await largest(lag) == 3
        consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.kafka_bootstrap_servers,
            group_id=settings.kafka_consumer_group_id,
            enable_auto_commit=False,
        )
        partition = TopicPartition(ESSAY_SLOT_ASSIGNED, 1)
        await consumer.start()
        consumer.assign([partition])
        await consumer.commit({partition: (await wire.ends([ESSAY_SLOT_ASSIGNED]))[partition]})
        await consumer.stop()
        assert await largest(lag) == 1


async def largest(lag: GroupLag) -> int:
    """The lag, in messages, of the partition that is furthest behind."""
    return max(standing.lag for standing in (await lag.standings()).values())


async def _is(lag: GroupLag, expected: int) -> bool:
    try:
        return await largest(lag) == expected
    except KafkaError as error:
        raise AssertionError(str(error)) from error


async def test_a_group_that_never_committed_lags_by_all_there_is_or_by_nothing(own_apache_kafka: ApacheKafka) -> None:
    kafka = own_apache_kafka.bootstrap_servers
    asked = {
        reset: GroupLag(settings_for(NOWHERE, kafka_bootstrap_servers=kafka, kafka_auto_offset_reset=reset))
        for reset in ("earliest", "latest")
    }
    async with asked["earliest"] as from_the_start, asked["latest"] as from_the_end:
        with pytest.raises(KafkaError, match="not all topics"):
            await from_the_start.standings()
        # A broker that makes topics on first use would make them with partitions of its own choice.
        assert not CONSUMED.keys() & await from_the_start._offsets._consumer.topics(), "asking made topics"
        await create_topics(kafka, CONSUMED)
        async with Wire(kafka) as wire:
            await wire.say(say.slot("e1"), say.slot("e2"))
            await eventually(lambda: _is(from_the_start, 2))  # once the new broker has a coordinator
            assert await largest(from_the_end) == 0


async def test_asking_ends_with_an_error_when_kafka_goes_away_and_leaves_nothing_behind(
    own_apache_kafka: ApacheKafka,
) -> None:
    kafka = own_apache_kafka.bootstrap_servers
    await create_topics(kafka, CONSUMED)
    before = asyncio.all_tasks()
    async with GroupLag(settings_for(NOWHERE, kafka_bootstrap_servers=kafka)) as lag:
        await eventually(lambda: _is(lag, 0))
        await in_thread(own_apache_kafka.stop)
        with pytest.raises(KafkaError):
            await lag.standings()
    await eventually(lambda: _nothing_left_since(before))


@pytest.mark.parametrize("hangs", [False, True], ids=["stopped", "hanging"])
async def test_a_consumer_whose_broker_is_gone_is_ended_for_good_without_a_cancellation(
    hangs: bool, own_apache_kafka: ApacheKafka
) -> None:
    await create_topics(own_apache_kafka.bootstrap_servers, CONSUMED)
    before = asyncio.all_tasks()
    # Each commits by itself: one that has something to commit tries that without end, and has to be cut off.
    member, newcomer = (
        AIOKafkaConsumer(
            *CONSUMED, bootstrap_servers=own_apache_kafka.bootstrap_servers, group_id=group, session_timeout_ms=6000
        )
        for group in ("one that has joined", "one that has only begun to")
    )
    await member.start()
    for partition in await eventually(member.assignment, within=60):
        await member.position(partition)
    await newcomer.start()
    await in_thread(own_apache_kafka.pause if hangs else own_apache_kafka.stop)
    await asyncio.gather(*(consumer.getmany(timeout_ms=300) for consumer in (member, newcomer)))
    try:
        async with asyncio.timeout(15):
            await asyncio.gather(*(stop_consumer(consumer) for consumer in (member, newcomer)))
        await eventually(lambda: _nothing_left_since(before))
    finally:
        own_apache_kafka.resume()


def _nothing_left_since(before: set[asyncio.Task[object]]) -> bool:
    left = sorted(repr(task.get_coro()) for task in asyncio.all_tasks() - before)
    assert not left, f"tasks left behind: {', '.join(left)}"
    return True
