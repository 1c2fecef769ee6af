"""Reads the consumed topics again, from given offsets to given ends, and has every message go the way of a fresh one.

Invariant: `position` never passes a message whose effects, or whose quarantine record, have not been committed. The
group is left alone: nothing here joins it.
"""

import asyncio
import contextlib
import heapq
from collections import deque
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from result_aggregator_service.consumer.consumer import FETCH_BYTES_PER_PARTITION
from result_aggregator_service.consumer.offsets import Offsets
from result_aggregator_service.consumer.poll_handler import Handled, PollHandler
from result_aggregator_service.consumer.stopping import stop_consumer
from result_aggregator_service.projection.projector import KafkaRecord
from result_aggregator_service.resilience.backoff import backoff
from result_aggregator_service.settings import Settings

_POLL_TIMEOUT_MS = 500


@dataclass(frozen=True)
class Replay:
    """What is to be replayed: of each partition the messages from its start up to its end, the end left out."""

    starts: Offsets
    ends: Offsets

    def __len__(self) -> int:
        return sum(self.ends[partition] - start for partition, start in self.starts.items())


@dataclass
class Totals:
    """What came of the messages so far; those folded again had been folded before."""

    folded: int = 0
    folded_again: int = 0
    duplicates: int = 0
    quarantined: int = 0

    def add(self, handled: Handled) -> None:
        """Add what came of a poll."""
        self.folded += handled.folded
        self.folded_again += handled.folded_again
        self.duplicates += handled.duplicates
        self.quarantined += len(handled.bad)


class StoppedError(Exception):
    """The replay was asked to stop."""


class Replayer:
    """Replays; `position` tells how far it is, `totals` what came of it, `waiting_for` whom it waits for."""

    def __init__(self, settings: Settings, handler: PollHandler, replay: Replay) -> None:
        self._settings = settings
        self._handler = handler
        self._ends = replay.ends
        self._stopping = asyncio.Event()
        self.position = dict(replay.starts)
        self.totals = Totals()
        self.waiting_for: str | None = None

    def stop(self) -> None:
        """Ask `run` to finish the poll at hand and to end."""
        self._stopping.set()

    async def run(self) -> None:
        """Replay to the ends, whatever server goes away meanwhile and comes back.

        Raises:
            StoppedError: it was asked to stop before that.
        """
        waits = backoff(0.2, 5.0)
        while unfinished := {p for p, offset in self.position.items() if offset < self._ends[p]}:
            before = dict(self.position)
            try:
                async with self._reading(unfinished) as consumer:
                    await self._replay(consumer, unfinished)
            except (KafkaError, OSError, TimeoutError):
                if self.position != before:
                    waits = backoff(0.2, 5.0)
                await self._wait_for("Kafka", next(waits))

    async def wait_for_postgresql(self, seconds: float) -> None:
        """Wait so long.

        Raises:
            StoppedError: it was asked to stop.
        """
        await self._wait_for("PostgreSQL", seconds)

    async def _wait_for(self, server: str, seconds: float) -> None:
        self.waiting_for = server
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)
        self._check()

    def _check(self) -> None:
        if self._stopping.is_set():
            raise StoppedError

    @contextlib.asynccontextmanager
    async def _reading(self, partitions: set[TopicPartition]) -> AsyncIterator[AIOKafkaConsumer]:
        consumer = AIOKafkaConsumer(
            **self._settings.kafka_client_options(),
            client_id=f"{self._settings.service_name}-replay",
            enable_auto_commit=False,
            auto_offset_reset="earliest",  # where the broker has deleted messages since the replay began
            max_partition_fetch_bytes=FETCH_BYTES_PER_PARTITION,
            fetch_max_wait_ms=_POLL_TIMEOUT_MS,
        )
        try:
            await consumer.start()
            consumer.assign(partitions)
            for partition in partitions:
                consumer.seek(partition, self.position[partition])
            yield consumer
        finally:
            await stop_consumer(consumer)

    async def _replay(self, consumer: AIOKafkaConsumer, partitions: set[TopicPartition]) -> None:
        """Replay all partitions at once, in the order of Kafka's timestamps.

        So batches pass through the states that they passed through the first time, as nearly as can be told.
        """
        unread: dict[TopicPartition, deque[KafkaRecord]] = {partition: deque() for partition in partitions}
        while unread:
            self._check()
            for partition in [partition for partition, records in unread.items() if not records]:
                # By position: the last offsets before the end may hold no messages (compaction, transactions).
                if await consumer.position(partition) >= self._ends[partition]:
                    self.position[partition] = self._ends[partition]
                    del unread[partition]
            if empty := [partition for partition, records in unread.items() if not records]:
                fetched = await consumer.getmany(*empty, timeout_ms=_POLL_TIMEOUT_MS)
                for partition, records in fetched.items():
                    unread[partition].extend(r for r in records if r.offset < self._ends[partition])
            elif unread:
                await self._handle(_oldest(unread, self._settings.kafka_max_poll_records))

    async def _handle(self, poll: list[KafkaRecord]) -> None:
        handled = await self._handler.handle(poll, self.wait_for_postgresql, again=True)
        self.waiting_for = None
        for record in poll:
            self.position[TopicPartition(record.topic, record.partition)] = record.offset + 1
        self.totals.add(handled)


def _oldest(unread: Mapping[TopicPartition, deque[KafkaRecord]], limit: int) -> list[KafkaRecord]:
    """Take the oldest messages, until there are enough or a partition has none left to compare."""
    heads = [(records[0].timestamp, partition) for partition, records in unread.items()]
    heapq.heapify(heads)
    taken: list[KafkaRecord] = []
    while len(taken) < limit:
        _, partition = heads[0]
        taken.append(unread[partition].popleft())
        if not unread[partition]:
            break
        heapq.heapreplace(heads, (unread[partition][0].timestamp, partition))
    return taken
