"""The consumer on real servers: what is committed, what goes to quarantine, and what happens when a server is away."""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import pytest
import structlog
from aiokafka.structs import TopicPartition
from confluent_kafka import Producer
from dishka import AsyncContainer
from redis.asyncio import Redis
from sqlalchemy import text
from structlog.testing import capture_logs

from embedded import ApacheKafka, EmbeddedPostgres
from result_aggregator_service.cache.poison_pills import PoisonPills
from result_aggregator_service.consumer.consumer import Consumer
from result_aggregator_service.consumer.decoder import Decoder
from result_aggregator_service.consumer.offset_commits import AbandonedError
from result_aggregator_service.consumer.offsets import KafkaOffsets
from result_aggregator_service.consumer.poll_handler import Handled, PollHandler, Wait
from result_aggregator_service.contracts.topics import CONSUMED, ESSAY_SLOT_ASSIGNED
from result_aggregator_service.domain.event import Event
from result_aggregator_service.heartbeat import Heartbeat
from result_aggregator_service.jobs.housekeeping import Invalidator
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.projection.projector import KafkaRecord, Poll, Projected, Projector
from result_aggregator_service.resilience.circuit_breaker import CircuitBreaker
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.fact_rows import FactRows
from result_aggregator_service.storage.projection_repository import ProjectionRepository, Touched
from result_aggregator_service.storage.session import WriteSession
from tests.integration.projection.projection import poll_of
from tests.integration.service.process import in_thread
from tests.integration.service.wiring import Wire, container_of, on_the_wire, rows, settings_for, swap, turning, value
from tests.servers import migrate, position_group_at_end
from tests.unit.domain import messages as say
from tests.waiting import eventually

COUNT_EVENTS = "SELECT count(*) FROM processed_events"


def slots(number: int) -> list[Event]:
    return [say.slot(f"e{index}") for index in range(number)]


async def events_folded(database: Database, number: int, *, within: float = 20.0) -> None:
    async def probe() -> bool:
        return bool(await value(database, COUNT_EVENTS) == number)

    await eventually(probe, within=within, what=f"{number} events folded")


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def sum_of(metrics: Metrics, result: str) -> float:
    return sum(sample(metrics, "ras_messages_processed_total", topic=topic, result=result) for topic in CONSUMED)


class HeldProjector:
    """Projects when it may; tells when it was asked to."""

    def __init__(self, projector: Projector) -> None:
        self._projector = projector
        self.asked = asyncio.Event()
        self.may = asyncio.Event()

    async def project(self, poll: Poll, **how: Any) -> Projected:
        self.asked.set()
        await self.may.wait()
        return await self._projector.project(poll, **how)

    async def mark(self, projected: Projected) -> None:
        await self._projector.mark(projected)


async def consumer_with(
    container: AsyncContainer, *, projector: Any = None, invalidator: Any = None, seconds_open: float = 0.5
) -> Consumer:
    """The service's consumer with other collaborators, and a breaker that is soon tried again."""
    metrics = await container.get(Metrics)
    handler = PollHandler(
        await container.get(Decoder),
        projector or await container.get(Projector),
        invalidator or await container.get(Invalidator),
        await container.get(PoisonPills),
        metrics,
        CircuitBreaker(seconds_open=seconds_open),
    )
    return Consumer(await container.get(Settings), handler, metrics)


async def test_what_was_produced_is_folded_and_shown_in_the_metrics(settings: Settings, wire: Wire) -> None:
    async with container_of(settings) as container, turning(await container.get(Consumer)):
        database, metrics = await container.get(Database), await container.get(Metrics)
        await wire.say(say.registered(), *slots(2), say.spellcheck("e1"))
        await events_folded(database, 4)
        assert await value(database, "SELECT overall_status FROM batch_results") == "processing_pipelines"
        await eventually(
            lambda: sample(metrics, "ras_messages_processed_total", topic=ESSAY_SLOT_ASSIGNED, result="folded") == 2
        )
        assert sample(metrics, "ras_essays_aggregated_total", phase="spellcheck") == 1
        await eventually(
            lambda: all(
                metric.value == 0 for metric in next(iter(metrics.consumer_lag.collect())).samples
            )  # no partition is behind
        )


@pytest.mark.apache_kafka
async def test_messages_are_read_however_their_producer_compresses_them(settings: Settings, wire: Wire) -> None:
    for codec, event in zip(["none", "gzip", "snappy", "lz4", "zstd"], slots(5), strict=True):
        options = {"bootstrap.servers": settings.kafka_bootstrap_servers, "compression.type": codec}
        producer = Producer(options)
        # Alike and many, or else the producer sends them as they are.
        for _ in range(10):
            producer.produce(event.topic, on_the_wire(event))
        assert await asyncio.to_thread(producer.flush, 20) == 0
    async with container_of(settings) as container, turning(await container.get(Consumer)):
        await events_folded(await container.get(Database), 5)


@pytest.mark.apache_kafka
async def test_offsets_are_committed_up_to_the_last_message_handled_and_no_further(
    settings: Settings, wire: Wire
) -> None:
    group = settings.kafka_consumer_group_id
    before = await wire.committed(group)
    await wire.say(*slots(5), partition=0)
    async with container_of(settings) as container:
        held = HeldProjector(await container.get(Projector))
        consumer = await consumer_with(container, projector=held)
        async with turning(consumer):
            await asyncio.wait_for(held.asked.wait(), 20)
            await wire.say(say.slot("later"), partition=0)  # fetched, or about to be, but not yet handled
            assert await wire.committed(group) == before
            consumer.stop()
            held.may.set()
        slot_partition = TopicPartition(ESSAY_SLOT_ASSIGNED, 0)
        assert await wire.committed(group) == {**before, slot_partition: before[slot_partition] + 5}
        assert await value(await container.get(Database), COUNT_EVENTS) == 5


@pytest.mark.apache_kafka
@pytest.mark.parametrize("place", [0, 3, 6], ids=["head", "middle", "end"])
async def test_a_bad_message_costs_its_neighbours_nothing(place: int, settings: Settings, wire: Wire) -> None:
    messages: list[bytes | None] = [on_the_wire(event) for event in slots(6)]
    messages.insert(place, b'{"event_id": "\xff')
    first = (await wire.ends([ESSAY_SLOT_ASSIGNED]))[TopicPartition(ESSAY_SLOT_ASSIGNED, 0)]
    for content in messages:
        await wire.send(ESSAY_SLOT_ASSIGNED, content, partition=0, key=b"k\x00", headers=[("h", b"\xfe")])
    async with container_of(settings) as container, turning(await container.get(Consumer)):
        await wire.all_committed(settings.kafka_consumer_group_id)
        database, metrics = await container.get(Database), await container.get(Metrics)
        assert await value(database, COUNT_EVENTS) == 6
        assert await value(database, "SELECT count(*) FROM essay_results") == 6
        [bad] = await rows(database, "SELECT * FROM quarantined_messages")
        assert (bad["topic"], bad["partition"], bad["offset"]) == (ESSAY_SLOT_ASSIGNED, 0, first + place)
        assert (bad["key"], bad["value"], bad["headers"]) == (b"k\x00", messages[place], [["h", "/g=="]])
        assert bad["error_type"] == "not_utf8"
        assert bad["produced_at"] is not None
        pill = f"poison_pill:{ESSAY_SLOT_ASSIGNED}:0:{first + place}"
        redis = await container.get(Redis)

        async def copied() -> bool:
            return bool(0 < await redis.ttl(pill) <= settings.poison_pill_ttl_seconds)

        await eventually(copied)
        labels = {"topic": ESSAY_SLOT_ASSIGNED, "error_type": "not_utf8"}
        assert sample(metrics, "ras_invalid_messages_total", **labels) == 1


@pytest.mark.apache_kafka
async def test_a_poll_of_bad_messages_only_is_passed_over(settings: Settings, wire: Wire) -> None:
    for topic in CONSUMED:
        await wire.send(topic, None, key=b"batch")
        await wire.send(topic, b"[]")
    async with container_of(settings) as container, turning(await container.get(Consumer)):
        await wire.all_committed(settings.kafka_consumer_group_id)
        database = await container.get(Database)
        kinds = await rows(database, "SELECT error_type, count(*) FROM quarantined_messages GROUP BY 1 ORDER BY 1")
        assert {row["error_type"]: row["count"] for row in kinds} == {"null_value": 11, "wrong_schema": 11}


class RefusingRepository(ProjectionRepository):
    """A read model with which the database refuses what some batches are told of."""

    def __init__(self, *refused: str, by_database: bool) -> None:
        self._refused = set(refused)
        self._by_database = by_database
        self.tries = 0

    async def store(self, session: WriteSession, rows: FactRows) -> Touched:
        self.tries += 1
        touched = await super().store(session, rows)
        if self._refused & rows.batch_ids:
            if not self._by_database:
                raise KeyError("a mistake in the service")
            await session.execute(text("SELECT 1 / 0"))
        return touched


@pytest.mark.apache_kafka
@pytest.mark.parametrize(("by_database", "kind"), [(True, "rejected_by_database"), (False, "unprocessable")])
async def test_a_poll_that_is_refused_is_halved_until_the_message_to_blame_stands_alone(
    by_database: bool, kind: str, settings: Settings, wire: Wire
) -> None:
    events = slots(20)
    events[3] = say.slot("x", "poison 1")
    events[16] = say.slot("y", "poison 2")
    await wire.say(*events[:10], partition=0)
    await wire.send(ESSAY_SLOT_ASSIGNED, b"not JSON", partition=0)
    await wire.say(*events[10:], partition=0)
    repository = RefusingRepository("poison 1", "poison 2", by_database=by_database)
    async with container_of(settings, swap(repository, ProjectionRepository)) as container:
        with capture_logs([structlog.contextvars.merge_contextvars]) as lines:
            async with turning(await container.get(Consumer)):
                await wire.all_committed(settings.kafka_consumer_group_id)
        told = {line["messages"]: line for line in lines if line["event"] == "poll_refused"}
        assert not {"correlation_id", "offset"} & told[max(told)].keys(), "a poll of many is nobody's"
        alone = [line for line in lines if line["event"] == "poll_refused" and line["messages"] == 1]
        blamed = [str(events[3].correlation_id), str(events[16].correlation_id)]
        assert [line["correlation_id"] for line in alone] == blamed
        database = await container.get(Database)
        bad = await rows(database, "SELECT error_type, value FROM quarantined_messages ORDER BY quarantined_at")
        assert {(row["error_type"], row["value"]) for row in bad} == {
            ("not_json", b"not JSON"),
            (kind, on_the_wire(events[3])),
            (kind, on_the_wire(events[16])),
        }
        assert len(bad) == 3
        neighbours = {f"e{index}" for index in range(20)} - {"e3", "e16"}
        assert {row["essay_id"] for row in await rows(database, "SELECT essay_id FROM essay_results")} == neighbours
        assert await value(database, COUNT_EVENTS) == 18
        assert repository.tries < 20  # by halves, not one by one


async def test_a_message_that_cannot_be_folded_is_to_blame_though_its_poll_was_to_be_made_ready_ahead(
    settings: Settings,
) -> None:
    first, last = slots(2)
    strange = replace(say.slot("e2"), topic="no fold is for it")
    async with container_of(settings) as container:
        handler = await container.get(PollHandler)
        prepared = await handler.prepare(poll_of(first, strange, last))
        handled = await handler.handle_poll(prepared, lambda _: pytest.fail("PostgreSQL is not in trouble"))
        await handler.settle()
    assert (handled.folded, [bad.error_type for bad in handled.bad]) == (2, ["unprocessable"])


async def _on_own_postgres(server: EmbeddedPostgres, settings: Settings) -> Settings:
    await in_thread(migrate, server.url)
    return settings_for(
        server.url,
        redis_url=settings.redis_url,
        kafka_bootstrap_servers=settings.kafka_bootstrap_servers,
        kafka_consumer_group_id=settings.kafka_consumer_group_id,
        kafka_session_timeout_ms=1500,
        kafka_max_poll_interval_ms=1500,
    )


@pytest.mark.apache_kafka
@pytest.mark.parametrize("hangs", [False, True], ids=["stopped", "hanging"])
async def test_while_postgresql_is_away_the_poll_is_kept_and_nothing_is_committed(
    hangs: bool, settings: Settings, wire: Wire, own_postgres: EmbeddedPostgres
) -> None:
    settings = await _on_own_postgres(own_postgres, settings)
    settings = settings.model_copy(update={"database_command_timeout_seconds": 0.5})
    group = settings.kafka_consumer_group_id
    async with container_of(settings) as container:
        consumer = await consumer_with(container)
        metrics, database = await container.get(Metrics), await container.get(Database)
        async with turning(consumer):
            await wire.say(*slots(3))
            await wire.all_committed(group)
            before, generation = await wire.committed(group), consumer._generation
            await in_thread(own_postgres.pause if hangs else own_postgres.stop)
            await wire.say(say.registered(), *(say.spellcheck(f"e{index}") for index in range(3)))
            # Tried for longer than session timeout and poll interval: the group must not take this member for dead
            # meanwhile, not even while one try hangs for longer than that.
            started = asyncio.get_running_loop().time()
            await eventually(
                lambda: (
                    sample(metrics, "ras_consumer_errors_total") >= 3
                    and asyncio.get_running_loop().time() - started > 2 * settings.kafka_session_timeout_ms / 1000
                ),
                within=30,
            )
            assert consumer.heartbeat.state == "waiting for PostgreSQL"
            assert await wire.committed(group) == before
            await in_thread(own_postgres.resume if hangs else own_postgres.start)
            await events_folded(database, 7, within=30)
            await wire.say(say.cj_failed())
            await events_folded(database, 8, within=30)
            await wire.all_committed(group)
            assert consumer._generation == generation  # it never lost its place in the group
        counted = [row["count"] for row in await rows(database, "SELECT count(*) FROM processed_events GROUP BY topic")]
        assert sorted(counted) == [1, 1, 3, 3]
        assert sum_of(metrics, "folded") == 8
        assert sum_of(metrics, "duplicate") == 0  # kept, not polled again


@pytest.mark.apache_kafka
async def test_a_consumer_that_is_stopped_while_postgresql_is_away_leaves_everything_to_the_next_one(
    settings: Settings, wire: Wire, own_postgres: EmbeddedPostgres
) -> None:
    settings = await _on_own_postgres(own_postgres, settings)
    group = settings.kafka_consumer_group_id
    before = await wire.committed(group)
    await wire.say(*slots(3))
    await in_thread(own_postgres.stop)
    async with container_of(settings) as container:
        consumer = await consumer_with(container, seconds_open=60)
        async with turning(consumer, within=10):
            await eventually(lambda: consumer.heartbeat.state == "waiting for PostgreSQL", within=20)
        assert await wire.committed(group) == before
    await in_thread(own_postgres.start)
    async with container_of(settings) as container, turning(await container.get(Consumer)):
        await wire.all_committed(group)
        assert await value(await container.get(Database), COUNT_EVENTS) == 3


class InterruptedInvalidator:
    """Does something once, after the transaction and before the offsets."""

    def __init__(self, interruption: Any) -> None:
        self._interruption = interruption
        self.calls: list[Touched] = []

    async def invalidate(self, touched: Touched) -> None:
        self.calls.append(touched)
        if len(self.calls) == 1:
            await self._interruption()


async def test_kafka_may_go_away_between_the_transaction_and_the_offsets_and_come_back(
    database_url: str, redis_url: str, own_apache_kafka: ApacheKafka
) -> None:
    settings = settings_for(
        database_url,
        redis_url=redis_url,
        kafka_bootstrap_servers=own_apache_kafka.bootstrap_servers,
        kafka_session_timeout_ms=1500,
    )
    group = settings.kafka_consumer_group_id
    gone = asyncio.Event()

    async def kafka_stops() -> None:
        await in_thread(own_apache_kafka.stop)
        gone.set()

    await position_group_at_end(own_apache_kafka.bootstrap_servers, group, CONSUMED)
    async with container_of(settings) as container:
        invalidator = InterruptedInvalidator(kafka_stops)
        consumer = await consumer_with(container, invalidator=invalidator)
        database = await container.get(Database)
        async with turning(consumer):
            async with Wire(own_apache_kafka.bootstrap_servers) as wire:
                await wire.say(*slots(3), partition=0)
                await asyncio.wait_for(gone.wait(), 30)
            assert await value(database, COUNT_EVENTS) == 3
            await in_thread(own_apache_kafka.start)
            async with Wire(own_apache_kafka.bootstrap_servers) as wire:
                await wire.say(say.registered(), partition=0)
                await events_folded(database, 4, within=40)
                await wire.all_committed(group, within=30)
        assert await value(database, "SELECT count(*) FROM essay_results") == 3
        assert all(touched.batch_ids == {"b"} for touched in invalidator.calls)


async def test_a_consumer_that_cannot_commit_because_kafka_is_away_still_stops_and_beats_meanwhile(
    database_url: str, redis_url: str, own_apache_kafka: ApacheKafka
) -> None:
    settings = settings_for(
        database_url, redis_url=redis_url, kafka_bootstrap_servers=own_apache_kafka.bootstrap_servers
    )
    await position_group_at_end(own_apache_kafka.bootstrap_servers, settings.kafka_consumer_group_id, CONSUMED)
    async with container_of(settings) as container:
        invalidator = InterruptedInvalidator(lambda: in_thread(own_apache_kafka.stop))
        consumer = await consumer_with(container, invalidator=invalidator)
        async with turning(consumer, within=15), Wire(own_apache_kafka.bootstrap_servers) as wire:
            await wire.say(say.slot("e1"))
            await eventually(lambda: consumer.heartbeat.state == "waiting for Kafka", within=30)


async def _members(stack: AsyncExitStack, settings: Settings, number: int) -> list[AsyncContainer]:
    return [await stack.enter_async_context(container_of(settings)) for _ in range(number)]


@pytest.mark.apache_kafka
async def test_a_poll_in_flight_is_finished_before_the_partitions_go_to_a_second_member(
    settings: Settings, wire: Wire
) -> None:
    settings = settings.model_copy(update={"kafka_max_poll_records": 5})  # there is always a next poll at hand
    group = settings.kafka_consumer_group_id
    async with AsyncExitStack() as stack:
        one, two = await _members(stack, settings, 2)
        held = HeldProjector(await one.get(Projector))
        first, second = await consumer_with(one, projector=held), await consumer_with(two)
        metrics = await one.get(Metrics)
        await stack.enter_async_context(turning(first))
        await wire.say(*slots(40))
        await asyncio.wait_for(held.asked.wait(), 20)
        await stack.enter_async_context(turning(second))
        await eventually(lambda: first._revoking, within=20, what="the group wants the partitions back")
        assert await value(await one.get(Database), COUNT_EVENTS) == 0
        held.may.set()
        await wire.say(*(say.spellcheck(f"e{index}") for index in range(40)))
        await wire.all_committed(group)
        assert await value(await one.get(Database), COUNT_EVENTS) == 80
        assert sample(metrics, "ras_consumer_errors_total") == 0  # the poll was not given up
        assert sum_of(metrics, "duplicate") == sum_of(await two.get(Metrics), "duplicate") == 0


@pytest.mark.apache_kafka
async def test_a_poll_that_waits_for_postgresql_is_given_up_in_a_rebalance_and_folded_by_whoever_gets_it(
    settings: Settings, wire: Wire
) -> None:
    class NoProjector:
        async def project(self, poll: Poll, **how: Any) -> Projected:
            raise ConnectionError("away from this member only")

    async with AsyncExitStack() as stack:
        one, two = await _members(stack, settings, 2)
        first, second = await consumer_with(one, projector=NoProjector()), await consumer_with(two)
        async with turning(first):
            await wire.say(*slots(40))
            await eventually(lambda: first.heartbeat.state == "waiting for PostgreSQL", within=20)
            await stack.enter_async_context(turning(second))
            metrics = await two.get(Metrics)
            # Well before the time that a poll which is at work would be given.
            await eventually(lambda: next(iter(metrics.consumer_lag.collect())).samples, within=10)
        await wire.all_committed(settings.kafka_consumer_group_id)
        assert await value(await two.get(Database), COUNT_EVENTS) == 40


class NotingWhatIsFetched:
    """Notes whether nothing is fetched while a poll is handled, and what still is not once that is nearly done."""

    def __init__(self, handler: PollHandler) -> None:
        self._handler = handler
        self.decode, self.prepare, self.settle = handler.decode, handler.prepare, handler.settle
        self.consumer: Consumer | None = None
        self.noted: list[tuple[bool, set[TopicPartition]]] = []

    async def handle_poll(self, poll: Poll, wait: Wait, *, nearly_done: Callable[[], None]) -> Handled:
        assert self.consumer is not None
        member = self.consumer._member
        assert member is not None

        def note() -> None:
            paused = member.paused()
            nearly_done()
            self.noted.append((paused == member.assignment(), member.paused()))

        return await self._handler.handle_poll(poll, wait, nearly_done=note)


async def test_what_comes_while_a_poll_is_handled_is_fetched_once_that_is_nearly_done(
    settings: Settings, wire: Wire
) -> None:
    async with container_of(settings) as container:
        handler: Any = NotingWhatIsFetched(await container.get(PollHandler))
        handler.consumer = Consumer(settings, handler, await container.get(Metrics))
        async with turning(handler.consumer):
            for number in (1, 2):
                await wire.say(say.slot(f"e{number}"))
                await events_folded(await container.get(Database), number)
    assert len(handler.noted) >= 2
    assert all(noted == (True, set()) for noted in handler.noted)


class GivingUp:
    """Gives up its second poll, once the one after that has been decoded."""

    def __init__(self, handler: PollHandler) -> None:
        self._handler = handler
        self.prepare, self.settle = handler.prepare, handler.settle
        self._decoded = 0
        self._polls = 0

    async def decode(self, records: Iterable[KafkaRecord]) -> Poll:
        poll = await self._handler.decode(records)
        self._decoded += bool(poll.messages)
        return poll

    async def handle_poll(self, poll: Poll, wait: Wait, **how: Any) -> Handled:
        self._polls += 1
        if self._polls == 2:
            await eventually(lambda: self._decoded == 3, within=20, what="the next poll taken ahead")
            raise AbandonedError("as a rebalance would")
        return await self._handler.handle_poll(poll, wait, **how)


@pytest.mark.apache_kafka
async def test_what_was_taken_ahead_of_a_poll_that_is_given_up_is_polled_again_with_it(
    settings: Settings, wire: Wire
) -> None:
    settings = settings.model_copy(update={"kafka_max_poll_records": 5})
    await wire.say(*slots(60))
    async with container_of(settings) as container:
        metrics = await container.get(Metrics)
        handler: Any = GivingUp(await container.get(PollHandler))
        async with turning(Consumer(settings, handler, metrics)):
            await events_folded(await container.get(Database), 60)
            await wire.all_committed(settings.kafka_consumer_group_id)
        assert sum_of(metrics, "duplicate") == 0
        assert sample(metrics, "ras_consumer_errors_total") == 1


class GivingUpWhatWaits:
    """Gives up the first poll while the next one is waited for; notes for how many the client waits in the last."""

    def __init__(self, handler: PollHandler) -> None:
        self._handler = handler
        self.decode, self.prepare, self.settle = handler.decode, handler.prepare, handler.settle
        self.consumer: Consumer | None = None
        self.given_up = False
        self.waited_for = -1

    def _waited_for(self) -> int:
        assert self.consumer is not None
        assert self.consumer._member is not None
        waited_for: int = self.consumer._member._subscription._fetch_count
        return waited_for

    async def handle_poll(self, poll: Poll, wait: Wait, **how: Any) -> Handled:
        if not self.given_up:
            self.given_up = True
            await eventually(lambda: self._waited_for() == 1, within=20, what="the next poll waited for")
            raise AbandonedError("as a rebalance would")
        self.waited_for = self._waited_for()
        return await self._handler.handle_poll(poll, wait, **how)


@pytest.mark.apache_kafka
async def test_after_a_poll_that_is_given_up_the_client_still_knows_when_its_member_polls(
    settings: Settings, wire: Wire
) -> None:
    settings = settings.model_copy(update={"kafka_max_poll_records": 5})
    await wire.say(*slots(5), partition=0)
    async with container_of(settings) as container:
        handler: Any = GivingUpWhatWaits(await container.get(PollHandler))
        handler.consumer = Consumer(settings, handler, await container.get(Metrics))
        async with turning(handler.consumer):
            await events_folded(await container.get(Database), 5)
            await wire.say(say.registered(), partition=0)
            await events_folded(await container.get(Database), 6)
    assert (handler.given_up, handler.waited_for) == (True, 0)


class Wedged(Heartbeat):
    """That of a loop that does not turn."""

    def is_wedged(self) -> bool:
        return True


@pytest.mark.apache_kafka
async def test_a_wedged_member_that_the_group_gave_up_commits_nothing_and_folds_nothing_twice(
    settings: Settings, wire: Wire
) -> None:
    settings = settings.model_copy(update={"kafka_max_poll_interval_ms": 1000, "kafka_session_timeout_ms": 1500})
    group = settings.kafka_consumer_group_id
    async with AsyncExitStack() as stack:
        one, two = await _members(stack, settings, 2)
        held = HeldProjector(await one.get(Projector))
        first, second = await consumer_with(one, projector=held), await consumer_with(two)
        first.heartbeat = Wedged()
        await stack.enter_async_context(turning(first))
        await wire.say(*slots(10))
        await asyncio.wait_for(held.asked.wait(), 20)
        async with KafkaOffsets(settings) as kafka:

            async def nobody_is_left() -> bool:
                return await kafka.members() == 0

            # It outlives its poll interval, and shows no life meanwhile.
            await eventually(nobody_is_left, within=40, what="a group without members")
        await stack.enter_async_context(turning(second))
        await wire.all_committed(group, within=40)  # by the second one
        held.may.set()
        await wire.say(say.registered())
        await wire.all_committed(group, within=40)
        database = await two.get(Database)
        assert await value(database, COUNT_EVENTS) == 11
        assert await value(database, "SELECT count(*) FROM essay_results") == 10
