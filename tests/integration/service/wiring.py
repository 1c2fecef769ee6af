"""The service's own container on a test's servers, and Kafka as the services around it use it."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Protocol, Self

import asyncpg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import ConsumerRecord, TopicPartition
from dishka import AsyncContainer, Provider, Scope
from sqlalchemy import text

from result_aggregator_service.consumer.stopping import stop_consumer
from result_aggregator_service.contracts.topics import CONSUMED, PUBLISHED
from result_aggregator_service.domain.event import Event
from result_aggregator_service.providers import create_container
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import Database
from tests.servers import create_topics
from tests.unit.domain.messages import as_sent
from tests.waiting import eventually

KEY = "key-of-the-tests"


def settings_for(database_url: str, **values: Any) -> Settings:
    """Settings from these arguments, whatever the environment holds."""
    short: dict[str, Any] = {"kafka_session_timeout_ms": 6000, "outbox_poll_interval": 0.2}
    return Settings(_env_file=None, internal_api_key=KEY, database_url=database_url, **{**short, **values})


def swap(instance: object, provides: object) -> Provider:
    """A provider of one object in the place of what the service makes."""
    provider = Provider(scope=Scope.APP)
    provider.provide(lambda: instance, provides=provides)
    return provider


@asynccontextmanager
async def container_of(settings: Settings, *swapped: Provider) -> AsyncIterator[AsyncContainer]:
    """The service's container, closed at the end."""
    container = create_container(settings, *swapped)
    try:
        yield container
    finally:
        await container.close()


class Turning(Protocol):
    """A loop of the service."""

    async def run(self) -> None: ...
    def stop(self) -> None: ...


@asynccontextmanager
async def turning(*loops: Turning, within: float = 20.0) -> AsyncIterator[None]:
    """Loops that turn inside the block and are drained at its end; one that dies fails the test."""
    tasks = [asyncio.create_task(loop.run()) for loop in loops]
    try:
        yield
    finally:
        for loop in loops:
            loop.stop()
        await asyncio.wait_for(asyncio.gather(*tasks), within)


async def rows(database: Database, query: str, **parameters: Any) -> Sequence[asyncpg.Record]:
    """What a query finds, in a transaction of its own."""
    async with database.transaction() as session:
        return (await session.execute(text(query), parameters)).all()


async def value(database: Database, query: str, **parameters: Any) -> Any:
    """The first column of a query's first row."""
    return next(iter((await rows(database, query, **parameters))[0].values()))


def on_the_wire(event: Event) -> bytes:
    """A message of the tests' own words, as a producer sends it."""
    return as_sent(event)


class Wire:
    """Kafka as the other services use it: it produces what is consumed, and reads what is published."""

    def __init__(self, bootstrap_servers: str, *, is_apache: bool = True) -> None:
        self._bootstrap_servers = bootstrap_servers
        self._is_apache = is_apache
        self._stack = AsyncExitStack()
        self._received: list[ConsumerRecord[bytes, bytes]] = []

    async def __aenter__(self) -> Self:
        await create_topics(self._bootstrap_servers, PUBLISHED, is_apache=self._is_apache)
        self._producer = AIOKafkaProducer(bootstrap_servers=self._bootstrap_servers, max_request_size=16 * 1024 * 1024)
        self._stack.push_async_callback(self._producer.stop)
        await self._producer.start()
        # Two of them: one that is assigned some topics takes seconds to tell the ends of others.
        self._teller = AIOKafkaConsumer(bootstrap_servers=self._bootstrap_servers, enable_auto_commit=False)
        self._stack.push_async_callback(stop_consumer, self._teller)
        await self._teller.start()
        self._reader = AIOKafkaConsumer(bootstrap_servers=self._bootstrap_servers, enable_auto_commit=False)
        self._stack.push_async_callback(stop_consumer, self._reader)
        await self._reader.start()
        partitions = [
            TopicPartition(topic, number)
            for topic in PUBLISHED
            for number in sorted(await self._producer.partitions_for(topic))
        ]
        self._reader.assign(partitions)
        await self._reader.seek_to_end()
        for partition in partitions:
            await self._reader.position(partition)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def send(
        self,
        topic: str,
        content: bytes | None,
        *,
        partition: int | None = None,
        key: bytes | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> TopicPartition:
        """Produce one message; returns where it lies."""
        lies = await self._producer.send_and_wait(topic, content, key=key, partition=partition, headers=list(headers))
        return TopicPartition(topic, lies.partition)

    async def say(self, *events: Event, partition: int | None = None) -> None:
        """Produce messages of the tests' own words, those about a batch in order."""
        sent = [
            await self._producer.send(event.topic, on_the_wire(event), key=b"batch", partition=partition)
            for event in events
        ]
        await asyncio.gather(*sent)

    async def ends(self, topics: Iterable[str] = tuple(CONSUMED)) -> dict[TopicPartition, int]:
        """The end of each partition of some topics."""
        partitions = [
            TopicPartition(topic, number)
            for topic in topics
            for number in sorted(await self._producer.partitions_for(topic))
        ]
        ends: dict[TopicPartition, int] = await self._teller.end_offsets(partitions)
        return ends

    async def committed(self, group: str) -> dict[TopicPartition, int]:
        """The offsets that the group has committed for the consumed topics."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self._bootstrap_servers)
        try:
            await admin.start()
            offsets = await admin.list_consumer_group_offsets(group)
        finally:
            await admin.close()
        return {partition: meta.offset for partition, meta in offsets.items() if partition.topic in CONSUMED}

    async def all_committed(self, group: str, *, within: float = 20.0) -> None:
        """Wait until the group's committed offsets are exactly the ends of all partitions."""

        async def probe() -> bool:
            ends, committed = await self.ends(), await self.committed(group)
            assert {p: committed.get(p, 0) for p in ends} == ends
            return True

        await eventually(probe, within=within, what="offsets committed to the end")

    async def received(self) -> list[ConsumerRecord[bytes, bytes]]:
        """Everything published since this wire was put up."""
        polled: Mapping[TopicPartition, list[Any]] = await self._reader.getmany(timeout_ms=50)
        for records in polled.values():
            self._received += records
        return self._received

    async def published(
        self, enough: int | Callable[[Sequence[ConsumerRecord[bytes, bytes]]], bool], *, within: float = 20.0
    ) -> list[ConsumerRecord[bytes, bytes]]:
        """What is published, once it is so many messages or fulfils a condition."""

        async def probe() -> bool:
            received = await self.received()
            return len(received) >= enough if isinstance(enough, int) else enough(received)

        await eventually(probe, within=within, what=f"published {enough}")
        return self._received


def envelope_of(record: ConsumerRecord[bytes, bytes]) -> dict[str, Any]:
    """A published message."""
    assert record.value is not None
    envelope: dict[str, Any] = json.loads(record.value)
    return envelope
