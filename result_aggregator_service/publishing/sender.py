"""Sends outbox rows to Kafka, in order, and says of each what became of it.

Invariant: a row behind one of its key and topic that was refused is not sent.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Self

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)
from aiokafka.partitioner import DefaultPartitioner
from pydantic_core import from_json

from result_aggregator_service.failpoints import Failpoint, failpoint
from result_aggregator_service.observability.tracing import NO_TRACING, Tracing
from result_aggregator_service.publishing.outbox_queue import OutboxRow
from result_aggregator_service.settings import Settings

# Refusals of the row, which no later try will change as long as nobody does something about it.
_REFUSALS = (
    MessageSizeTooLargeError,
    RecordTooLargeError,
    InvalidTopicError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
    ValueError,
    AssertionError,
)

# What the headers repeat stands before an envelope's data, as a rule: the data is not parsed for it.
_OF_HEAD = frozenset({"source_service", "schema_version", "event_timestamp", "correlation_id"})
_CHARACTERS_OF_HEAD = 512

_MOST_BYTES = 1024 * 1024  # of a value; what a broker takes is its own to say


@dataclass
class Sent:
    """What became of rows: acknowledged by Kafka, refused and why, or, for all others, what is wrong with Kafka."""

    acknowledged: list[OutboxRow] = field(default_factory=list)
    refused: dict[OutboxRow, BaseException] = field(default_factory=dict)
    trouble: BaseException | None = None
    _held_back: set[tuple[str, str] | str] = field(default_factory=set)

    def refuse(self, row: OutboxRow, error: BaseException) -> None:
        """Kafka will not have this row; hold back what must not overtake it."""
        self.refused[row] = error
        self._held_back.add((row.topic, row.event_key))
        if isinstance(error, UnknownTopicOrPartitionError):
            self._held_back.add(row.topic)  # each further try would wait for the topic again

    def failure_of(self, rows: Sequence[OutboxRow]) -> BaseException | None:
        """What is wrong with Kafka, else the first refusal of one of these rows."""
        return self.trouble or next((self.refused[row] for row in rows if row in self.refused), None)

    def holds_back(self, row: OutboxRow) -> bool:
        """Whether the row is to wait for a later batch."""
        return row.topic in self._held_back or (row.topic, row.event_key) in self._held_back


class _Batch:
    """Rows of one partition that Kafka takes, or refuses, together: cheaper than an answer for each."""

    def __init__(self, producer: AIOKafkaProducer, topic: str, partition: int) -> None:
        self._producer = producer
        self._topic, self._partition = topic, partition
        self._builder = producer.create_batch()
        self.rows: list[OutboxRow] = []

    def takes(self, row: OutboxRow, message: "_Message") -> bool:
        """Add a row, unless the batch is full; the first one always fits."""
        if self._builder.append(timestamp=None, key=message.key, value=message.value, headers=message.headers) is None:
            return False
        self.rows.append(row)
        return True

    async def hand_over(self) -> asyncio.Future[Any]:
        """Let it be sent, after those of its partition before it. The future has Kafka's answer."""
        future: asyncio.Future[Any] = await self._producer.send_batch(
            self._builder, self._topic, partition=self._partition
        )
        return future


class _Message(NamedTuple):
    key: bytes
    value: bytes
    headers: list[tuple[str, bytes]]

    @classmethod
    def of(cls, row: OutboxRow) -> Self:
        """What is sent for a row.

        Raises:
            ValueError: the row holds no envelope.
            MessageSizeTooLargeError: it is larger than what Kafka's clients send by default.
        """
        value = row.event_data.encode()
        if len(value) > _MOST_BYTES:
            raise MessageSizeTooLargeError(f"event_data has {len(value):,} bytes, more than {_MOST_BYTES:,}")
        return cls(row.event_key.encode(), value, headers_of(row))


class Sender:
    """An idempotent producer that is replaced when it may have gone bad. For one batch at a time."""

    def __init__(self, settings: Settings, tracing: Tracing = NO_TRACING) -> None:
        self._settings = settings
        self._tracing = tracing
        self._producer: AIOKafkaProducer | None = None
        self._partitioner = Partitioner()

    async def send(self, rows: Sequence[OutboxRow]) -> Sent:
        """Send rows and wait until Kafka has answered for each, or `OUTBOX_SEND_TIMEOUT_SECONDS` are over."""
        sent = Sent()
        for group in groups_of(rows):
            with self._tracing.send([row.topic for row in group], (row.traceparent for row in group)) as span:
                await self._send(group, sent)
                if (failure := sent.failure_of(group)) is not None:
                    span.failed(failure)
            if sent.trouble is not None:
                await self.drop_producer()
                break
        return sent

    async def _send(self, rows: Sequence[OutboxRow], sent: Sent) -> None:
        waiting: dict[asyncio.Future[Any], list[OutboxRow]] = {}
        try:
            async with asyncio.timeout(self._settings.outbox_send_timeout_seconds):
                producer = await self._ready_producer()
                failpoint(Failpoint.RELAY_SEND_BEFORE)
                async for batch in self._batches(producer, rows, sent):
                    waiting[await batch.hand_over()] = batch.rows
        except (KafkaError, OSError, TimeoutError, AssertionError) as error:
            # AssertionError: of the client, about a partition that is gone.
            sent.trouble = error
        if not waiting:
            return
        failpoint(Failpoint.RELAY_SEND_AFTER)
        done, pending = await asyncio.wait(waiting, timeout=self._settings.outbox_send_timeout_seconds)
        failpoint(Failpoint.RELAY_ACKNOWLEDGEMENT_AFTER)
        for future, together in waiting.items():
            if future in pending:
                continue
            outcome = future.exception()
            if outcome is None:
                sent.acknowledged += together
            elif isinstance(outcome, _REFUSALS):
                # An idempotent producer does not get over a batch that was refused: its sequence has a gap.
                for row in together:
                    sent.refuse(row, outcome)
                await self.drop_producer()
            else:
                sent.trouble = outcome
        if pending:
            in_time, of_all = (sum(len(waiting[future]) for future in some) for some in (done, waiting))
            sent.trouble = TimeoutError(f"Kafka answered for {in_time} of {of_all} rows in time")

    async def _batches(
        self, producer: AIOKafkaProducer, rows: Sequence[OutboxRow], sent: Sent
    ) -> AsyncIterator[_Batch]:
        """The rows that nothing holds back, in the order of each partition."""
        partitions: dict[str, tuple[int, ...]] = {}
        filling: dict[tuple[str, int], _Batch] = {}
        for row in rows:
            if sent.holds_back(row):
                continue
            try:
                if row.topic not in partitions:
                    partitions[row.topic] = tuple(sorted(await producer.partitions_for(row.topic)))
                message = _Message.of(row)
            except _REFUSALS as error:
                sent.refuse(row, error)
                continue
            place = row.topic, self._partitioner(message.key, partitions[row.topic], partitions[row.topic])
            batch = filling.get(place)
            if batch is not None and batch.takes(row, message):
                continue
            if batch is not None:
                yield batch
            filling[place] = batch = _Batch(producer, *place)
            batch.takes(row, message)
        for batch in filling.values():
            yield batch

    async def _ready_producer(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                **self._settings.kafka_client_options(),
                client_id=self._settings.kafka_producer_client_id,
                enable_idempotence=True,
                acks="all",
                linger_ms=0,  # a batch of rows is handed over at once, so nothing is gained by waiting for more
                max_batch_size=256 * 1024,
                # Shorter than a send may take, so that a topic that does not exist is found out within it.
                request_timeout_ms=int(1000 * min(10.0, self._settings.outbox_send_timeout_seconds / 2)),
            )
            try:
                await producer.start()
            except BaseException:
                await producer.stop()
                raise
            self._producer = producer
        return self._producer

    async def drop_producer(self) -> None:
        """Give up a producer that may have gone bad, or is not needed any more; the next send makes a new one."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaError, OSError, TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(producer.stop(), 5)


class Partitioner(DefaultPartitioner):  # type: ignore[misc]
    """Kafka's default. Its hash takes the client longer than the rest of a send, and keys come again and again."""

    def __init__(self) -> None:
        self._of_many = lru_cache(maxsize=10_000)(self._choose)

    def __call__(self, key: bytes, all_partitions: Sequence[int], available: Sequence[int]) -> int:
        return self._of_many(key, tuple(all_partitions))

    def _choose(self, key: bytes, all_partitions: tuple[int, ...]) -> int:
        partition: int = super().__call__(key, all_partitions, all_partitions)
        return partition


def headers_of(row: OutboxRow) -> list[tuple[str, bytes]]:
    """What the platform's producers say in headers, so that a consumer need not open the value.

    Raises:
        ValueError: the row holds no envelope.
    """
    head = from_json(row.event_data[:_CHARACTERS_OF_HEAD], allow_partial=True)
    if not (isinstance(head, dict) and head.keys() >= _OF_HEAD):
        head = from_json(row.event_data)
        if not isinstance(head, dict):
            raise ValueError("event_data is no envelope: it is no JSON object")
        if missing := _OF_HEAD - head.keys():
            raise ValueError(f"event_data is no envelope: it lacks {', '.join(sorted(missing))}")
    headers = [
        ("event_id", str(row.event_id).encode()),
        ("event_type", row.event_type.encode()),
        ("source_service", str(head["source_service"]).encode()),
        ("schema_version", str(head["schema_version"]).encode()),
        ("occurred_at", str(head["event_timestamp"]).encode()),
        ("trace_id", str(head["correlation_id"]).encode()),
        ("content_type", b"application/json"),
    ]
    if row.traceparent is not None:
        headers.append(("traceparent", row.traceparent.encode()))
    return headers


def groups_of(rows: Sequence[OutboxRow]) -> list[list[OutboxRow]]:
    """Rows that are sent together. One that failed before goes alone, so that it cannot take others down with it."""
    groups: list[list[OutboxRow]] = []
    for row in rows:
        if row.retry_count == 0 and groups and groups[-1][-1].retry_count == 0:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
