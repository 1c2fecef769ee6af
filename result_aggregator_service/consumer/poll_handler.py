"""The way of a poll: decoded, projected, made fresh for readers. The consumer, a replay and a retry all go it.

Invariant: when `handle` returns, every record is durable: as its effects, or in quarantine. What goes wrong on the way
is retried while a server is in trouble, or narrowed down to the one message whose fault it is.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol, TypeVar

import structlog
from structlog.contextvars import bound_contextvars

from result_aggregator_service.cache.poison_pills import PoisonPills
from result_aggregator_service.consumer.causes import of_bad, of_one
from result_aggregator_service.consumer.decoder import Decoder, InvalidMessageError, InvalidReason
from result_aggregator_service.failpoints import Failpoint, failpoint
from result_aggregator_service.observability.logging import first_line
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.observability.tracing import NO_TRACING, Tracing
from result_aggregator_service.projection.projector import (
    KafkaRecord,
    Message,
    Poll,
    Projected,
    Projector,
    bad_message,
)
from result_aggregator_service.resilience.backoff import backoff
from result_aggregator_service.resilience.circuit_breaker import CircuitBreaker
from result_aggregator_service.storage.errors import is_refusal_of_content, is_trouble
from result_aggregator_service.storage.projection_repository import Touched
from result_aggregator_service.storage.quarantine import BadMessage
from result_aggregator_service.turns import Slices

_log = structlog.get_logger(__name__)

_LONGEST_BACKOFF_SECONDS = 2.0
_LONGEST_WAIT_SECONDS = 10.0

Done = TypeVar("Done")
Wait = Callable[[float], Awaitable[None]]
"""How to wait so many seconds for a server in trouble; what it raises ends the way of the poll."""


class CacheInvalidator(Protocol):
    """Makes what a poll touched fresh for readers, now or, if Redis is away, as soon as it is back."""

    async def invalidate(self, touched: Touched) -> None:
        """Invalidate, or write down durably what is still to be invalidated."""


@dataclass
class Handled:
    """What came of a poll: messages folded, those of them that had been before, duplicates, the bad ones; whose."""

    folded: int = 0
    folded_again: int = 0
    duplicates: int = 0
    bad: list[BadMessage] = field(default_factory=list)
    batch_ids: set[str] = field(default_factory=set)


class PollHandler:
    """Handles polls one at a time; the breaker is that of PostgreSQL."""

    def __init__(
        self,
        decoder: Decoder,
        projector: Projector,
        invalidator: CacheInvalidator,
        poison_pills: PoisonPills,
        metrics: Metrics,
        breaker: CircuitBreaker,
        tracing: Tracing = NO_TRACING,
        *,
        raise_on_deserialization_error: bool = False,
    ) -> None:
        self._decoder = decoder
        self._projector = projector
        self._invalidator = invalidator
        self._poison_pills = poison_pills
        self._metrics = metrics
        self._breaker = breaker
        self._tracing = tracing
        self._raise_on_deserialization_error = raise_on_deserialization_error
        self._marking: asyncio.Task[None] | None = None

    async def handle(self, records: Iterable[KafkaRecord], wait: Wait, *, again: bool = False) -> Handled:
        """Decode records, then handle them as a poll (`handle_poll`).

        Raises:
            InvalidMessageError: a message is bad, and RAISE_ON_DESERIALIZATION_ERROR is set.
        """
        handled = await self.handle_poll(await self.decode(records), wait, again=again)
        await self.settle()
        return handled

    async def handle_poll(
        self, poll: Poll, wait: Wait, *, again: bool = False, nearly_done: Callable[[], None] = lambda: None
    ) -> Handled:
        """Project a poll and make it fresh for readers; `again`, `nearly_done`: as in `Projector.project`.

        Its messages are marked beside what the caller does next, another poll for instance (`settle`).
        A part whose content is refused is halved, until the message to blame stands alone and goes to quarantine.
        """
        self._metrics.poll_records.observe(len(poll))
        handled = Handled()
        parts = deque([poll])
        while parts:
            part = parts.popleft()
            with bound_contextvars(**of_one(part)):
                try:
                    projected = await self.retried(wait, "project", partial(self._project, part, again, nearly_done))
                except RefusedContentError as refused:
                    _log.warning("poll_refused", messages=len(part), error=first_line(refused.__cause__))
                    parts.extendleft(reversed(_narrowed(part, refused)))
                    continue
                await self._freshen(wait, projected.touched)
                await self._begin_to_mark(projected)
                for message in part.bad:
                    await self._poison_pills.store(message)
                self._count(projected, part.bad)
                handled.folded += len(projected.folded)
                handled.folded_again += projected.folded_again
                handled.duplicates += len(projected.duplicates)
                handled.bad += part.bad
                handled.batch_ids |= projected.touched.batch_ids
        return handled

    async def _project(self, part: Poll, again: bool, nearly_done: Callable[[], None]) -> Projected:
        with self._tracing.transaction("project"):
            return await self._projector.project(part, again=again, nearly_done=nearly_done)

    async def settle(self) -> None:
        """Wait until all that was projected is marked."""
        marking, self._marking = self._marking, None
        if marking is not None:
            await marking

    async def _begin_to_mark(self, projected: Projected) -> None:
        """Nothing depends on the marks, and for those of a full poll Redis takes some milliseconds."""
        await self.settle()
        self._marking = asyncio.create_task(self._projector.mark(projected))

    async def _freshen(self, wait: Wait, touched: Touched) -> None:
        if touched.batch_ids or touched.user_ids:
            failpoint(Failpoint.CACHE_INVALIDATE_BEFORE)
            await self.retried(wait, "invalidate", partial(self._invalidator.invalidate, touched))
            failpoint(Failpoint.CACHE_INVALIDATE_AFTER)

    async def decode(self, records: Iterable[KafkaRecord]) -> Poll:
        """Decode a poll, in turns between which the loop can answer requests.

        Raises:
            InvalidMessageError: a message is bad, and RAISE_ON_DESERIALIZATION_ERROR is set.
        """
        failpoint(Failpoint.POLL_DECODE_BEFORE)
        messages: list[Message] = []
        bad: list[BadMessage] = []
        slices = Slices()  # messages differ by a thousand times in what they take
        for record in records:
            try:
                messages.append(Message(self._decoder.decode(record), record))
            except InvalidMessageError as invalid:
                if self._raise_on_deserialization_error:
                    raise
                bad.append(bad_message(record, invalid.reason, invalid.detail))
            if slices.is_over:
                await slices.give_way()
        failpoint(Failpoint.POLL_DECODE_AFTER)
        return Poll(messages, bad)

    async def prepare(self, poll: Poll) -> Poll:
        """Do all else with a poll that can be done while the one before is handled.

        What goes wrong with that is left to `handle_poll`, which finds the message to blame.
        """
        try:
            return await self._projector.prepare(poll)
        except Exception:  # noqa: BLE001 - the poll itself is there all the same
            # Where a message is to blame it is raised again when the poll is handled, and looked into.
            _log.warning("poll_not_prepared", messages=len(poll.messages), exc_info=True)
            return poll

    async def retried(self, wait: Wait, operation: str, work: Callable[[], Awaitable[Done]]) -> Done:
        """Do some work on PostgreSQL, again and again while it is in trouble.

        Raises:
            RefusedContentError: it is the content that is refused.
        """
        waits = backoff(0.1, _LONGEST_BACKOFF_SECONDS)
        while True:
            if self._breaker.allows():
                try:
                    with self._metrics.db_operation_duration.labels(operation).time():
                        result = await work()
                except Exception as error:
                    self._metrics.db_operations.labels(operation, "failed").inc()
                    if not is_trouble(error):
                        self._breaker.succeeded()
                        raise RefusedContentError from error
                    self._breaker.failed()
                    self._metrics.consumer_errors.inc()
                    _log.warning(
                        "database_unavailable",
                        operation=operation,
                        error=first_line(error),
                        breaker=self._breaker.state.name.lower(),
                    )
                else:
                    self._breaker.succeeded()
                    self._metrics.db_operations.labels(operation, "done").inc()
                    return result
            await wait(max(next(waits), min(self._breaker.seconds_to_wait(), _LONGEST_WAIT_SECONDS)))

    def _count(self, projected: Projected, bad: Sequence[BadMessage]) -> None:
        for result, events in (("folded", projected.folded), ("duplicate", projected.duplicates)):
            for topic, number in Counter(event.topic for event in events).items():
                self._metrics.messages_processed.labels(topic, result).inc(number)
        for phase, number in projected.results.items():
            self._metrics.essays_aggregated.labels(phase).inc(number)
        for message in bad:
            self._metrics.messages_processed.labels(message.topic, "quarantined").inc()
            self._metrics.invalid_messages.labels(message.topic, message.error_type).inc()
            with bound_contextvars(**of_bad(message)):
                _log.warning("message_quarantined", error_type=message.error_type, error=message.error[:500])


class RefusedContentError(Exception):
    """PostgreSQL, or the service itself, cannot take what a poll says, and never will."""


def _narrowed(part: Poll, refused: RefusedContentError) -> list[Poll]:
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
            Poll((), [bad_message(part.messages[0].record, reason, f"{type(cause).__name__}: {first_line(cause)}")])
        ]
    raise refused  # the quarantine itself is refused: nothing is lost as long as nothing goes on
