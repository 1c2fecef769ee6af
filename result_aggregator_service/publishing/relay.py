"""The relay: outbox to Kafka, in order, by one replica at a time.

A row is marked published only after Kafka acknowledged it, so every row is sent at least once. Kafka has one batch of
rows at a time; meanwhile PostgreSQL marks the batch before it and hands over the next one.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import structlog
from aiokafka.errors import KafkaError
from pydantic_core import from_json

from result_aggregator_service.failpoints import Failpoint, failpoint
from result_aggregator_service.heartbeat import Heartbeat
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.publishing.election import Election, first_of
from result_aggregator_service.publishing.outbox_queue import OutboxQueue, OutboxRow
from result_aggregator_service.publishing.sender import Sender, Sent
from result_aggregator_service.resilience.backoff import backoff
from result_aggregator_service.resilience.circuit_breaker import CircuitBreaker
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.errors import is_trouble

_log = structlog.get_logger(__name__)

_LONGEST_WAIT_SECONDS = 30.0  # whatever OUTBOX_POLL_INTERVAL says: a loop that is silent for much longer is wedged
_SECONDS_BETWEEN_LOOKS_FOR_WHAT_IS_LEFT = 5.0


class Relay:
    """Publishes the outbox while it is elected; `run` ends only after `stop`."""

    def __init__(
        self, settings: Settings, election: Election, sender: Sender, metrics: Metrics, breaker: CircuitBreaker
    ) -> None:
        self._settings = settings
        self._election = election
        self._sender = sender
        self._metrics = metrics
        self._breaker = breaker
        self._stopping = asyncio.Event()
        self._wake = asyncio.Event()
        self._waits = _waits()
        self._looked_for_what_is_left = -_SECONDS_BETWEEN_LOOKS_FOR_WHAT_IS_LEFT
        self.heartbeat = Heartbeat()

    def stop(self) -> None:
        """Ask `run` to publish what is in the outbox now, as far as Kafka takes it, and to end."""
        self._stopping.set()
        self._wake.set()

    async def run(self) -> None:
        """Stand by, be elected, publish; over again after any trouble."""
        serve = self._serve_a_tenure if self._settings.outbox_listen else self._take_turns
        try:
            while not self._stopping.is_set():
                try:
                    await serve()
                except Exception as error:
                    if not (isinstance(error, KafkaError) or is_trouble(error)):
                        raise
                    await self._trouble(error)
        finally:
            self._metrics.relay_active.set(0)
            await self._sender.drop_producer()

    async def _trouble(self, error: Exception) -> None:
        self.heartbeat.waits_for("servers")
        seconds = next(self._waits)
        _log.warning("relay_trouble", error=str(error) or type(error).__name__, retry_in_seconds=round(seconds, 2))
        await first_of(self._stopping, seconds=seconds)

    async def _serve_a_tenure(self) -> None:
        """Be elected for as long as nothing goes wrong."""
        try:
            async with self._election.tenure(
                stopping=self._stopping, wake=self._wake, standing_by=lambda: self.heartbeat.beat("standing by")
            ) as queue:
                if queue is None:
                    return
                self._metrics.relay_active.set(1)
                self._waits = _waits()
                _log.info("relay_elected")
                while True:
                    self._wake.clear()
                    if self._breaker.allows():
                        await self._publish_all(queue)
                    else:
                        await queue.sign_of_life()
                        self.heartbeat.waits_for("Kafka")
                    if self._stopping.is_set():
                        return
                    await self._wait()
        finally:
            self._metrics.relay_active.set(0)

    async def _take_turns(self) -> None:
        """Be elected for each batch of rows anew."""
        async with self._election.candidacy() as connection:
            while True:
                self._wake.clear()
                more = False
                if self._breaker.allows():
                    async with self._election.turn(connection) as queue:
                        self._metrics.relay_active.set(queue is not None)
                        if queue is None:
                            self.heartbeat.beat("standing by")
                        else:
                            more = await self._publish_batch(queue)
                    self._waits = _waits()
                else:
                    self.heartbeat.waits_for("Kafka")
                if not more:
                    if self._stopping.is_set():
                        return
                    await self._wait()

    async def _wait(self) -> None:
        """Until somebody says that there is something to do, or it is time to look."""
        seconds = min(self._settings.outbox_poll_interval, _LONGEST_WAIT_SECONDS)
        await first_of(self._wake, seconds=min(seconds, self._breaker.seconds_to_wait() or seconds))

    async def _publish_all(self, queue: OutboxQueue) -> None:
        """Publish batch after batch until there is none, or Kafka is in trouble."""
        acknowledged: list[OutboxRow] = []
        rows = await self._claim(queue)
        if not rows:
            await self._look_for_what_is_left(queue)
        while rows or acknowledged:
            sending = asyncio.create_task(self._sender.send(rows), name="a batch of outbox rows")
            try:
                await self._mark(queue, acknowledged)
                following = await self._claim_behind(rows, queue)
                sent = await sending
            finally:
                if not sending.done():
                    sending.cancel()
                    await asyncio.wait({sending})
            if sent.refused or sent.trouble is not None:
                if not await self._settle(queue, sent):
                    return
                # What follows was claimed before it was known what it has to wait for.
                acknowledged, rows = [], await self._claim(queue)
            else:
                if rows:
                    self._breaker.succeeded()
                # What has come meanwhile goes to Kafka before this is marked, which waits for PostgreSQL's disk.
                acknowledged, rows = sent.acknowledged, following or await self._claim_behind(rows, queue)

    async def _claim_behind(self, rows: Collection[OutboxRow], queue: OutboxQueue) -> list[OutboxRow]:
        """What follows rows that are not marked yet: none, if they are no full batch and nobody has told of more."""
        if len(rows) < self._settings.outbox_batch_size and not self._wake.is_set():
            return []
        return await self._claim(queue, in_flight=rows)

    async def _publish_batch(self, queue: OutboxQueue) -> bool:
        """Publish one batch; whether it is worth while to ask for more at once."""
        rows = await self._claim(queue)
        if not rows:
            await self._look_for_what_is_left(queue)
            return False
        return await self._settle(queue, await self._sender.send(rows))

    async def _look_for_what_is_left(self, queue: OutboxQueue) -> None:
        """Rows that nothing holds back and that are not published all the same are work without progress."""
        if time.monotonic() < self._looked_for_what_is_left + _SECONDS_BETWEEN_LOOKS_FOR_WHAT_IS_LEFT:
            return
        self._looked_for_what_is_left = time.monotonic()
        first, rows = await queue.sendable()
        self.heartbeat.has_work({} if first is None else {"outbox": first}, f"rows to publish: {rows:,}")

    async def _claim(self, queue: OutboxQueue, *, in_flight: Collection[OutboxRow] = ()) -> list[OutboxRow]:
        self.heartbeat.beat("publishing")
        self._wake.clear()
        failpoint(Failpoint.RELAY_CLAIM_BEFORE)
        rows = await queue.claim(limit=self._settings.outbox_batch_size, in_flight=[row.id for row in in_flight])
        if rows:
            self.heartbeat.has_work({})
            failpoint(Failpoint.RELAY_CLAIM_AFTER)
        return rows

    async def _settle(self, queue: OutboxQueue, sent: Sent) -> bool:
        """Note what became of rows; whether Kafka takes more."""
        await self._mark(queue, sent.acknowledged)
        await self._note_refusals(queue, sent.refused)
        if sent.trouble is None:
            self._breaker.succeeded()
            return True
        self._breaker.failed()
        self.heartbeat.waits_for("Kafka")
        _log.warning(
            "outbox_send_failed",
            error=str(sent.trouble) or type(sent.trouble).__name__,
            breaker=self._breaker.state.name.lower(),
        )
        return False

    async def _mark(self, queue: OutboxQueue, rows: Collection[OutboxRow]) -> None:
        if not rows:
            return
        failpoint(Failpoint.RELAY_MARK_BEFORE)
        delays = await queue.mark_published([row.id for row in rows])
        failpoint(Failpoint.RELAY_MARK_AFTER)
        for delay in delays:
            self._metrics.outbox_publish_delay.observe(delay)
        self._count(rows, "published")
        _log.info("outbox_published", rows=len(rows))

    async def _note_refusals(self, queue: OutboxQueue, refused: Mapping[OutboxRow, BaseException]) -> None:
        if not refused:
            return
        errors = {row.id: f"{type(error).__name__}: {error}".replace("\x00", "") for row, error in refused.items()}
        parked = await queue.record_failures(errors, max_attempts=self._settings.outbox_max_attempts)
        for row in refused:
            self._count([row], "parked" if row.id in parked else "refused")
            attempts, error = row.retry_count + 1, errors[row.id][:500]
            with structlog.contextvars.bound_contextvars(**_cause_of(row)):
                if row.id in parked:
                    _log.error("outbox_row_parked", outbox_id=row.id, topic=row.topic, attempts=attempts, error=error)
                else:
                    _log.warning(
                        "outbox_row_refused", outbox_id=row.id, topic=row.topic, attempts=attempts, error=error
                    )

    def _count(self, rows: Iterable[OutboxRow], result: str) -> None:
        for (topic, is_retry), number in Counter((row.topic, row.retry_count > 0) for row in rows).items():
            self._metrics.events_published.labels(topic, result).inc(number)
            if is_retry:
                self._metrics.outbox_retries.labels(topic).inc(number)


def _cause_of(row: OutboxRow) -> dict[str, Any]:
    """What log lines about a row carry: its event, and what its envelope says of whom it is about, if it holds one."""
    try:
        envelope = from_json(row.event_data)
        told = {"correlation_id": envelope["correlation_id"], "batch_id": envelope["data"]["batch_id"]}
    except (ValueError, LookupError, TypeError):
        told = {}
    return {"event_id": str(row.event_id), **told}


def _waits() -> Iterator[float]:
    return backoff(0.2, 5.0)
