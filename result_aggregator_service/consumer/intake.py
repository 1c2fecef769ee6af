"""Takes polls from Kafka; of a backlog the oldest messages of all partitions, in whatever order they are fetched.

So what is said of a batch on different topics comes in few polls, and each costs less: aiokafka by itself empties one
partition after the other. Where there is no backlog, nothing is fetched while a poll is handled: aiokafka would fetch
the first message that comes and then nothing before that is taken, and all the others would come a poll later.
Invariant: `begun` and what is unread are of the present assignment only, once it is told to `forget` the one before.
"""

import heapq
from collections import Counter, deque
from collections.abc import Set
from itertools import chain, islice
from operator import attrgetter

from aiokafka import AIOKafkaConsumer, TopicPartition

from result_aggregator_service.projection.projector import KafkaRecord
from result_aggregator_service.turns import Slices

_POLL_TIMEOUT_MS = 500
# What is at hand to compare, of all partitions together. Of one it has to last for its share of a poll, which may be
# four times an even one, and for that of the next while more is fetched.
_POLLS_AT_HAND = 8
_BYTES_AT_HAND = 12 * 1024 * 1024


class Intake:
    """What has been read of each partition and not taken yet; `begun` tells the first offset that was read."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._unread: dict[tuple[str, int], deque[KafkaRecord]] = {}
        self._bytes: Counter[tuple[str, int]] = Counter()
        self._paused: Set[TopicPartition] = frozenset()
        self.begun: dict[TopicPartition, int] = {}

    def __bool__(self) -> bool:
        """Whether anything is read and not taken."""
        return bool(self._unread)

    def forget(self) -> None:
        """Forget what was read: it is another member's now, or will be read again."""
        self._forget_unread()
        self.begun.clear()

    async def take(self, consumer: AIOKafkaConsumer) -> list[KafkaRecord]:
        """Take a poll as soon as there is anything, up to the limit; an empty one after half a second of nothing.

        If it is not full, nothing more is fetched before the next one is taken, or `fetch_on` is called.
        """
        self.fetch_on(consumer)
        if not self._unread:
            await self._read(consumer, timeout_ms=_POLL_TIMEOUT_MS, max_records=self._limit)
            if self._missing() > 0:
                taken = list(chain.from_iterable(self._unread.values()))
                self._forget_unread()
                if taken:  # before aiokafka's fetcher has a turn
                    self._paused = consumer.assignment() - consumer.paused()  # who else paused one has a reason
                    consumer.pause(*self._paused)
                return taken
        partitions, slices = consumer.assignment(), Slices()
        for partition in partitions:
            records = max(_POLLS_AT_HAND * self._limit // len(partitions), 1)
            if self._is_short_of(partition, records, _BYTES_AT_HAND // len(partitions)):
                await self._read(consumer, partition, timeout_ms=0, max_records=records)
                if slices.is_over:
                    await slices.give_way()
        if (missing := self._missing()) > 0:
            await self._read(consumer, timeout_ms=0, max_records=missing)
        return self._oldest()

    def fetch_on(self, consumer: AIOKafkaConsumer) -> None:
        """Fetch again what comes."""
        paused, self._paused = self._paused, frozenset()
        consumer.resume(*(paused & consumer.assignment()))

    def _missing(self) -> int:
        """How many more are needed for a full poll."""
        return self._limit - sum(map(len, self._unread.values()))

    def _is_short_of(self, partition: TopicPartition, records: int, size: int) -> bool:
        """Whether more of it should be at hand to compare with the others; large messages are not piled up for that."""
        return len(self._unread.get(partition, ())) < records and self._bytes[partition] < size

    def _forget_unread(self) -> None:
        self._unread.clear()
        self._bytes.clear()

    async def _read(self, consumer: AIOKafkaConsumer, *partitions: TopicPartition, **options: int) -> None:
        for partition, records in (await consumer.getmany(*partitions, **options)).items():
            self._unread.setdefault(partition, deque()).extend(records)
            self._bytes[partition] += sum(map(_size, records))
            self.begun.setdefault(partition, records[0].offset)

    def _oldest(self) -> list[KafkaRecord]:
        """Take the oldest by Kafka's time; within a partition the order stays."""
        taken = list(islice(heapq.merge(*self._unread.values(), key=attrgetter("timestamp")), self._limit))
        for record in taken:
            partition = record.topic, record.partition
            unread = self._unread[partition]
            unread.popleft()
            self._bytes[partition] -= _size(record)
            if not unread:
                del self._unread[partition]
        return taken


def _size(record: KafkaRecord) -> int:
    return len(record.value or b"")
