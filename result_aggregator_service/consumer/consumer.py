"""The consumer: one group member over all topics, the poll as the unit of work.

Invariant: an offset is committed only after the transaction that holds the message's effects, or its quarantine record,
has committed; and only up to the last message handled. A poll is kept while a server is in trouble, and given up only
to whoever the partitions were given to. However long that takes, the member stays in its group while its loop turns.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError
from structlog.contextvars import bound_contextvars

from result_aggregator_service.consumer.causes import of_one, traceparents
from result_aggregator_service.consumer.group_lag import Standing
from result_aggregator_service.consumer.intake import Intake
from result_aggregator_service.consumer.offset_commits import AbandonedError, OffsetCommits
from result_aggregator_service.consumer.poll_handler import PollHandler
from result_aggregator_service.consumer.stopping import stop_consumer
from result_aggregator_service.consumer.topics_setup import create_missing_topics
from result_aggregator_service.contracts.topics import CONSUMED
from result_aggregator_service.heartbeat import Heartbeat
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.observability.tracing import NO_TRACING, Tracing
from result_aggregator_service.projection.projector import KafkaRecord, Poll
from result_aggregator_service.resilience.backoff import backoff
from result_aggregator_service.settings import Settings
from result_aggregator_service.turns import Slices

_log = structlog.get_logger(__name__)

_FETCH_MAX_WAIT_MS = 200  # and so long a broker may keep a request for what it has nothing of (`intake`)
FETCH_BYTES_PER_PARTITION = 512 * 1024
_FETCH_BYTES = 8 * 1024 * 1024  # taken apart at once, at about 1 ms for each MiB; a larger message comes by itself
_SECONDS_TO_FINISH_A_POLL = 15.0
_SECONDS_TO_END_A_TAKE = 2.0
_SECONDS_BETWEEN_LAGS = 1.0  # to look at every partition costs as much as some messages do
_FREED_AT_ONCE = 20
_SECONDS_TO_JOIN = 90.0  # other members may take their time to let go; still less than makes a wedged loop


@dataclass(frozen=True, slots=True)
class _Taken:
    """A poll that was taken and decoded; under which generation of the assignment, and when (monotonic seconds)."""

    records: Sequence[KafkaRecord]
    poll: Poll
    generation: int
    at: float


class Consumer:
    """Polls Kafka and has each poll projected; `run` ends only after `stop`."""

    def __init__(
        self, settings: Settings, handler: PollHandler, metrics: Metrics, tracing: Tracing = NO_TRACING
    ) -> None:
        self._settings = settings
        self._handler = handler
        self._metrics = metrics
        self._tracing = tracing
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._generation = 0
        self._revoking = False
        self._intake = Intake(settings.kafka_max_poll_records)
        self._ahead: asyncio.Task[_Taken] | None = None
        self._handled: _Taken | None = None
        self._lag_noted_at = -_SECONDS_BETWEEN_LAGS
        self._member: AIOKafkaConsumer | None = None
        self._saturated = False
        self._commits_at_telling = 0
        self.heartbeat = Heartbeat()
        self._commits = OffsetCommits(metrics, self.heartbeat, self._stopping)

    def stop(self) -> None:
        """Ask `run` to finish the poll at hand, leave the group and end."""
        self._stopping.set()

    def hear_of_group(self, standings: Mapping[TopicPartition, Standing]) -> None:
        """Hear now and then from Kafka, past this member's own fetcher, where the group stands; empty: not known.

        Messages in this member's partitions, of which none is handled from one telling to the next, are work without
        progress. Where it handles one full poll after the other, those of other partitions come first for a while.
        """
        saturated = self._saturated and self._commits.times > self._commits_at_telling
        self._saturated, self._commits_at_telling = False, self._commits.times
        assignment = None if self._member is None else self._member._subscription.subscription.assignment
        if saturated or assignment is None:
            self.heartbeat.has_work({})
            return
        # With no poll at hand, what lies between commit and position is no message: the end of a transaction, say.
        is_idle = self._idle.is_set() and not (self._ahead or self._intake or self._commits.is_under_way)
        positions = assignment.all_consumed_offsets() if is_idle else {}
        reached = {partition: position.offset for partition, position in positions.items()}
        behind = {
            partition: standings[partition]
            for partition in assignment.tps & standings.keys()
            if standings[partition].end > max(standings[partition].begun, reached.get(partition, 0))
        }
        self.heartbeat.has_work(
            {partition: standing.begun for partition, standing in behind.items()},
            f"lag {sum(standing.lag for standing in behind.values()):,}",
        )

    async def run(self) -> None:
        """Join the group and poll; over again after any trouble with Kafka."""
        waits = backoff(0.2, 5.0)
        while not self._stopping.is_set():
            try:
                await create_missing_topics(self._settings)
                async with self._joined() as consumer:
                    waits = backoff(0.2, 5.0)
                    await self._poll_until_stopped(consumer)
            except (KafkaError, OSError, TimeoutError) as error:
                wait = next(waits)
                self._metrics.consumer_errors.inc()
                self.heartbeat.waits_for("Kafka")
                _log.warning(
                    "kafka_unavailable",
                    bootstrap_servers=self._settings.kafka_bootstrap_servers,
                    error=str(error) or type(error).__name__,
                    retry_in_seconds=round(wait, 2),
                )
                await self._sleep(wait)

    @contextlib.asynccontextmanager
    async def _joined(self) -> AsyncIterator[AIOKafkaConsumer]:
        settings = self._settings
        consumer = AIOKafkaConsumer(
            **settings.kafka_client_options(),
            client_id=settings.service_name,
            group_id=settings.kafka_consumer_group_id,
            group_instance_id=settings.kafka_group_instance_id,
            enable_auto_commit=False,
            auto_offset_reset=settings.kafka_auto_offset_reset,
            max_poll_records=settings.kafka_max_poll_records,
            session_timeout_ms=settings.kafka_session_timeout_ms,
            heartbeat_interval_ms=max(settings.kafka_session_timeout_ms // 10, 100),
            max_poll_interval_ms=settings.kafka_max_poll_interval_ms,
            rebalance_timeout_ms=max(settings.kafka_session_timeout_ms, 60_000),
            max_partition_fetch_bytes=FETCH_BYTES_PER_PARTITION,
            fetch_max_bytes=_FETCH_BYTES,
            fetch_max_wait_ms=_FETCH_MAX_WAIT_MS,
            metadata_max_age_ms=30_000,
        )
        consumer.subscribe(sorted(CONSUMED), listener=_Rebalances(self, consumer, settings.kafka_group_instance_id))
        try:
            async with asyncio.timeout(_SECONDS_TO_JOIN):
                await consumer.start()
            _log.info("consumer_started", group=settings.kafka_consumer_group_id, topics=len(CONSUMED))
            self._member = consumer
            yield consumer
        finally:
            self._member = None
            self._forget_assignment()
            await stop_consumer(consumer)

    async def _poll_until_stopped(self, consumer: AIOKafkaConsumer) -> None:
        try:
            while not self._stopping.is_set():
                self.heartbeat.beat("polling")
                taken = await (self._ahead or self._take(consumer))
                self._ahead = None
                try:
                    if not taken.records:
                        await self._commits.done()
                    elif not self._revoking and taken.generation == self._generation:
                        await self._handle_taken(consumer, taken)
                except AbandonedError as reason:
                    self._metrics.consumer_errors.inc()
                    _log.warning("poll_abandoned", reason=str(reason))
                    await self._take_no_more()
                    self._rewind(consumer)
                await self._let_go()
                self._handled = taken
                if not taken.records or time.monotonic() - self._lag_noted_at >= _SECONDS_BETWEEN_LAGS:
                    await self._note_lag(consumer)
                await asyncio.sleep(0)  # neither a poll taken ahead nor the lag has to wait for anything
        finally:
            await self._take_no_more()
            self._handled = None
            await self._handler.settle()
            await self._commits.settle()

    async def _take(self, consumer: AIOKafkaConsumer) -> _Taken:
        # In a rebalance that does not end, because the broker is gone say, aiokafka waits without end.
        async with asyncio.timeout(_SECONDS_TO_JOIN):
            records = await self._intake.take(consumer)
        generation, at = self._generation, time.monotonic()
        return _Taken(records, await self._handler.decode(records), generation, at)

    async def _take_ahead(self, consumer: AIOKafkaConsumer) -> _Taken:
        await self._let_go()
        taken = await self._take(consumer)
        return replace(taken, poll=await self._handler.prepare(taken.poll))

    async def _let_go(self) -> None:
        """Free the poll that was handled last: a full one takes some milliseconds, in which PostgreSQL has the next."""
        handled, self._handled = self._handled, None
        if handled is None:
            return
        records, messages = list(handled.records), list(handled.poll.messages)
        del handled
        slices = Slices()
        while records:
            del records[-_FREED_AT_ONCE:], messages[-_FREED_AT_ONCE:]
            if slices.is_over:
                await slices.give_way()

    async def _take_no_more(self) -> None:
        """Give up the poll that is being taken ahead: if it can be, by its own end.

        A `getmany` that is cancelled aiokafka takes for one that goes on, and then its member for one that lives.
        """
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            await asyncio.wait((ahead,), timeout=_SECONDS_TO_END_A_TAKE)
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)

    async def _handle_taken(self, consumer: AIOKafkaConsumer, taken: _Taken) -> None:
        is_full = len(taken.records) >= self._settings.kafka_max_poll_records
        self._idle.clear()
        if is_full:
            # The next one is made ready while the database works. Without a backlog it is rather taken late: then
            # it holds all that has come meanwhile.
            self._ahead = asyncio.create_task(self._take_ahead(consumer))
        try:
            topics = (record.topic for record in taken.records)
            with bound_contextvars(**of_one(taken.poll)), self._tracing.poll(topics, traceparents(taken.poll)):
                await self._handle(consumer, taken)
            self._saturated = is_full
        finally:
            self._idle.set()

    async def _handle(self, consumer: AIOKafkaConsumer, taken: _Taken) -> None:
        """Have a poll handled, then begin to commit its offsets.

        Raises:
            AbandonedError: the partitions are another's now, or the service stops.
        """
        wait = partial(self._wait_for_postgresql, taken.generation)
        try:
            async with self._showing_life(consumer, taken.generation):
                # What has come meanwhile is fetched beside the commit.
                fetch_on = partial(self._intake.fetch_on, consumer)
                handled = await self._handler.handle_poll(taken.poll, wait, nearly_done=fetch_on)
                if taken.generation != self._generation:
                    raise AbandonedError("the group was rebalanced")
                await self._commits.begin(consumer, _ends(taken.records))
        finally:
            self._metrics.message_processing_duration.observe(time.monotonic() - taken.at)
        about = {"batch_id": next(iter(handled.batch_ids))} if len(handled.batch_ids) == 1 else {}
        _log.info(
            "poll_projected",
            folded=handled.folded,
            duplicates=handled.duplicates,
            quarantined=len(handled.bad),
            **about,
        )

    async def _wait_for_postgresql(self, generation: int, seconds: float) -> None:
        self.heartbeat.waits_for("PostgreSQL")
        await self._sleep(seconds)
        if self._stopping.is_set():
            raise AbandonedError("the service stops while PostgreSQL is away")
        self._check(generation)

    @contextlib.asynccontextmanager
    async def _showing_life(self, consumer: AIOKafkaConsumer, generation: int) -> AsyncIterator[None]:
        """Stay in the group for as long as the block takes, or until this loop is wedged."""
        done = asyncio.Event()
        # Not to be cancelled: what it has polled by mistake it has to give back.
        showing = asyncio.create_task(self._show_life(consumer, generation, done))
        try:
            yield
        finally:
            done.set()
            await showing

    async def _show_life(self, consumer: AIOKafkaConsumer, generation: int, done: asyncio.Event) -> None:
        """Poll now and then with everything paused: the group learns that this member lives."""
        seconds = self._settings.kafka_max_poll_interval_ms / 1000 / 3
        while not await _is_set_within(seconds, done):
            if self._revoking or generation != self._generation or self.heartbeat.is_wedged():
                return
            fetched = consumer.assignment() - consumer.paused()
            consumer.pause(*fetched)
            for partition, unwanted in (await consumer.getmany(timeout_ms=0)).items():
                consumer.seek(partition, unwanted[0].offset)
            consumer.resume(*fetched & consumer.assignment())

    def _check(self, generation: int) -> None:
        if self._revoking or generation != self._generation:
            raise AbandonedError("the group was rebalanced")

    def _rewind(self, consumer: AIOKafkaConsumer) -> None:
        """Where the group has not taken the partitions away, read again all that was read and not handled."""
        for partition in consumer.assignment() & self._intake.begun.keys():
            consumer.seek(partition, self._commits.committed.get(partition, self._intake.begun[partition]))
        self._intake.forget()

    async def _note_lag(self, consumer: AIOKafkaConsumer) -> None:
        self._lag_noted_at = time.monotonic()
        for partition in consumer.assignment():
            try:
                highwater = consumer.highwater(partition)
                if highwater is not None:
                    handled = self._commits.committed.get(partition, self._intake.begun.get(partition))
                    if handled is None:
                        handled = await consumer.position(partition)
                    lag = self._metrics.consumer_lag.labels(partition.topic, str(partition.partition))
                    lag.set(max(highwater - handled, 0))
            except (IllegalStateError, AssertionError):
                return  # taken away while we looked

    async def partitions_revoked(self) -> None:
        """The group takes partitions away: let the poll at hand finish, unless it waits for a server."""
        self._revoking = True
        try:
            await asyncio.wait_for(self._idle.wait(), _SECONDS_TO_FINISH_A_POLL)
            await self._commits.settle()
        except TimeoutError:
            _log.warning("poll_outlived_rebalance", seconds=_SECONDS_TO_FINISH_A_POLL)
        finally:
            self._revoking = False
            self._forget_assignment()

    def _forget_assignment(self) -> None:
        self._generation += 1
        self._intake.forget()
        self._commits.forget()
        self.heartbeat.has_work({})
        self._metrics.consumer_lag.clear()

    async def _sleep(self, seconds: float) -> None:
        await _is_set_within(seconds, self._stopping)


class _Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]
    """Hands what the group decides on to the consumer."""

    def __init__(self, consumer: Consumer, member: AIOKafkaConsumer, instance_id: str | None) -> None:
        self._consumer = consumer
        self._member = member
        self._instance_id = instance_id
        self._generation: int | None = None
        self._member_id: str | None = None

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        if revoked:
            _log.info("partitions_revoked", partitions=len(revoked))
        await self._consumer.partitions_revoked()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        _log.info("partitions_assigned", partitions=len(assigned))
        self._tell_of_a_namesake()

    def _tell_of_a_namesake(self) -> None:
        """Kafka gives a static member's place to whoever joins under its name, and the group's generation stays."""
        coordinator = self._member._coordinator
        generation, member_id = coordinator.generation, coordinator.member_id
        if self._instance_id is not None and generation == self._generation and member_id != self._member_id:
            _log.error(
                "group_instance_id_shared",
                group_instance_id=self._instance_id,
                error="another member joined the group under this one's KAFKA_GROUP_INSTANCE_ID; they shut each other "
                "out by turns until each replica has one of its own",
            )
        self._generation, self._member_id = generation, member_id


def _ends(records: Sequence[KafkaRecord]) -> dict[TopicPartition, int]:
    """The offsets to commit once exactly these records are handled."""
    ends = {(record.topic, record.partition): record.offset + 1 for record in records}
    return {TopicPartition(*partition): end for partition, end in ends.items()}


async def _is_set_within(seconds: float, event: asyncio.Event) -> bool:
    try:
        return await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
