"""The outbox table: rows enter it in the transaction of the change that caused them, and leave it by the relay.

Invariant: what a transaction announced is in the outbox if and only if that transaction committed.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal
from uuid import UUID

from sqlalchemy import text

from result_aggregator_service.domain.announcements import Announcement
from result_aggregator_service.storage.engine import ReadSession, WriteSession
from result_aggregator_service.storage.tables import event_outbox
from result_aggregator_service.storage.upserts import recordset, rows_parameter

NOTIFY_CHANNEL = "ras_outbox"
AGGREGATE_TYPE = "batch"

_COLUMNS = (
    "event_id",
    "aggregate_type",
    "aggregate_id",
    "event_type",
    "event_data",
    "event_key",
    "topic",
    "traceparent",
)
_ENQUEUE = text(
    f"INSERT INTO event_outbox ({', '.join(_COLUMNS)}) SELECT {', '.join(_COLUMNS)} FROM (SELECT row_number() OVER () "
    f"AS place, r.* FROM {recordset(event_outbox, _COLUMNS)}) AS placed ORDER BY place"
)
# Ids are drawn before their transactions commit. Whoever announces under one of these keys waits until the last one who
# did has committed, so that the order of ids is that of commits. In one order for all, each lock once.
_KEY_LOCKS = 7_351
_TAKE_TURNS = text(
    f"SELECT pg_advisory_xact_lock({_KEY_LOCKS}, turn) FROM (SELECT DISTINCT hashtext(key) AS turn "
    "FROM unnest(CAST(:keys AS text[])) AS key ORDER BY turn) AS turns"
)
_NOTIFY = text(f"SELECT pg_notify('{NOTIFY_CHANNEL}', '')")

# A row is held back by an earlier one of its key and topic that failed and waits: for its next try, or (policy
# `block`) for an operator. Failed rows are few and have an index of their own.
_CLAIM = text(
    """
    SELECT id, event_id, event_type, event_data::text AS event_data, event_key, topic, traceparent, retry_count
    FROM event_outbox o
    WHERE published_at IS NULL AND parked_at IS NULL
      AND (next_attempt_at IS NULL OR next_attempt_at <= clock_timestamp())
      AND NOT EXISTS (
        SELECT FROM event_outbox f
        WHERE f.published_at IS NULL AND f.retry_count > 0
          AND f.topic = o.topic AND f.event_key = o.event_key AND f.id < o.id
          AND (f.parked_at IS NULL AND f.next_attempt_at > clock_timestamp() OR f.parked_at IS NOT NULL AND :block))
    ORDER BY id LIMIT :limit
    """
)
# Not in the words of the claim, whose mistakes it is to show.
_SENDABLE = text(
    """
    SELECT min(id), count(*) FROM event_outbox o
    WHERE published_at IS NULL AND retry_count = 0
      AND (topic, event_key) NOT IN (
        SELECT topic, event_key FROM event_outbox WHERE published_at IS NULL AND retry_count > 0)
    """
)
_MARK_PUBLISHED = text(
    """
    UPDATE event_outbox SET published_at = clock_timestamp(), last_error = NULL
    WHERE id = ANY(:ids) AND published_at IS NULL
    RETURNING extract(epoch FROM published_at - created_at)::float8
    """
)
_RECORD_FAILURES = text(
    """
    UPDATE event_outbox o SET
        retry_count = o.retry_count + 1,
        last_error = r.last_error,
        parked_at = CASE WHEN o.retry_count + 1 >= :max_attempts THEN clock_timestamp() END,
        next_attempt_at = clock_timestamp()
            + make_interval(secs => least(power(2, o.retry_count), 60) * (0.5 + random() / 2))
    FROM json_to_recordset(CAST(:rows AS json)) AS r(id bigint, last_error text)
    WHERE o.id = r.id
    RETURNING o.id, o.parked_at IS NOT NULL AS parked
    """
)
_DELETE_PUBLISHED = text(
    """
    DELETE FROM event_outbox WHERE id IN (
        SELECT id FROM event_outbox
        WHERE published_at < clock_timestamp() - make_interval(secs => :seconds)
        ORDER BY published_at LIMIT :rows FOR UPDATE SKIP LOCKED)
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
class OutboxRow:
    """A row as the relay sends it; `event_data` is the envelope's JSON."""

    id: int
    event_id: UUID
    event_type: str
    event_data: str
    event_key: str
    topic: str
    traceparent: str | None
    retry_count: int


@dataclass(frozen=True, slots=True)
class OutboxStatistics:
    """How full the outbox is: unpublished rows, those of them that are parked, and the age of the oldest in seconds."""

    depth: int
    parked: int
    oldest_seconds: float


class OutboxManager:
    """The outbox table."""

    async def enqueue(self, session: WriteSession, announcements: Sequence[Announcement]) -> None:
        """Add rows, in order, and wake the relay when the transaction commits. Lock their batches first, nothing after."""
        # A batch's own key needs no turns: who announces under it holds the batch's lock.
        keys = {announcement.key for announcement in announcements if announcement.key != announcement.batch_id}
        if keys:
            await session.execute(_TAKE_TURNS, {"keys": sorted(keys)})
        rows = [
            {
                "event_id": announcement.event_id,
                "aggregate_type": AGGREGATE_TYPE,
                "aggregate_id": announcement.batch_id,
                "event_type": announcement.envelope.event_type,
                "event_data": announcement.envelope.model_dump(mode="json"),
                "event_key": announcement.key,
                "topic": announcement.topic,
                "traceparent": announcement.traceparent,
            }
            for announcement in announcements
        ]
        await session.execute(_ENQUEUE, rows_parameter(rows))
        await session.execute(_NOTIFY)

    async def claim(
        self, session: ReadSession, *, limit: int, parked_key_policy: Literal["block", "skip"]
    ) -> list[OutboxRow]:
        """The next rows to send, oldest first. Only the elected relay may ask."""
        rows = await session.execute(_CLAIM, {"limit": limit, "block": parked_key_policy == "block"})
        return [OutboxRow(**row) for row in rows.mappings()]

    async def sendable(self, session: ReadSession) -> tuple[int | None, int]:
        """The id of the first row that was never tried and has no failed one of its key and topic, and their number."""
        first, rows = (await session.execute(_SENDABLE)).one()
        return first, rows

    async def mark_published(self, session: WriteSession, ids: Collection[int]) -> list[float]:
        """Mark rows that Kafka acknowledged; return for each the seconds since it was made."""
        return list(await session.scalars(_MARK_PUBLISHED, {"ids": sorted(ids)}))

    async def record_failures(self, session: WriteSession, errors: Mapping[int, str], *, max_attempts: int) -> set[int]:
        """Note why rows could not be sent; return those that are parked now, their attempts used up."""
        rows = [{"id": row_id, "last_error": error} for row_id, error in sorted(errors.items())]
        result = await session.execute(_RECORD_FAILURES, {**rows_parameter(rows), "max_attempts": max_attempts})
        return {row.id for row in result if row.parked}

    async def delete_published(self, session: WriteSession, *, older_than_seconds: float, rows: int) -> int:
        """Delete up to `rows` rows published longer ago than that; return how many there were."""
        result = await session.execute(_DELETE_PUBLISHED, {"seconds": older_than_seconds, "rows": rows})
        return int(result.rowcount)  # type: ignore[attr-defined]

    async def statistics(self, session: ReadSession) -> OutboxStatistics:
        """How full the outbox is."""
        row = (await session.execute(_STATISTICS)).one()
        return OutboxStatistics(row.depth, row.parked, row.oldest_seconds)


class SilentOutboxManager(OutboxManager):
    """An outbox that nothing enters: for a replay of what has been announced long ago."""

    async def enqueue(self, session: WriteSession, announcements: Sequence[Announcement]) -> None:
        """Announce nothing."""
