"""The relay: outbox to Kafka, in order, by one replica at a time.

A session advisory lock elects the one that publishes; the others stand by. PostgreSQL ends a session that falls silent,
and the lock with it, so that a replica that hangs, or whose machine is gone, is replaced within seconds. The lock
elects but does not fence: what a deposed relay still sends arrives again under the same event id. A row is marked
published only after Kafka acknowledged it, so every row is sent at least once.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import asyncpg
import orjson
import structlog
from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidTopicError,
    KafkaError,
    MessageSizeTooLargeError,
    RecordTooLargeError,
    TopicAuthorizationFailedError,
    UnknownTopicOrPartitionError,
)

from result_aggregator_service.failpoints import Failpoint, failpoint
from result_aggregator_service.heartbeat import Heartbeat
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.publishing.outbox_manager import NOTIFY_CHANNEL, OutboxManager, OutboxRow
from result_aggregator_service.resilience.backoff import backoff
from result_aggregator_service.resilience.circuit_breaker import CircuitBreaker
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import Database, connect_directly
from result_aggregator_service.storage.errors import is_trouble

_log = structlog.get_logger(__name__)

#: The advisory lock of the relay: the first eight bytes of SHA-256("result-aggregator-service/relay"), signed.
ELECTION_LOCK = -4_158_831_258_090_969_055
_SECONDS_BETWEEN_ELECTIONS = 1.0
#: TCP alone keeps the session, and the lock, for hours when a machine is gone, and for good when a process is stopped.
_SECONDS_OF_SILENCE = 10
_SECONDS_BETWEEN_SIGNS_OF_LIFE = 2.0
_LONGEST_WAIT_SECONDS = 30.0  # whatever OUTBOX_POLL_INTERVAL says: a loop that is silent for much longer is wedged

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


class Relay:
    """Publishes the outbox while it is elected; `run` ends only after `stop`."""

    def __init__(
        self, settings: Settings, database: Database, outbox: OutboxManager, metrics: Metrics, breaker: CircuitBreaker
    ) -> None:
        self._settings = settings
        self._database = database
        self._outbox = outbox
        self._metrics = metrics
        self._breaker = breaker
        self._producer: AIOKafkaProducer | None = None
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()
        self.heartbeat = Heartbeat()

    def stop(self) -> None:
        """Ask `run` to publish what is in the outbox now, as far as Kafka takes it, and to end."""
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        """Stand by, be elected, publish; over again after any trouble."""
        waits = backoff(0.2, 5.0)
        try:
            while not self._stopping.is_set():
                try:
                    async with self._elected() as connection:
                        if connection is not None:
                            waits = backoff(0.2, 5.0)
                            await self._publish_while_elected(connection)
                except (KafkaError, TimeoutError, OSError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                    await self._trouble(error, next(waits))
                except Exception as error:
                    if not is_trouble(error):
                        raise
                    await self._trouble(error, next(waits))
        finally:
            self._metrics.relay_active.set(0)
            await self._drop_producer()

    async def _trouble(self, error: BaseException, seconds: float) -> None:
        self.heartbeat.waits_for("servers")
        _log.warning("relay_trouble", error=str(error) or type(error).__name__, retry_in_seconds=round(seconds, 2))
        await self._sleep(seconds)

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    @contextlib.asynccontextmanager
    async def _elected(self) -> AsyncIterator[asyncpg.Connection | None]:
        """Wait until this replica is the one that publishes; None if it is to stop before it ever was."""
        connection = await connect_directly(self._settings)
        signs_of_life: asyncio.Task[None] | None = None
        try:
            await connection.execute(f"SET idle_session_timeout = '{_SECONDS_OF_SILENCE}s'")
            while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", ELECTION_LOCK):
                self.heartbeat.beat("standing by")
                await self._sleep(_SECONDS_BETWEEN_ELECTIONS)
                if self._stopping.is_set():
                    yield None
                    return
            self._metrics.relay_active.set(1)
            _log.info("relay_elected")
            await connection.add_listener(NOTIFY_CHANNEL, lambda *_: self._wake.set())
            connection.add_termination_listener(lambda *_: self._wake.set())
            signs_of_life = asyncio.create_task(_give_signs_of_life(connection), name="relay's signs of life")
            yield connection
        finally:
            self._metrics.relay_active.set(0)
            if signs_of_life is not None:
                signs_of_life.cancel()
                await asyncio.wait({signs_of_life})
            with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
                await connection.close(timeout=2)

    async def _publish_while_elected(self, connection: asyncpg.Connection) -> None:
        while True:
            self._wake.clear()
            _require_open(connection)
            if self._breaker.allows():
                await self._publish_all(connection)
            else:
                self.heartbeat.waits_for("Kafka")
            if self._stopping.is_set():
                return
            wait = min(self._settings.outbox_poll_interval, _LONGEST_WAIT_SECONDS)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), min(wait, self._breaker.seconds_to_wait() or wait))

    async def _publish_all(self, connection: asyncpg.Connection) -> None:
        self.heartbeat.beat("publishing")
        if not await self._publish_some():
            await self._look_for_what_is_left()
            return
        self.heartbeat.has_work({})
        while await self._publish_some():
            self.heartbeat.beat("publishing")
            _require_open(connection)

    async def _look_for_what_is_left(self) -> None:
        """Rows that nothing holds back and that are not published all the same are work without progress."""
        async with self._database.snapshot() as session:
            first, rows = await self._outbox.sendable(session)
        self.heartbeat.has_work({} if first is None else {"outbox": first}, f"rows to publish: {rows:,}")

    async def _publish_some(self) -> bool:
        """Send one batch of rows; whether it is worth while to ask for more at once."""
        failpoint(Failpoint.RELAY_CLAIM_BEFORE)
        async with self._database.snapshot() as session:
            rows = await self._outbox.claim(
                session,
                limit=self._settings.outbox_batch_size,
                parked_key_policy=self._settings.outbox_parked_key_policy,
            )
        if not rows:
            return False
        failpoint(Failpoint.RELAY_CLAIM_AFTER)
        sending = _Sending()
        for group in _groups(rows):
            await self._send(group, sending)
            if sending.trouble is not None:
                break
        acknowledged, refused, trouble = sending.acknowledged, sending.refused, sending.trouble
        if acknowledged:
            failpoint(Failpoint.RELAY_MARK_BEFORE)
            async with self._database.transaction() as session:
                delays = await self._outbox.mark_published(session, [row.id for row in acknowledged])
            failpoint(Failpoint.RELAY_MARK_AFTER)
            for delay in delays:
                self._metrics.outbox_publish_delay.observe(delay)
            for row in acknowledged:
                self._metrics.events_published.labels(row.topic, "published").inc()
            _log.info("outbox_published", rows=len(acknowledged))
        if refused:
            await self._note_refusals(refused)
        if trouble is not None:
            self._breaker.failed()
            self.heartbeat.waits_for("Kafka")
            _log.warning(
                "outbox_send_failed",
                error=str(trouble) or type(trouble).__name__,
                rows=len(rows) - len(acknowledged) - len(refused),
                breaker=self._breaker.state.name.lower(),
            )
            await self._drop_producer()
            return False
        self._breaker.succeeded()
        return True

    async def _note_refusals(self, refused: dict[OutboxRow, BaseException]) -> None:
        errors = {row.id: f"{type(error).__name__}: {error}".replace("\x00", "") for row, error in refused.items()}
        async with self._database.transaction() as session:
            parked = await self._outbox.record_failures(
                session, errors, max_attempts=self._settings.outbox_max_attempts
            )
        for row in refused:
            result = "parked" if row.id in parked else "refused"
            self._metrics.events_published.labels(row.topic, result).inc()
            log = _log.error if row.id in parked else _log.warning
            log(
                "outbox_row_parked" if row.id in parked else "outbox_row_refused",
                outbox_id=row.id,
                topic=row.topic,
                event_id=str(row.event_id),
                attempts=row.retry_count + 1,
                error=errors[row.id],
            )

    async def _send(self, rows: Sequence[OutboxRow], sending: "_Sending") -> None:
        """Send rows in order and wait for Kafka. A row behind a refused one of its key and topic is not sent."""
        sent: dict[asyncio.Future[Any], OutboxRow] = {}
        try:
            async with asyncio.timeout(self._settings.outbox_send_timeout_seconds):
                producer = await self._ready_producer()
                failpoint(Failpoint.RELAY_SEND_BEFORE)
                for row in rows:
                    if sending.holds_back(row):
                        continue
                    try:
                        future = await producer.send(
                            row.topic,
                            value=row.event_data.encode(),
                            key=row.event_key.encode(),
                            headers=_headers(row),
                        )
                        sent[future] = row
                    except _REFUSALS as error:
                        sending.refuse(row, error)
        except (KafkaError, OSError, TimeoutError) as error:
            sending.trouble = error
        if not sent:
            return
        failpoint(Failpoint.RELAY_SEND_AFTER)
        done, pending = await asyncio.wait(sent, timeout=self._settings.outbox_send_timeout_seconds)
        failpoint(Failpoint.RELAY_ACKNOWLEDGEMENT_AFTER)
        for future in done:
            outcome = future.exception()
            if outcome is None:
                sending.acknowledged.append(sent[future])
            elif isinstance(outcome, _REFUSALS):
                # An idempotent producer does not get over a batch that was refused: its sequence has a gap.
                sending.refuse(sent[future], outcome)
                await self._drop_producer()
            else:
                sending.trouble = outcome
        if pending:
            sending.trouble = TimeoutError(f"Kafka acknowledged {len(done)} of {len(sent)} rows in time")

    async def _ready_producer(self) -> AIOKafkaProducer:
        if self._producer is None:
            producer = AIOKafkaProducer(
                **self._settings.kafka_client_options(),
                client_id=self._settings.kafka_producer_client_id,
                enable_idempotence=True,
                acks="all",
                linger_ms=2,
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

    async def _drop_producer(self) -> None:
        """Give up a producer that may have gone bad; the next send makes a new one."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with contextlib.suppress(KafkaError, OSError, TimeoutError, asyncio.CancelledError):
                await asyncio.wait_for(producer.stop(), 5)


def _require_open(connection: asyncpg.Connection) -> None:
    if connection.is_closed():
        raise asyncpg.ConnectionDoesNotExistError("the connection that holds the relay's lock was lost")


async def _give_signs_of_life(connection: asyncpg.Connection) -> None:
    """Keep the session that holds the lock from falling silent; close it if PostgreSQL does not answer in time."""
    with contextlib.suppress(OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        while True:
            await asyncio.sleep(_SECONDS_BETWEEN_SIGNS_OF_LIFE)
            await connection.execute("SELECT 1", timeout=_SECONDS_OF_SILENCE / 2)
    connection.terminate()


def _headers(row: OutboxRow) -> list[tuple[str, bytes]]:
    """What the platform's producers say in headers, so that a consumer need not open the value."""
    envelope = orjson.loads(row.event_data)
    headers = [
        ("event_id", str(row.event_id).encode()),
        ("event_type", row.event_type.encode()),
        ("source_service", envelope["source_service"].encode()),
        ("schema_version", str(envelope["schema_version"]).encode()),
        ("occurred_at", envelope["event_timestamp"].encode()),
        ("trace_id", envelope["correlation_id"].encode()),
        ("content_type", b"application/json"),
    ]
    if row.traceparent is not None:
        headers.append(("traceparent", row.traceparent.encode()))
    return headers


def _groups(rows: Sequence[OutboxRow]) -> list[list[OutboxRow]]:
    """Rows that are sent together. One that failed before goes alone, so that it cannot take others down with it."""
    groups: list[list[OutboxRow]] = []
    for row in rows:
        if row.retry_count == 0 and groups and groups[-1][-1].retry_count == 0:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups


@dataclass
class _Sending:
    """What became of a batch of rows."""

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

    def holds_back(self, row: OutboxRow) -> bool:
        """Whether the row is to wait for a later batch."""
        return row.topic in self._held_back or (row.topic, row.event_key) in self._held_back
