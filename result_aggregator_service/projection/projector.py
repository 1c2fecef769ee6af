"""Projects a poll into the read model: inbox, facts, completion, outbox and quarantine in ONE transaction.

Invariant: when `project` returns, everything in the poll is durable, or is known to have been before.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Mapping, Sequence, Set
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, Protocol, TypeVar
from uuid import UUID

from result_aggregator_service.contracts.enums import Phase
from result_aggregator_service.domain.event import Event
from result_aggregator_service.domain.fold import Facts, fold, results_by_phase
from result_aggregator_service.failpoints import Failpoint, failpoint
from result_aggregator_service.projection.completion import Completion
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.fact_rows import FactRows
from result_aggregator_service.storage.inbox import Inbox, InboxEntry
from result_aggregator_service.storage.projection_repository import ProjectionRepository, Touched
from result_aggregator_service.storage.quarantine import BadMessage, Quarantine
from result_aggregator_service.storage.session import WriteSession
from result_aggregator_service.turns import Slices

_EVENTS_AT_ONCE = 20

Done = TypeVar("Done")


class SeenMarks(Protocol):
    """Remembers, as long as it cares to, which messages a database has folded; may forget any."""

    async def seen(self, database_id: str, event_ids: Sequence[UUID]) -> set[UUID]:
        """Those of the messages that are marked."""

    async def mark(self, database_id: str, event_ids: Sequence[UUID]) -> None:
        """Mark messages whose transaction has committed."""


class KafkaRecord(Protocol):
    """A record as aiokafka gives it; `timestamp` is Kafka's, in milliseconds."""

    @property
    def topic(self) -> str: ...
    @property
    def partition(self) -> int: ...
    @property
    def offset(self) -> int: ...
    @property
    def timestamp(self) -> int: ...
    @property
    def key(self) -> bytes | None: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


class _Marked(NamedTuple):
    """Messages that a database has folded, as far as is remembered, by the numbers that their ids are."""

    event_ids: Set[int]
    database_id: str


class Message(NamedTuple):
    """A decoded message and the record it was read from."""

    event: Event
    record: KafkaRecord


def bad_message(record: KafkaRecord, error_type: str, error: str) -> BadMessage:
    """A record on its way to quarantine."""
    return BadMessage(
        topic=record.topic,
        partition=record.partition,
        offset=record.offset,
        key=record.key,
        value=record.value,
        headers=record.headers,
        produced_ms=record.timestamp,
        error_type=error_type,
        error=error,
    )


@dataclass(frozen=True, slots=True)
class _Folded:
    """What some of a poll's messages say, each once, and how that goes into the tables.

    `events` are those that were folded, by the numbers that their ids are, `others` all others; `results` is how many
    results of essays the folded ones hold.
    """

    events: Mapping[int, Event]
    others: Sequence[Event]
    rows: FactRows
    results: Counter[Phase]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What was marked of a poll some time before its transaction, and what those messages say that seemed to be new.

    `firsts`: as of `_firsts`.
    """

    firsts: Mapping[int, "Message"]
    marked: _Marked
    folded: _Folded


@dataclass(frozen=True, slots=True)
class Poll:
    """What one poll brought: messages that could be decoded and messages that could not; and what is made of it."""

    messages: Sequence[Message]
    bad: Sequence[BadMessage]
    prepared: _Prepared | None = None

    def __len__(self) -> int:
        return len(self.messages) + len(self.bad)


@dataclass
class Projected:
    """What came of a poll: events folded now and before, whose answers may have changed, essay results.

    `folded_again` is how many of the folded the inbox knew already; `database_id` names the database that has them now.
    """

    folded: list[Event] = field(default_factory=list)
    folded_again: int = 0
    duplicates: list[Event] = field(default_factory=list)
    touched: Touched = field(default_factory=Touched)
    results: Counter[Phase] = field(default_factory=Counter)
    database_id: str = ""


@asynccontextmanager
async def _meanwhile(work: Coroutine[Any, Any, Done]) -> AsyncIterator[asyncio.Task[Done]]:
    """Begin some work and go on beside it; when the block is left, it is done or given up."""
    task = asyncio.create_task(work)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def _entries(messages: Iterable[Message]) -> list[InboxEntry]:
    return [(event.clock.event_id, record.topic, record.partition, record.offset) for event, record in messages]


def _firsts(messages: Sequence[Message]) -> dict[int, Message]:
    """The first message of each event id. By the id's number: to look UUIDs up takes several times as long."""
    firsts: dict[int, Message] = {}
    for message in messages:
        firsts.setdefault(message.event.clock.event_id.int, message)
    return firsts


async def _fold_in_slices(events: Sequence[Event]) -> Facts:
    """Fold, and let the loop answer requests meanwhile."""
    facts, slices = Facts(), Slices()
    for start in range(0, len(events), _EVENTS_AT_ONCE):
        fold(events[start : start + _EVENTS_AT_ONCE], facts)
        if slices.is_over:
            await slices.give_way()
    return facts


async def _folded(messages: Sequence[Message], event_ids: Set[int]) -> _Folded:
    """Fold the messages of some ids."""
    firsts: dict[int, Event] = {}
    others: list[Event] = []
    for event, _ in messages:
        event_id = event.clock.event_id.int
        if event_id in event_ids and event_id not in firsts:
            firsts[event_id] = event
        else:
            others.append(event)
    facts = await _fold_in_slices(list(firsts.values()))
    rows = FactRows(facts)
    await rows.make_ahead()
    return _Folded(firsts, others, rows, results_by_phase(facts))


class Projector:
    """Runs the transaction of a poll."""

    def __init__(
        self,
        database: Database,
        inbox: Inbox,
        repository: ProjectionRepository,
        completion: Completion,
        quarantine: Quarantine,
        marks: SeenMarks,
    ) -> None:
        self._database = database
        self._inbox = inbox
        self._repository = repository
        self._completion = completion
        self._quarantine = quarantine
        self._marks = marks
        self._database_id = ""
        self._prepared: Set[int] = frozenset()

    async def prepare(self, poll: Poll) -> Poll:
        """Work out ahead what a poll says that is not known yet, while the one before is in PostgreSQL's hands.

        What seems to be new may have been folded all the same: what the inbox says counts.
        """
        firsts = _firsts(poll.messages)
        marked = await self._marked(firsts.values())
        # The poll before is not marked yet.
        folded = await _folded(poll.messages, firsts.keys() - marked.event_ids - self._prepared)
        self._prepared = frozenset(firsts)  # and not the messages
        return replace(poll, prepared=_Prepared(firsts, marked, folded))

    async def project(
        self, poll: Poll, *, again: bool = False, nearly_done: Callable[[], None] = lambda: None
    ) -> Projected:
        """Project a poll; nothing of it is kept if this raises.

        Args:
            poll: what to project.
            again: fold also what has been folded before.
            nearly_done: called when all is said but the commit.
        """
        projected = Projected()
        prepared = poll.prepared
        firsts = prepared.firsts if prepared else _firsts(poll.messages)
        failpoint(Failpoint.TRANSACTION_BEGIN_BEFORE)
        async with (
            _meanwhile(self._marked(() if again or prepared else firsts.values())) as looking,
            self._database.transaction() as session,
        ):
            failpoint(Failpoint.TRANSACTION_BEGIN_AFTER)
            if poll.bad:
                await self._quarantine.store(session, poll.bad)
                failpoint(Failpoint.STATEMENTS_QUARANTINE_AFTER)
            if poll.messages:
                marked = prepared.marked if prepared else await looking
                entered = await self._enter(session, firsts, marked, projected)
                failpoint(Failpoint.STATEMENTS_INBOX_AFTER)
                new = firsts.keys() if again else entered
                projected.folded_again = len(new) - len(entered)
                folded = prepared.folded if prepared else None
                if folded is None or folded.events.keys() != new:
                    folded = await _folded(poll.messages, new)
                await self._store(session, folded, projected)
            nearly_done()
            failpoint(Failpoint.TRANSACTION_COMMIT_BEFORE)
        failpoint(Failpoint.TRANSACTION_COMMIT_AFTER)
        return projected

    async def mark(self, projected: Projected) -> None:
        """Mark what was folded, to spare the look-up where it comes again."""
        if projected.folded:
            await self._marks.mark(projected.database_id, [event.clock.event_id for event in projected.folded])
            failpoint(Failpoint.MARKS_WRITE_AFTER)

    async def _marked(self, messages: Collection[Message]) -> _Marked:
        """Those that are marked as of the database of the poll before; asked beside that of this one."""
        database_id = self._database_id
        if not (messages and database_id):
            return _Marked(frozenset(), database_id)
        marked = await self._marks.seen(database_id, [event.clock.event_id for event, _ in messages])
        return _Marked({event_id.int for event_id in marked}, database_id)

    async def _enter(
        self, session: WriteSession, firsts: Mapping[int, Message], marked: _Marked, projected: Projected
    ) -> set[int]:
        """Enter what is not marked; and what is, where the marks turn out to be of another database.

        Returns which of them are new.
        """
        new = firsts.keys() - marked.event_ids
        known, projected.database_id = await self._inbox.enter(session, _entries(map(firsts.__getitem__, new)))
        if marked.event_ids and marked.database_id != projected.database_id:
            new = set(firsts)
            known |= (await self._inbox.enter(session, _entries(map(firsts.__getitem__, marked.event_ids)))).known
        self._database_id = projected.database_id
        return new - {event_id.int for event_id in known}

    async def _store(self, session: WriteSession, folded: _Folded, projected: Projected) -> None:
        projected.folded, projected.duplicates = list(folded.events.values()), list(folded.others)
        if projected.folded:
            projected.results = folded.results
            projected.touched = await self._repository.store(session, folded.rows)
            await self._completion.settle(session, projected.touched)
        if projected.duplicates:
            # The first delivery may have died between its commit and its invalidation.
            facts = await _fold_in_slices(projected.duplicates)
            projected.touched.merge(await self._repository.touched_by(session, facts))
