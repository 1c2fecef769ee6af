"""The outbox table: rows enter it in the transaction of the change that caused them, and leave it by the relay.

Invariant: what a transaction announced is in the outbox if and only if that transaction committed.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import ARRAY, ColumnElement, Text, and_, any_, bindparam, case, func, literal, select, text

from result_aggregator_service.domain.announcements import Announcement
from result_aggregator_service.storage.session import ReadSession, WriteSession
from result_aggregator_service.storage.tables import event_outbox
from result_aggregator_service.turns import InSlices

NOTIFY_CHANNEL = "ras_outbox"
AGGREGATE_TYPE = "batch"

_COLUMNS = {
    "event_id": "uuid",
    "aggregate_type": "text",
    "aggregate_id": "text",
    "event_type": "text",
    "event_data": "json",
    "event_key": "text",
    "topic": "text",
    "traceparent": "text",
}
_NAMES = ", ".join(_COLUMNS)
_ENQUEUE = text(
    f"INSERT INTO event_outbox ({_NAMES}) SELECT {_NAMES} FROM "
    f"unnest({', '.join(f'CAST(:{name} AS {kind}[])' for name, kind in _COLUMNS.items())}) "
    f"WITH ORDINALITY AS row({_NAMES}, place) ORDER BY place"
)
# Ids are drawn before their transactions commit. Whoever announces under one of these keys waits until the last one who
# did has committed, so that the order of ids is that of commits. In one order for all, each lock once.
_KEY_LOCKS = 7_351
_TAKE_TURNS = text(
    f"SELECT pg_advisory_xact_lock({_KEY_LOCKS}, turn) FROM (SELECT DISTINCT hashtext(key) AS turn "
    "FROM unnest(CAST(:keys AS text[])) AS key ORDER BY turn) AS turns"
)
_NOTIFY = text(f"SELECT pg_notify('{NOTIFY_CHANNEL}', '')")

# `now()`, not `clock_timestamp()`: only what stands still during the statement can bound the scan of an index. Else all
# that is published would be read for the little that is past its retention. An array, not IN: that is looked up by the
# primary key, whatever PostgreSQL takes the table for.
_DELETE_PUBLISHED = text(
    """
    DELETE FROM event_outbox WHERE id = ANY(ARRAY(
        SELECT id FROM event_outbox
        WHERE published_at < now() - make_interval(secs => :seconds)
        ORDER BY published_at LIMIT :rows FOR UPDATE SKIP LOCKED))
    RETURNING id
    """
)
# What an operator does. Rows are locked in the order of their ids, the relay's own order.
_REQUEUE = text(
    """
    UPDATE event_outbox SET retry_count = 0, next_attempt_at = NULL, parked_at = NULL
    WHERE id IN (SELECT id FROM event_outbox WHERE id = ANY(:ids) ORDER BY id FOR UPDATE)
      AND published_at IS NULL AND retry_count > 0
    RETURNING id
    """
)
_DROP = text(
    """
    DELETE FROM event_outbox
    WHERE id IN (SELECT id FROM event_outbox WHERE id = ANY(:ids) ORDER BY id FOR UPDATE)
      AND published_at IS NULL AND (parked_at IS NOT NULL OR NOT :only_parked)
    RETURNING id
    """
)
_STATISTICS = text(
    """
    SELECT count(*) AS depth, count(parked_at) AS parked,
           coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS oldest_seconds
    FROM event_outbox WHERE published_at IS NULL
    """
)


@dataclass(frozen=True, slots=True)
class OutboxStatistics:
    """How full the outbox is: unpublished rows, those of them that are parked, and the age of the oldest in seconds."""

    depth: int
    parked: int
    oldest_seconds: float


class RowState(StrEnum):
    """Where a row stands: not tried yet, refused and to be tried again, out of tries, or acknowledged by Kafka."""

    WAITING = "waiting"
    RETRYING = "retrying"
    PARKED = "parked"
    PUBLISHED = "published"


UNPUBLISHED = (RowState.WAITING, RowState.RETRYING, RowState.PARKED)

_row = event_outbox.c
_earlier = event_outbox.alias("earlier")
_STATE = case(
    (_row.published_at.is_not(None), RowState.PUBLISHED),
    (_row.parked_at.is_not(None), RowState.PARKED),
    (_row.retry_count > 0, RowState.RETRYING),
    else_=RowState.WAITING,
)
_STATES = select(_row.id, _STATE).where(_row.id == any_(bindparam("ids")))
_BEHIND = case(
    (
        _row.published_at.is_(None),
        select(func.min(_earlier.c.id))
        .where(
            _earlier.c.published_at.is_(None),
            _earlier.c.retry_count > 0,
            _earlier.c.topic == _row.topic,
            _earlier.c.event_key == _row.event_key,
            _earlier.c.id < _row.id,
        )
        .scalar_subquery(),
    )
)
_RECORD = select(
    *(column for column in _row if column.name not in ("aggregate_type", "aggregate_id")),
    _STATE.label("state"),
    _BEHIND.label("behind"),
)


@dataclass(frozen=True, slots=True)
class OutboxFilter:
    """Which rows an operator means. `error` is any part of the last error; rows were made in [`since`, `until`)."""

    states: Collection[RowState] = UNPUBLISHED
    topic: str | None = None
    key: str | None = None
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def condition(self) -> ColumnElement[bool]:
        """As a condition on `event_outbox`."""
        states = literal([state.value for state in self.states], ARRAY(Text()))
        conditions: list[ColumnElement[bool]] = [any_(states) == _STATE]
        if RowState.PUBLISHED not in self.states:
            conditions.append(_row.published_at.is_(None))  # in the words of the partial index
        if self.topic is not None:
            conditions.append(_row.topic == self.topic)
        if self.key is not None:
            conditions.append(_row.event_key == self.key)
        if self.error is not None:
            conditions.append(_row.last_error.icontains(self.error, autoescape=True))
        if self.since is not None:
            conditions.append(_row.created_at >= self.since)
        if self.until is not None:
            conditions.append(_row.created_at < self.until)
        return and_(*conditions)


@dataclass(frozen=True, slots=True)
class OutboxRecord:
    """A row as an operator sees it. `behind`: the first unpublished row of its key and topic that failed before it."""

    id: int
    state: RowState
    event_id: UUID
    event_type: str
    event_data: dict[str, Any]
    event_key: str
    topic: str
    traceparent: str | None
    created_at: datetime
    published_at: datetime | None
    retry_count: int
    last_error: str | None
    next_attempt_at: datetime | None
    parked_at: datetime | None
    behind: int | None


@dataclass(frozen=True, slots=True)
class OutboxCount:
    """How many unpublished rows of one topic, state and type of error there are, and when the oldest was made."""

    topic: str
    state: RowState
    error_type: str | None
    rows: int
    behind: int
    oldest_at: datetime


class OutboxManager:
    """The outbox table, but for what the relay asks of it: that is `OutboxQueue`."""

    async def enqueue(self, session: WriteSession, announcements: Sequence[Announcement]) -> None:
        """Add rows, in order, and wake the relay when the transaction commits.

        Lock their batches first, nothing after.
        """
        # A batch's own key needs no turns: who announces under it holds the batch's lock.
        keys = {announcement.key for announcement in announcements if announcement.key != announcement.batch_id}
        if keys:
            await session.execute(_TAKE_TURNS, {"keys": sorted(keys)})
        rows = [
            (
                announcement.event_id,
                AGGREGATE_TYPE,
                announcement.batch_id,
                announcement.envelope.event_type,
                announcement.envelope.model_dump_json(),
                announcement.key,
                announcement.topic,
                announcement.traceparent,
            )
            async for announcement in InSlices(announcements)
        ]
        await session.execute(_ENQUEUE, dict(zip(_COLUMNS, zip(*rows, strict=True), strict=True)))
        await session.execute(_NOTIFY)

    async def delete_published(self, session: WriteSession, *, older_than_seconds: float, rows: int) -> int:
        """Delete up to `rows` rows published longer ago than that; return how many there were."""
        return len(await session.execute(_DELETE_PUBLISHED, {"seconds": older_than_seconds, "rows": rows}))

    async def statistics(self, session: ReadSession) -> OutboxStatistics:
        """How full the outbox is."""
        row = (await session.execute(_STATISTICS)).one()
        return OutboxStatistics(row["depth"], row["parked"], row["oldest_seconds"])

    async def page(self, session: ReadSession, chosen: OutboxFilter, *, limit: int) -> list[OutboxRecord]:
        """The oldest of the chosen rows."""
        rows = await session.execute(_RECORD.where(chosen.condition()).order_by(_row.id).limit(limit))
        return [_record(row) for row in rows.mappings()]

    async def get(self, session: ReadSession, row_id: int) -> OutboxRecord | None:
        """One row."""
        row = (await session.execute(_RECORD.where(_row.id == row_id))).mappings().one_or_none()
        return None if row is None else _record(row)

    async def extent(self, session: ReadSession, chosen: OutboxFilter) -> tuple[int, int]:
        """How many rows are chosen, and the highest id among them (0 if there is none)."""
        query = select(func.count(), func.coalesce(func.max(_row.id), 0)).where(chosen.condition())
        rows, last = (await session.execute(query)).one()
        return rows, last

    async def ids(self, session: ReadSession, chosen: OutboxFilter, *, after: int, up_to: int, limit: int) -> list[int]:
        """The ids of the next chosen rows, in order, with `after` < id <= `up_to`."""
        query = select(_row.id).where(chosen.condition(), _row.id > after, _row.id <= up_to)
        return list(await session.scalars(query.order_by(_row.id).limit(limit)))

    async def states(self, session: ReadSession | WriteSession, ids: Collection[int]) -> dict[int, RowState]:
        """The states of those of the rows that there are."""
        rows = await session.execute(_STATES, {"ids": sorted(ids)})
        return {row_id: RowState(state) for row_id, state in rows}

    async def requeue(self, session: WriteSession, ids: Collection[int]) -> set[int]:
        """Make rows that failed due at once, with all their attempts, and wake the relay; return which they were."""
        requeued = set(await session.scalars(_REQUEUE, {"ids": sorted(ids)}))
        await session.execute(_NOTIFY)
        return requeued

    async def drop(self, session: WriteSession, ids: Collection[int], *, only_parked: bool) -> set[int]:
        """Delete unpublished rows and wake the relay for those behind them; return which they were.

        The relay holds no lock on what it sends. It sends no parked row; so unless `only_parked` is set, the caller
        has to hold the relay's election lock.
        """
        dropped = set(await session.scalars(_DROP, {"ids": sorted(ids), "only_parked": only_parked}))
        await session.execute(_NOTIFY)
        return dropped

    async def counts(self, session: ReadSession) -> list[OutboxCount]:
        """The unpublished rows by state, topic and type of error."""
        error_type = case((_row.retry_count > 0, func.split_part(_row.last_error, ":", 1)))
        query = select(
            _row.topic,
            _STATE.label("state"),
            error_type.label("error_type"),
            func.count().label("rows"),
            func.count(_BEHIND).label("behind"),
            func.min(_row.created_at).label("oldest_at"),
        ).where(_row.published_at.is_(None))
        rows = (await session.execute(query.group_by(text("1, 2, 3")).order_by(text("1, 2, 3")))).mappings()
        return [OutboxCount(**{**row, "state": RowState(row["state"])}) for row in rows]

    async def published(self, session: ReadSession) -> int:
        """How many published rows are still there."""
        query = select(func.count()).select_from(event_outbox).where(_row.published_at.is_not(None))
        return int((await session.scalars(query)).one())


class SilentOutboxManager(OutboxManager):
    """An outbox that nothing enters: for a replay of what has been announced long ago."""

    async def enqueue(self, session: WriteSession, announcements: Sequence[Announcement]) -> None:
        """Announce nothing."""


def _record(row: asyncpg.Record) -> OutboxRecord:
    return OutboxRecord(**{**row, "state": RowState(row["state"])})
