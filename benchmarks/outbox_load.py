"""Orders to put rows into the outbox as the service does, and the same messages on Kafka without it.

A row is a copy of one that the service wrote, under ids of its own, so that sizes, keys and headers are the real ones.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from itertools import count, cycle, islice
from typing import Any
from uuid import UUID, uuid4

import asyncpg
from aiokafka import AIOKafkaProducer

from benchmarks.worker import Order, Took

_CONNECTIONS = 8
_TEACHERS = 100
_SECONDS_BETWEEN_LOOKS = 0.02
_ROWS_OF_A_TOP_UP = 100
_ROWS_A_SECOND_AT_MOST = 15_000
_MESSAGES = 2_000  # made before the time is taken, then sent in turn
_BATCHES_NOT_WAITED_FOR = 10

# One transaction of the service: its rows in order, one notification.
_INSERT = """
INSERT INTO event_outbox (
    event_id, aggregate_type, aggregate_id, event_type, event_data, event_key, topic, traceparent
)
SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::json[], $6::text[], $7::text[], $8::text[])
"""
_NOTIFY = "SELECT pg_notify('ras_outbox', '')"
# Not counted: that would read all rows that wait and, as PostgreSQL likes, all others, before each transaction. One
# writer makes ids without gaps, and rows are published in their order.
_WAITING = """
SELECT max(id) - coalesce(
    (SELECT id FROM event_outbox WHERE published_at IS NOT NULL ORDER BY published_at DESC LIMIT 1), 0)
FROM event_outbox
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the outbox, its columns in the order of the insert. `event_data` is JSON."""

    event_id: UUID
    aggregate_type: str
    aggregate_id: str
    event_type: str
    event_data: str
    event_key: str
    topic: str
    traceparent: str | None

    def headers(self) -> list[tuple[str, bytes]]:
        """The headers that the service sends with the row."""
        envelope = json.loads(self.event_data)
        values = {
            "event_id": self.event_id,
            "event_type": self.event_type,
            "source_service": envelope["source_service"],
            "schema_version": envelope["schema_version"],
            "occurred_at": envelope["event_timestamp"],
            "trace_id": envelope["correlation_id"],
            "content_type": "application/json",
        }
        if self.traceparent is not None:
            values["traceparent"] = self.traceparent
        return [(name, str(value).encode()) for name, value in values.items()]


def copies(originals: Sequence[Row], teacher: str) -> Iterator[Row]:
    """Rows like the originals, which are of one batch of this teacher: again and again, each time of another batch."""
    batch = originals[0].aggregate_id
    teachers = cycle([f"{teacher}-{number:03}" for number in range(_TEACHERS)])
    for another_teacher in teachers:
        another_batch = str(uuid4())
        for row in originals:
            event_id = uuid4()
            data = row.event_data.replace(str(row.event_id), str(event_id))
            yield replace(
                row,
                event_id=event_id,
                aggregate_id=another_batch,
                event_data=data.replace(batch, another_batch).replace(teacher, another_teacher),
                event_key=row.event_key.replace(batch, another_batch).replace(teacher, another_teacher),
            )


@dataclass(frozen=True)
class OutboxOrder(Order):
    """An order about copies of such rows."""

    originals: Sequence[Row]
    teacher: str


@dataclass(frozen=True)
class Fill(OutboxOrder):
    """Insert so many rows, as fast as it goes. Latencies: each transaction, from its first statement to its commit."""

    database_url: str
    rows: int

    async def run(self) -> Took:
        """Do it."""
        rows = copies(self.originals, self.teacher)
        connection = await asyncpg.connect(self.database_url)
        started, latencies, left = time.perf_counter(), [], self.rows
        while left:
            some = min(left, _ROWS_OF_A_TOP_UP)
            latencies.append(await _insert(connection, _columns(islice(rows, some))))
            left -= some
        await connection.close()
        return Took(self.rows, time.perf_counter() - started, sorted(latencies))


@dataclass(frozen=True)
class Offer(OutboxOrder):
    """Insert rows at a rate, several in a transaction, whatever becomes of them. Latencies as in `Fill`."""

    database_url: str
    rows_per_second: float
    rows_of_a_transaction: int
    seconds: float

    async def run(self) -> Took:
        """Do it."""
        rows = copies(self.originals, self.teacher)
        every = self.rows_of_a_transaction / self.rows_per_second
        transactions = max(1, round(self.seconds / every))
        numbers = iter(range(transactions))
        latencies: list[float] = []
        connections = [await asyncpg.connect(self.database_url) for _ in range(_CONNECTIONS)]
        started = time.perf_counter()

        async def offer(connection: asyncpg.Connection) -> None:
            for number in numbers:
                some = _columns(islice(rows, self.rows_of_a_transaction))
                await asyncio.sleep(max(0.0, started + number * every - time.perf_counter()))
                latencies.append(await _insert(connection, some))

        await asyncio.gather(*(offer(connection) for connection in connections))
        # The time that belongs to the last transaction is over with it, or was to be later.
        seconds = max(time.perf_counter() - started, transactions * every)
        for connection in connections:
            await connection.close()
        return Took(transactions * self.rows_of_a_transaction, seconds, sorted(latencies))


@dataclass(frozen=True)
class KeepWaiting(OutboxOrder):
    """Let there be so many rows to publish for a while: as many come in as go out. Latencies as in `Fill`."""

    database_url: str
    waiting: int
    seconds: float

    async def run(self) -> Took:
        """Do it."""
        rows = copies(self.originals, self.teacher)
        # Made before the time is taken, as the bare producer's messages are.
        top_ups = round(self.seconds * _ROWS_A_SECOND_AT_MOST / _ROWS_OF_A_TOP_UP)
        made = deque(_columns(islice(rows, _ROWS_OF_A_TOP_UP)) for _ in range(top_ups))
        connection = await asyncpg.connect(self.database_url)
        started, latencies, inserted = time.perf_counter(), [], 0
        while time.perf_counter() < started + self.seconds:
            missing = self.waiting - await connection.fetchval(_WAITING)
            if missing < _ROWS_OF_A_TOP_UP:
                await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
                continue
            some = made.popleft() if made else _columns(islice(rows, _ROWS_OF_A_TOP_UP))
            latencies.append(await _insert(connection, some))
            inserted += _ROWS_OF_A_TOP_UP
        await connection.close()
        return Took(inserted, time.perf_counter() - started, sorted(latencies))


@dataclass(frozen=True)
class Produce(OutboxOrder):
    """Send the messages of such rows by a bare producer that is made as the service's is, in groups of `batch`.

    At a rate of its own, or as fast as it goes: then the next group waits until the one before is acknowledged, or
    (`waits` false) until the tenth before is. Latencies: each message, from sending to acknowledgement.
    """

    bootstrap_servers: str
    batch: int
    seconds: float
    rows_per_second: float | None = None
    waits: bool = True

    async def run(self) -> Took:
        """Do it."""
        made = islice(copies(self.originals, self.teacher), _MESSAGES)
        messages = cycle([(r.topic, r.event_data.encode(), r.event_key.encode(), r.headers()) for r in made])
        producer = AIOKafkaProducer(
            bootstrap_servers=self.bootstrap_servers,
            enable_idempotence=True,
            acks="all",
            linger_ms=0,
            max_batch_size=256 * 1024,
        )
        await producer.start()
        try:
            for topic in {row.topic for row in self.originals}:
                await producer.partitions_for(topic)
            return await self._send(producer, messages)
        finally:
            await producer.stop()

    async def _send(self, producer: AIOKafkaProducer, messages: Iterator[tuple[Any, ...]]) -> Took:
        latencies: list[float] = []
        groups: list[list[asyncio.Future[Any]]] = []
        outstanding = 1 if self.waits and self.rows_per_second is None else _BATCHES_NOT_WAITED_FOR
        started = time.perf_counter()
        for number in count():
            if self.rows_per_second is not None:
                due = started + number * self.batch / self.rows_per_second
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
            elif len(groups) == outstanding:
                await asyncio.gather(*groups.pop(0))
            if time.perf_counter() > started + self.seconds:
                break
            group = []
            for topic, value, key, headers in islice(messages, self.batch):
                sent_at = time.perf_counter()
                future = await producer.send(topic, value=value, key=key, headers=headers)
                future.add_done_callback(lambda _, at=sent_at: latencies.append(time.perf_counter() - at))
                group.append(future)
            groups.append(group)
        for group in groups:
            await asyncio.gather(*group)
        return Took(len(latencies), time.perf_counter() - started, sorted(latencies))


def _columns(rows: Iterable[Row]) -> list[Sequence[Any]]:
    """What a transaction inserts."""
    return list(zip(*map(astuple, rows), strict=True))


async def _insert(connection: asyncpg.Connection, columns: Sequence[Sequence[Any]]) -> float:
    """One transaction; the seconds from its first statement until it is known to be committed."""
    started = time.perf_counter()
    async with connection.transaction():
        await connection.execute(_INSERT, *columns)
        await connection.execute(_NOTIFY)
    return time.perf_counter() - started
