"""The consumer: one group member over all topics, the poll as the unit of work.

Invariant: an offset is committed only after the transaction that holds the message's effects, or its quarantine record,
has committed; and only up to the last message handled. What goes wrong on the way is retried, given up to whoever the
partitions were given to, or narrowed down to the one message whose fault it is.
"""

import asyncio
import contextlib
from collections import Counter, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import chain
from typing import Protocol, TypeVar

import structlog
from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError, KafkaError

from result_aggregator_service.cache.poison_pills import PoisonPills
from result_aggregator_service.consumer.decoder import Decoder, InvalidMessageError, InvalidReason
from result_aggregator_service.consumer.stopping import stop_consumer
from result_aggregator_service.consumer.topics_setup import create_missing_topics
from result_aggregator_service.contracts.topics import CONSUMED
from result_aggregator_service.heartbeat import Heartbeat
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.projection.projector import KafkaRecord, Message, Poll, Projected, Projector, bad_message
from result_aggregator_service.resilience.backoff import backoff
from result_aggregator_service.resilience.circuit_breaker import CircuitBreaker
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.errors import is_refusal_of_content, is_trouble
from result_aggregator_service.storage.projection_repository import Touched
from result_aggregator_service.storage.quarantine import BadMessage

_log = structlog.get_logger(__name__)

_POLL_TIMEOUT_MS = 500
_DECODE_SLICE = 50
_FETCH_BYTES_PER_PARTITION = 1024 * 1024
_LONGEST_WAIT_SECONDS = 10.0
_SECONDS_TO_FINISH_A_POLL = 15.0
_SECONDS_TO_COMMIT = 5.0
_SECONDS_TO_JOIN = 90.0  # other members may take their time to let go; still less than makes a wedged loop

Records = Mapping[TopicPartition, Sequence[KafkaRecord]]
Done = TypeVar("Done")


class CacheInvalidator(Protocol):
    """Makes what a poll touched fresh for readers, now or, if Redis is away, as soon as it is back."""

    async def invalidate(self, touched: Touched) -> None:
        """Invalidate, or write down durably what is still to be invalidated."""


class AbandonedError(Exception):
    """The poll at hand belongs to another member now; what was not committed will be delivered again."""


class _RefusedContentError(Exception):
    """PostgreSQL, or the service itself, cannot take what a poll says, and never will."""


class Consumer:
    """Polls Kafka and has each poll projected; `run` ends only after `stop`."""

    def __init__(
        self,
        settings: Settings,
        decoder: Decoder,
        projector: Projector,
        invalidator: CacheInvalidator,
        poison_pills: PoisonPills,
        metrics: Metrics,
        breaker: CircuitBreaker,
    ) -> None:
        self._settings = settings
        self._decoder = decoder
        self._projector = projector
        self._invalidator = invalidator
        self._poison_pills = poison_pills
        self._metrics = metrics
        self._breaker = breaker
        self._stopping = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._generation = 0
        self._revoking = False
        self._handled: dict[TopicPartition, int] = {}
        self.heartbeat = Heartbeat()

    def stop(self) -> None:
        """Ask `run` to finish the poll at hand, leave the group and end."""
        self._stopping.set()

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
                self.heartbeat.beat("waiting for Kafka")
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
            max_partition_fetch_bytes=_FETCH_BYTES_PER_PARTITION,
            fetch_max_wait_ms=_POLL_TIMEOUT_MS,
            metadata_max_age_ms=30_000,
        )
        consumer.subscribe(sorted(CONSUMED), listener=_Rebalances(self))
        try:
            async with asyncio.timeout(_SECONDS_TO_JOIN):
                await consumer.start()
            _log.info("consumer_started", group=settings.kafka_consumer_group_id, topics=len(CONSUMED))
            yield consumer
        finally:
            self._forget_assignment()
            await stop_consumer(consumer)

    async def _poll_until_stopped(self, consumer: AIOKafkaConsumer) -> None:
        while not self._stopping.is_set():
            self.heartbeat.beat("polling")
            records: Records = await consumer.getmany(
                timeout_ms=_POLL_TIMEOUT_MS, max_records=self._settings.kafka_max_poll_records
            )
            if records:
                self._idle.clear()
                generation = self._generation
                try:
                    await self._handle(consumer, records, generation)
                except AbandonedError as reason:
                    self._metrics.consumer_errors.inc()
                    _log.warning("poll_abandoned", reason=str(reason))
                    self._rewind(consumer, records, generation)
                finally:
                    self._idle.set()
            await self._note_lag(consumer)

    async def _handle(self, consumer: AIOKafkaConsumer, records: Records, generation: int) -> None:
        """Project a poll, make it fresh for readers, commit its offsets.

        A part whose content is refused is halved, until the message to blame stands alone and goes to quarantine.
        """
        with self._metrics.message_processing_duration.time():
            poll = await self._decode(records)
            self._metrics.poll_records.observe(len(poll))
            folded = duplicates = quarantined = 0
            parts = deque([poll])
            while parts:
                part = parts.popleft()
                try:
                    projected = await self._retried(
                        consumer, generation, "project", partial(self._projector.project, part)
                    )
                except _RefusedContentError as refused:
                    _log.warning("poll_refused", messages=len(part), error=_first_line(refused.__cause__))
                    parts.extendleft(reversed(_narrowed(part, refused)))
                    continue
                if projected.touched.batch_ids or projected.touched.user_ids:
                    invalidate = partial(self._invalidator.invalidate, projected.touched)
                    await self._retried(consumer, generation, "invalidate", invalidate)
                for message in part.bad:
                    await self._poison_pills.store(message)
                self._count(projected, part.bad)
                folded += len(projected.folded)
                duplicates += len(projected.duplicates)
                quarantined += len(part.bad)
            await self._commit(consumer, records, generation)
        _log.info("poll_projected", folded=folded, duplicates=duplicates, quarantined=quarantined)

    async def _decode(self, records: Records) -> Poll:
        """Decode a poll, in slices between which the loop can answer requests."""
        messages: list[Message] = []
        bad: list[BadMessage] = []
        for number, record in enumerate(chain.from_iterable(records.values()), start=1):
            try:
                messages.append(Message(self._decoder.decode(record), record))
            except InvalidMessageError as invalid:
                if self._settings.raise_on_deserialization_error:
                    raise
                bad.append(bad_message(record, invalid.reason, invalid.detail))
            if number % _DECODE_SLICE == 0:
                await asyncio.sleep(0)
        return Poll(messages, bad)

    async def _retried(
        self, consumer: AIOKafkaConsumer, generation: int, operation: str, work: Callable[[], Awaitable[Done]]
    ) -> Done:
        """Do some work, again and again while a server is in trouble, for as long as the poll is this member's.

        Raises:
            AbandonedError: the partitions are another's now, or the service stops.
            _RefusedContentError: it is the content that is refused.
        """
        waits = backoff(0.1, 10.0)
        while True:
            if self._breaker.allows():
                try:
                    with self._metrics.db_operation_duration.labels(operation).time():
                        result = await work()
                except Exception as error:
                    self._metrics.db_operations.labels(operation, "failed").inc()
                    if not is_trouble(error):
                        self._breaker.succeeded()
                        raise _RefusedContentError from error
                    self._breaker.failed()
                    self._metrics.consumer_errors.inc()
                    _log.warning(
                        "database_unavailable",
                        operation=operation,
                        error=_first_line(error),
                        breaker=self._breaker.state.name.lower(),
                    )
                else:
                    self._breaker.succeeded()
                    self._metrics.db_operations.labels(operation, "done").inc()
                    return result
            seconds = max(next(waits), min(self._breaker.seconds_to_wait(), _LONGEST_WAIT_SECONDS))
            await self._wait_in_the_group(consumer, generation, seconds)

    async def _wait_in_the_group(self, consumer: AIOKafkaConsumer, generation: int, seconds: float) -> None:
        """Wait, keeping the poll; then poll with everything paused: the group learns that this member lives."""
        self.heartbeat.beat("waiting for PostgreSQL")
        await self._sleep(seconds)
        if self._stopping.is_set():
            raise AbandonedError("the service stops while PostgreSQL is away")
        self._check(generation)
        assignment = consumer.assignment()
        consumer.pause(*assignment)
        try:
            for partition, unwanted in (await consumer.getmany(timeout_ms=0)).items():
                consumer.seek(partition, unwanted[0].offset)
            consumer.resume(*assignment)
        except (IllegalStateError, AssertionError) as error:
            raise AbandonedError(f"the group was rebalanced: {error}") from None
        self._check(generation)

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
                    await consumer.commit(offsets)
            except (CommitFailedError, IllegalStateError) as error:
                raise AbandonedError(str(error) or type(error).__name__) from None
            except (KafkaError, TimeoutError) as error:
                self._metrics.consumer_errors.inc()
                self.heartbeat.beat("waiting for Kafka")
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

    def _count(self, projected: Projected, bad: Sequence[BadMessage]) -> None:
        for result, events in (("folded", projected.folded), ("duplicate", projected.duplicates)):
            for topic, number in Counter(event.topic for event in events).items():
                self._metrics.messages_processed.labels(topic, result).inc(number)
        for phase, number in projected.results.items():
            self._metrics.essays_aggregated.labels(phase).inc(number)
        for message in bad:
            self._metrics.messages_processed.labels(message.topic, "quarantined").inc()
            self._metrics.invalid_messages.labels(message.topic, message.error_type).inc()
            _log.warning(
                "message_quarantined",
                topic=message.topic,
                partition=message.partition,
                offset=message.offset,
                error_type=message.error_type,
                error=message.error[:500],
            )

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
        self._metrics.consumer_lag.clear()

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)


class _Rebalances(ConsumerRebalanceListener):  # type: ignore[misc]
    """Hands what the group decides on to the consumer."""

    def __init__(self, consumer: Consumer) -> None:
        self._consumer = consumer

    async def on_partitions_revoked(self, revoked: set[TopicPartition]) -> None:
        if revoked:
            _log.info("partitions_revoked", partitions=len(revoked))
        await self._consumer.partitions_revoked()

    async def on_partitions_assigned(self, assigned: set[TopicPartition]) -> None:
        _log.info("partitions_assigned", partitions=len(assigned))


def _narrowed(part: Poll, refused: _RefusedContentError) -> list[Poll]:
    """The parts to try instead of one that was refused."""
    cause = refused.__cause__
    if part.messages and part.bad:
        return [Poll((), part.bad), Poll(part.messages, ())]
    if len(part.messages) > 1:
        middle = len(part.messages) // 2
        return [Poll(part.messages[:middle], ()), Poll(part.messages[middle:], ())]
    if part.messages and cause is not None:
        by_database = is_refusal_of_content(cause)
        reason = InvalidReason.REJECTED_BY_DATABASE if by_database else InvalidReason.UNPROCESSABLE
        if not by_database:
            _log.error("message_unprocessable", exc_info=cause)
        return [
            Poll((), [bad_message(part.messages[0].record, reason, f"{type(cause).__name__}: {_first_line(cause)}")])
        ]
    raise refused  # the quarantine itself is refused: nothing is lost as long as nothing goes on


def _first_line(error: BaseException | None) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:500]
