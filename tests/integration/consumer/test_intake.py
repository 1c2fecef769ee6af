"""What is taken of a backlog that lies in real Kafka: the oldest of all partitions, though few come with one answer."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from secrets import token_hex

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition

from result_aggregator_service.consumer.intake import Intake
from result_aggregator_service.consumer.stopping import stop_consumer
from result_aggregator_service.projection.projector import KafkaRecord
from tests.servers import PARTITIONS, KafkaServer, create_topics

pytestmark = pytest.mark.apache_kafka

_LIMIT = 100
_BYTES = 200  # of a message
_MESSAGES_OF_AN_ANSWER = 80  # of one partition
_FIRST = 1_000_000  # Kafka's time of the first message, in milliseconds


@pytest.fixture
async def partitions(kafka_server: KafkaServer) -> Sequence[TopicPartition]:
    """Those of four new topics."""
    topics = [f"backlog-{token_hex(4)}-{number}" for number in range(4)]
    await create_topics(kafka_server.bootstrap_servers, topics)
    return [TopicPartition(topic, number) for topic in topics for number in range(PARTITIONS)]


@pytest.fixture
async def consumer(kafka_server: KafkaServer) -> AsyncIterator[AIOKafkaConsumer]:
    """A consumer to which an answer brings messages of four partitions."""
    consumer = AIOKafkaConsumer(
        bootstrap_servers=kafka_server.bootstrap_servers,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        max_partition_fetch_bytes=_BYTES * _MESSAGES_OF_AN_ANSWER,
        fetch_max_bytes=4 * _BYTES * _MESSAGES_OF_AN_ANSWER,
        fetch_max_wait_ms=200,
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await stop_consumer(consumer)


async def produced(kafka_server: KafkaServer, partitions: Sequence[TopicPartition], number: int) -> None:
    """So many messages, one after the other in each of the partitions, each a millisecond later than the last."""
    producer = AIOKafkaProducer(bootstrap_servers=kafka_server.bootstrap_servers, max_batch_size=10 * _BYTES)
    await producer.start()
    try:
        for place in range(number):
            topic, partition = partitions[place % len(partitions)]
            await producer.send(topic, bytes(_BYTES), partition=partition, timestamp_ms=_FIRST + place)
    finally:
        await producer.stop()


async def poll_of(intake: Intake, consumer: AIOKafkaConsumer) -> Sequence[KafkaRecord]:
    """The first poll that holds anything: a broker may take its time to answer at all."""
    async with asyncio.timeout(60):
        while not (taken := await intake.take(consumer)):
            pass
    return taken


async def test_of_a_backlog_the_oldest_come_first_however_few_partitions_come_with_one_answer(
    kafka_server: KafkaServer, partitions: Sequence[TopicPartition], consumer: AIOKafkaConsumer
) -> None:
    await produced(kafka_server, partitions, 1_600)
    consumer.assign(partitions)
    oldest = await poll_of(Intake(_LIMIT, seconds_to_read_on=20), consumer)
    assert [each.timestamp - _FIRST for each in oldest] == list(range(_LIMIT))


async def test_a_backlog_that_lies_in_few_of_the_partitions_is_taken_in_full_polls(
    kafka_server: KafkaServer, partitions: Sequence[TopicPartition], consumer: AIOKafkaConsumer
) -> None:
    await produced(kafka_server, partitions[:3], 6_430)
    consumer.assign(partitions)
    intake = Intake(_LIMIT, seconds_to_read_on=20)
    sizes: list[int] = []
    while sum(sizes) < 6_430:
        sizes.append(len(await poll_of(intake, consumer)))
    assert sizes == [_LIMIT] * 64 + [30]
