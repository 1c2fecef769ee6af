"""The consumer: one group member over all topics, the poll as the unit of work.

Invariant: an offset is committed only after the transaction that holds the message's effects, or its quarantine record,
has committed; and only up to the last message handled. A poll is kept while a server is in trouble, and given up only
to whoever the partitions were given to. However long that takes, the member stays in its group while its loop turns.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from functools import partial
from itertools import chain

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from result_aggregator_service.consumer.group_lag import Standing
from result_aggregator_service.consumer.poll_handler import PollHandler
from result_aggregator_service.consumer.stopping import stop_consumer
from result_aggregator_service.consumer.topics_setup import create_missing_topics
from result_aggregator_service.contracts.topics import CONSUMED
from result_aggregator_service.failpoints import Failpoint, failpoint
from result_aggregator_service.heartbeat import Heartbeat
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.projection.projector import KafkaRecord
from result_aggregator_service.resilience.backoff import backoff
from result_aggregator_service.settings import Settings

_log = structlog.get_logger(__name__)

_POLL_TIMEOUT_MS = 500
FETCH_BYTES_PER_PARTITION = 1024 * 1024
_SECONDS_TO_FINISH_A_POLL = 15.0
_SECONDS_TO_COMMIT = 5.0
_SECONDS_TO_JOIN = 90.0  # other members may take their time to let go; still less than makes a wedged loop

Records = Mapping[TopicPartition, Sequence[KafkaRecord]]


class AbandonedError(Exception):
    """The poll at hand belongs to another member now; what was not committed will be delivered again."""


class Consumer:
    """Polls Kafka and has each poll projected; `run` ends only after `stop`."""

    def __init__(self, settings: Settings, handler: PollHandler, metrics: Metrics) -> None:
        self._settings = settings
        self._handler = handler
        self._metrics = metrics
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._generation = 0
        self._revoking = False
        self._handled: dict[TopicPartition, int] = {}
        self._member: AIOKafkaConsumer | None = None
        self._saturated = False
        self.heartbeat = Heartbeat()

    def stop(self) -> None:
        """Ask `run` to finish the poll at hand, leave the group and end."""
        self._stopping.set()

    def hear_of_group(self, standings: Mapping[TopicPartition, Standing]) -> None:
        """Hear now and then from Kafka, past this member's own fetcher, where the group stands; empty: not known.

        Messages in this member's partitions, of which none is handled from one telling to the next, are work without
        progress. Where it handles one full poll after the other, those of other partitions come first for a while.
        """
        saturated, self._saturated = self._saturated, False
        assignment = None if self._member is None else self._member._subscription.subscription.assignment
        if saturated or assignment is None:
            self.heartbeat.has_work({})
            return
        # With no poll at hand, what lies between commit and position is no message: the end of a transaction, say.
        positions = assignment.all_consumed_offsets() if self._idle.is_set() else {}
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
            fetch_max_wait_ms=_POLL_TIMEOUT_MS,
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
        while not self._stopping.is_set():
            self.heartbeat.beat("polling")
            # In a rebalance that does not end, because the broker is gone say, aiokafka waits without end.
            async with asyncio.timeout(_SECONDS_TO_JOIN):
                records: Records = await consumer.getmany(
                    timeout_ms=_POLL_TIMEOUT_MS, max_records=self._settings.kafka_max_poll_records
                )
            if records:
                self._idle.clear()
                generation = self._generation
                try:
                    await self._handle(consumer, records, generation)
                    self._saturated = sum(map(len, records.values())) >= self._settings.kafka_max_poll_records
                except AbandonedError as reason:
                    self._metrics.consumer_errors.inc()
                    _log.warning("poll_abandoned", reason=str(reason))
                    self._rewind(consumer, records, generation)
                finally:
                    self._idle.set()
            await self._note_lag(consumer)

    async def _handle(self, consumer: AIOKafkaConsumer, records: Records, generation: int) -> None:
        """Have a poll handled, then commit its offsets.

        Raises:
            AbandonedError: the partitions are another's now, or the service stops.
        """
        wait = partial(self._wait_for_postgresql, generation)
        with self._metrics.message_processing_duration.time():
            async with self._showing_life(consumer, generation):
                handled = await self._handler.handle(chain.from_iterable(records.values()), wait)
                await self._commit(consumer, records, generation)
        _log.info("poll_projected", folded=handled.folded, duplicates=handled.duplicates, quarantined=len(handled.bad))

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
            assignment = consumer.assignment()
            consumer.pause(*assignment)
            for partition, unwanted in (await consumer.getmany(timeout_ms=0)).items():
                consumer.seek(partition, unwanted[0].offset)
            consumer.resume(*assignment)

    def _check(self, generation: int) -> None:
        if self._revoking or generation != self._generation:
            raise AbandonedError("the group was rebalanced")

    async def _commit(self, consumer: AIOKafkaConsumer, records: Records, generation: int) -> None:
        """Commit exactly what was handled."""
        offsets = {partition: batch[-1].offset + 1 for partition, batch in records.items()}
        waits = backoff(0.1, 5.0)
        while True:
            if generation != self._generation:
                raise AbandonedError("the group was rebalanced")
            try:
                # While no broker answers, aiokafka looks for the group's coordinator without end.
                async with asyncio.timeout(_SECONDS_TO_COMMIT):
                    failpoint(Failpoint.OFFSETS_COMMIT_BEFORE)
                    await consumer.commit(offsets)
                    failpoint(Failpoint.OFFSETS_COMMIT_AFTER)
            except (CommitFailedError, IllegalStateError) as error:
                raise AbandonedError(str(error) or type(error).__name__) from None
            except (KafkaError, TimeoutError) as error:
                self._metrics.consumer_errors.inc()
                self.heartbeat.waits_for("Kafka")
                _log.warning("offset_commit_failed", error=str(error) or type(error).__name__)
                await self._sleep(next(waits))
                if self._stopping.is_set():
                    raise AbandonedError("the service stops while Kafka is away") from None
            else:
                self._handled |= offsets
                return

    def _rewind(self, consumer: AIOKafkaConsumer, records: Records, generation: int) -> None:
        """Where the group has not taken the partitions away, poll what was abandoned again."""
        if generation == self._generation:
            for partition in consumer.assignment() & records.keys():
                consumer.seek(partition, records[partition][0].offset)

    async def _note_lag(self, consumer: AIOKafkaConsumer) -> None:
        for partition in consumer.assignment():
            try:
                highwater = consumer.highwater(partition)
                if highwater is not None:
                    handled = self._handled.get(partition) or await consumer.position(partition)
                    lag = self._metrics.consumer_lag.labels(partition.topic, str(partition.partition))
                    lag.set(max(highwater - handled, 0))
            except (IllegalStateError, AssertionError):
                return  # taken away while we looked

    async def partitions_revoked(self) -> None:
        """The group takes partitions away: let the poll at hand finish, unless it waits for a server."""
        self._revoking = True
        try:
            await asyncio.wait_for(self._idle.wait(), _SECONDS_TO_FINISH_A_POLL)
        except TimeoutError:
            _log.warning("poll_outlived_rebalance", seconds=_SECONDS_TO_FINISH_A_POLL)
        finally:
            self._revoking = False
            self._forget_assignment()

    def _forget_assignment(self) -> None:
        self._generation += 1
        self._handled.clear()
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


async def _is_set_within(seconds: float, event: asyncio.Event) -> bool:
    try:
        return await asyncio.wait_for(event.wait(), seconds)
    except TimeoutError:
        return False
