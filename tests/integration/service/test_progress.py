"""A loop that turns and gets nowhere although it has work fails /livez; one that waits for a server never does.

What takes two minutes in production takes a second here: the loops are given heartbeats that are less patient.
"""

import asyncio
import itertools
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from uuid import uuid4

import httpx
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.structs import TopicPartition
from dishka import AsyncContainer

from result_aggregator_service.app import create_app
from result_aggregator_service.consumer.consumer import Consumer
from result_aggregator_service.contracts.topics import BATCH_RESULTS_READY, CONSUMED, ESSAY_SLOT_ASSIGNED
from result_aggregator_service.domain.event import Event
from result_aggregator_service.heartbeat import Heartbeat
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.publishing.election import Election
from result_aggregator_service.publishing.outbox_queue import OutboxQueue, OutboxRow
from result_aggregator_service.resilience.circuit_breaker import BreakerState
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.supervisor import Loops, Supervisor
from tests.integration.publishing.relaying import queue_of
from tests.integration.service.wiring import Wire, container_of, on_the_wire, rows, settings_for, swap, value
from tests.samples import published
from tests.servers import KafkaServer
from tests.unit.domain import messages as say
from tests.waiting import eventually

PATIENCE = 1.0
COUNT_EVENTS = "SELECT count(*) FROM processed_events"


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


class Service:
    """The service in this process, all loops turning, asked over its own API."""

    def __init__(self, container: AsyncContainer, client: httpx.AsyncClient) -> None:
        self.container = container
        self._client = client

    async def livez(self) -> httpx.Response:
        return await self._client.get("/livez")

    async def is_alive(self) -> bool:
        return (await self.livez()).status_code == 200

    async def failing(self, loop: str) -> str:
        """What /livez says of a loop, once it fails because of that loop and no other."""

        async def probe() -> str:
            response = await self.livez()
            assert response.status_code == 503
            loops = response.json()["loops"]
            assert [name for name, state in loops.items() if not state["making_progress"]] == [loop]
            assert loops[loop]["alive"]
            return str(loops[loop]["detail"])

        detail = await eventually(probe, within=30, what=f"/livez fails for {loop}")
        assert await self.gauge("ras_loop_ok", loop=loop) == 0
        return detail

    async def gauge(self, name: str, **labels: str) -> float | None:
        return (await self.container.get(Metrics)).registry.get_sample_value(name, labels)

    async def joined(self) -> None:
        consumer = await self.container.get(Consumer)
        await eventually(
            lambda: consumer._member is not None and len(consumer._member.assignment()) >= len(CONSUMED), within=30
        )

    async def caught_up_for(self, seconds: float) -> None:
        """Wait for so many seconds in which Kafka was asked, and the group found caught up."""
        database = await self.container.get(Database)
        clock = "SELECT caught_up_seconds FROM service_state"
        begun = await value(database, clock)

        async def probe() -> bool:
            return bool(await value(database, clock) >= begun + seconds)

        await eventually(probe, within=30, what=f"{seconds} s caught up")

    async def folded(self, number: int) -> None:
        database = await self.container.get(Database)

        async def probe() -> bool:
            return bool(await value(database, COUNT_EVENTS) == number)

        await eventually(probe, within=30, what=f"{number} events folded")


@asynccontextmanager
async def impatient(container: AsyncContainer) -> AsyncIterator[Service]:
    """All loops with heartbeats that are soon tired of a loop that gets nowhere."""
    for loop in (await container.get(Loops)).by_name.values():
        loop.heartbeat = Heartbeat(seconds_without_progress=PATIENCE)
    supervisor = await container.get(Supervisor)
    await supervisor.start()
    transport = httpx.ASGITransport(app=create_app(container))  # type: ignore[arg-type]
    try:
        async with httpx.AsyncClient(transport=transport, base_url="http://ras") as client:
            yield Service(container, client)
    finally:
        await supervisor.stop()


@pytest.mark.apache_kafka
async def test_a_consumer_that_polls_and_gets_nothing_although_there_is_something_fails_liveness(
    settings: Settings, wire: Wire
) -> None:
    async with container_of(settings) as container, impatient(container) as service:
        await service.joined()
        member = (await container.get(Consumer))._member
        assert member is not None

        # A partition was paused, and somebody forgot to resume it; the others go on.
        paused = TopicPartition(ESSAY_SLOT_ASSIGNED, 2)
        member.pause(paused)
        await wire.say(*(say.slot(f"e{number}") for number in range(3)), partition=paused.partition)
        async with chatter(wire, partition=1) as said:
            detail = await service.failing("consumer")
        assert re.fullmatch(r"polling, lag \d, no progress for \d s", detail)
        member.resume(paused)
        await service.folded(3 + len(said))
        await eventually(service.is_alive)

        # The end of a transaction takes an offset, and is no message.
        await in_a_transaction(settings, say.slot("e3"))
        await service.folded(4 + len(said))
        # The task that fetches ends, as it does where a cancellation leaks into it; aiokafka tells nobody.
        member._fetcher._fetch_task.cancel()
        await service.caught_up_for(4 * PATIENCE)
        assert await service.is_alive(), "it has no work"
        await wire.say(say.slot("e4"), partition=1)
        assert ", lag 1, " in await service.failing("consumer")
        assert await service.gauge("ras_loop_ok", loop="grace") == 1


@asynccontextmanager
async def chatter(wire: Wire, *, partition: int) -> AsyncIterator[list[Event]]:
    """Message after message in a partition, with time between them."""
    said: list[Event] = []

    async def talk() -> None:
        for number in itertools.count():
            said.append(say.slot(f"said {number}"))
            await wire.say(said[-1], partition=partition)
            await asyncio.sleep(0.2)

    talking = asyncio.create_task(talk())
    try:
        yield said
    finally:
        talking.cancel()
        await asyncio.wait({talking})


async def in_a_transaction(settings: Settings, event: Event) -> None:
    """Produce a message the way that a producer with transactions does."""
    producer = AIOKafkaProducer(bootstrap_servers=settings.kafka_bootstrap_servers, transactional_id=uuid4().hex)
    await producer.start()
    try:
        async with producer.transaction():
            await producer.send(event.topic, on_the_wire(event), partition=3)
    finally:
        await producer.stop()


async def test_a_relay_that_publishes_nothing_of_what_there_is_fails_liveness_but_not_while_kafka_is_away(
    database_url: str, redis_url: str
) -> None:
    settings = settings_for(
        database_url,
        redis_url=redis_url,
        kafka_bootstrap_servers="127.0.0.1:9",
        outbox_send_timeout_seconds=0.5,
        outbox_breaker_seconds=1.0,
    )
    sees = False

    class Blind(OutboxQueue):
        """Finds no row to send, although there are some."""

        async def claim(self, *, limit: int, in_flight: Collection[int] = ()) -> list[OutboxRow]:
            return await super().claim(limit=limit, in_flight=in_flight) if sees else []

    async with (
        container_of(settings, swap(Election(settings, Blind), Election)) as container,
        impatient(container) as service,
    ):
        await insert_outbox_rows(await container.get(Database), retry_counts=[0, 0])
        detail = await service.failing("relay")
        assert detail.startswith("publishing, rows to publish: 2, no progress for ")

        sees = True
        await eventually(service.is_alive)

        async def given_up() -> bool:
            assert await service.is_alive()
            return await service.gauge("ras_circuit_breaker_state", breaker="kafka") == BreakerState.OPEN

        await eventually(given_up, within=30)
        # Tried again now and then, for longer than it has patience with a relay that could publish.
        since = asyncio.get_running_loop().time()
        while asyncio.get_running_loop().time() < since + 2 * PATIENCE:
            assert await service.is_alive()
            await asyncio.sleep(0.1)


async def test_rows_that_wait_for_an_operator_or_for_their_next_try_are_no_work(database_url: str) -> None:
    async with container_of(settings_for(database_url)) as container:
        database = await container.get(Database)

        async def sendable() -> tuple[int | None, int]:
            async with queue_of(container) as queue:
                return await queue.sendable()

        assert await sendable() == (None, 0)
        await insert_outbox_rows(database, retry_counts=[1, 0, 0], key="held back")
        assert await sendable() == (None, 0)
        [first, _] = await insert_outbox_rows(database, retry_counts=[0, 0], key="free")
        assert await sendable() == (first, 2)
        await rows(database, "UPDATE event_outbox SET published_at = now() RETURNING id")
        assert await sendable() == (None, 0)


async def insert_outbox_rows(database: Database, *, retry_counts: Sequence[int], key: str = "b") -> list[int]:
    """Rows as they are, in this order, after so many tries; returns their ids."""
    ids: list[int] = []
    for retry_count in retry_counts:
        [row] = await rows(
            database,
            "INSERT INTO event_outbox (event_id, aggregate_type, aggregate_id, event_type, event_data, event_key, "
            "topic, retry_count) VALUES (gen_random_uuid(), 'batch', 'b', 't', CAST(:data AS json), :key, :topic, "
            ":retries) RETURNING id",
            data=json.dumps(published("batch_results_ready")),
            key=key,
            topic=BATCH_RESULTS_READY,
            retries=retry_count,
        )
        ids.append(row["id"])
    return ids
