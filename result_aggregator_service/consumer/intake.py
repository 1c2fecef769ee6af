"""Takes polls from Kafka; of a backlog the oldest messages of all partitions, in whatever order they are fetched.

So what is said of a batch on different topics comes in few polls, and each costs less: aiokafka by itself empties one
partition after the other. What is fetched is steered by pausing. aiokafka asks a broker for all partitions of which it
has nothing in its buffers, but not while anything there is younger than 0.1 s; and where the broker has nothing of
those it is asked for, it keeps the request for some time, and no other is made meanwhile. So in a backlog the buffers
are emptied as far as they are of use, and of what there is enough at hand nothing is fetched. Where there is no
backlog, nothing is fetched while a poll is handled: aiokafka would fetch the first message that comes and then nothing
before that is taken, and all the others would come a poll later.
Invariant: `begun` and what is unread are of the present assignment only, once it is told to `forget` the one before.
"""

import heapq
import time
from collections import Counter, deque
from collections.abc import Set
from itertools import chain, islice
from operator import attrgetter
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from result_aggregator_service.projection.projector import KafkaRecord
from result_aggregator_service.turns import Slices

_POLL_TIMEOUT_MS = 500
# What is at hand to compare, of all partitions together that Kafka has more of. Of one it has to last for its share of
# a poll, which may be four times an even one, and for that of the next while more is fetched.
_POLLS_AT_HAND = 8
_BYTES_AT_HAND = 12 * 1024 * 1024
#: A broker that has something answers sooner; of one that is away nothing comes, and the others are not to wait long.
SECONDS_TO_READ_ON = 0.05


class Intake:
    """What has been read of each partition and not taken yet; `begun` tells the first offset that was read."""

    def __init__(self, limit: int, *, seconds_to_read_on: float = SECONDS_TO_READ_ON) -> None:
        self._limit = limit
        self._seconds_to_read_on = seconds_to_read_on
        self._unread: dict[tuple[str, int], deque[KafkaRecord]] = {}
        self._bytes: Counter[tuple[str, int]] = Counter()
        self._partitions_behind = 1
        self._held: Set[TopicPartition] = frozenset()
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

        If Kafka has no more, nothing is fetched before the next one is taken, or `fetch_on` is called.
        """
        self.fetch_on(consumer)
        if not self._unread:
            await self._read(consumer, timeout_ms=_POLL_TIMEOUT_MS, max_records=self._limit)
        behind = self._behind(consumer)
        self._partitions_behind = max(len(behind), 1)
        if behind:
            await self._read_buffers(consumer)
            await self._read_on(consumer)
        elif self._missing() > 0:
            taken = list(chain.from_iterable(self._unread.values()))
            self._forget_unread()
            if taken:  # before aiokafka's fetcher has a turn
                self._hold(consumer, consumer.assignment())
            return taken
        taken = self._oldest()
        self.fetch_on(consumer)
        return taken

    def fetch_on(self, consumer: AIOKafkaConsumer) -> None:
        """Fetch what comes, of all partitions of which there is not enough at hand."""
        self._hold(consumer, {each for each in consumer.assignment() if not self._is_short_of(each)})

    def _hold(self, consumer: AIOKafkaConsumer, partitions: Set[TopicPartition]) -> None:
        """Have nothing fetched of these, and whatever else was held fetched again."""
        consumer.resume(*((self._held - partitions) & consumer.assignment()))
        others = partitions - consumer.paused()  # who else paused one has a reason
        consumer.pause(*others)
        self._held = (self._held & partitions) | others

    def _behind(self, consumer: AIOKafkaConsumer) -> set[TopicPartition]:
        """The partitions of which Kafka has more than was read, or may have, as it has not answered yet."""
        # aiokafka tells a position only to those who wait for it, and if need be without end.
        assignment = consumer._subscription.subscription.assignment
        if assignment is None:
            return set()
        fetched = assignment.tps - (consumer.paused() - self._held)
        return {each for each in fetched if _is_behind(assignment.state_value(each))}

    async def _read_buffers(self, consumer: AIOKafkaConsumer) -> None:
        """Read all that was fetched of partitions of which there is not enough at hand."""
        slices = Slices()
        for partition in self._behind(consumer):
            if self._is_short_of(partition):
                await self._read(consumer, partition, timeout_ms=0)
                if slices.is_over:
                    self.fetch_on(consumer)  # before aiokafka's fetcher has a turn
                    await slices.give_way()
        self.fetch_on(consumer)

    async def _read_on(self, consumer: AIOKafkaConsumer) -> None:
        """Wait a moment for what Kafka has and a poll lacks."""
        deadline = time.monotonic() + self._seconds_to_read_on
        while self._is_lacking(consumer) and (left_ms := int(1000 * (deadline - time.monotonic()))) > 0:
            # Any answer may bring it, and aiokafka asks for no more while anything of another is in its way. But of
            # what is held it would throw away what it has.
            fetched = consumer.assignment() - self._held
            await self._read(consumer, *fetched, timeout_ms=left_ms, max_records=1)
            await self._read_buffers(consumer)

    def _is_lacking(self, consumer: AIOKafkaConsumer) -> bool:
        """Whether a poll would lack messages that Kafka has: more of those at hand, to be full, or any to compare."""
        behind = self._behind(consumer) - self._held
        return bool(behind & self._unread.keys() if self._missing() > 0 else behind - self._unread.keys())

    def _missing(self) -> int:
        """How many more are needed for a full poll."""
        return self._limit - sum(map(len, self._unread.values()))

    def _is_short_of(self, partition: TopicPartition) -> bool:
        """Whether more of it should be at hand to compare with the others; large messages are not piled up for that."""
        records = max(_POLLS_AT_HAND * self._limit // self._partitions_behind, 1)
        size = _BYTES_AT_HAND // self._partitions_behind
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


def _is_behind(state: Any) -> bool:
    """Whether Kafka has more of a partition than was read; `state` is aiokafka's."""
    return state.highwater is None or not state.has_valid_position or bool(state.position < state.highwater)


def _size(record: KafkaRecord) -> int:
    return len(record.value or b"")
