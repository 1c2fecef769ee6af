"""The outbox as a queue, on the relay's own connection: the next rows, those that Kafka has, those that it refused.

Plain statements, each a transaction of its own unless the caller has opened one. A claim takes no lock on its rows:
only the elected relay may use a queue.
"""

import asyncio
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from uuid import UUID

import asyncpg
import orjson

# A row is held back by an earlier one of its key and topic that failed and waits: for its next try, or (policy
# `block`) for an operator. Failed rows are few and have an index of their own, which is looked into row by row, and
# only if there is a failed row at all: joined, all rows that wait might be read for a few.
_FAILED = "SELECT FROM event_outbox f WHERE f.published_at IS NULL AND f.retry_count > 0"
_CLAIM = f"""
SELECT id, event_id, event_type, event_data, event_key, topic, traceparent, retry_count
FROM event_outbox o
WHERE published_at IS NULL AND parked_at IS NULL
  AND (next_attempt_at IS NULL OR next_attempt_at <= clock_timestamp())
  AND id <> ALL($3::bigint[])
  AND (NOT EXISTS ({_FAILED})
    OR NOT EXISTS ({_FAILED} AND f.topic = o.topic AND f.event_key = o.event_key AND f.id < o.id
      AND (f.parked_at IS NULL AND f.next_attempt_at > clock_timestamp() OR f.parked_at IS NOT NULL AND $2)))
ORDER BY id LIMIT $1
"""
#: For `SET`, before a claim: in the order of the index of what waits, from its beginning. Of a table that was just made
#: and filled PostgreSQL has no figures, and would rather sort all that waits for each claim.
PLANS_OF_CLAIMS = "enable_sort = off"
_MARK_PUBLISHED = """
UPDATE event_outbox SET published_at = clock_timestamp(), last_error = NULL
WHERE id = ANY($1::bigint[]) AND published_at IS NULL
RETURNING extract(epoch FROM published_at - created_at)::float8
"""
_RECORD_FAILURES = """
UPDATE event_outbox o SET
    retry_count = o.retry_count + 1,
    last_error = r.last_error,
    parked_at = CASE WHEN o.retry_count + 1 >= $2 THEN clock_timestamp() END,
    next_attempt_at = clock_timestamp()
        + make_interval(secs => least(power(2, o.retry_count), 60) * (0.5 + random() / 2))
FROM json_to_recordset($1::json) AS r(id bigint, last_error text)
WHERE o.id = r.id
RETURNING o.id, o.parked_at IS NOT NULL AS parked
"""
# Not in the words of the claim, whose mistakes it is to show.
_SENDABLE = """
SELECT min(id), count(*) FROM event_outbox o
WHERE published_at IS NULL AND retry_count = 0
  AND (topic, event_key) NOT IN (
    SELECT topic, event_key FROM event_outbox WHERE published_at IS NULL AND retry_count > 0)
"""


@dataclass(slots=True, eq=False)  # not frozen: that takes four times as long to make
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


class OutboxQueue:
    """What the relay asks of the outbox, one statement at a time. Raises asyncpg's errors and TimeoutError."""

    def __init__(self, connection: asyncpg.Connection, *, parked_key_policy: Literal["block", "skip"]) -> None:
        self._connection = connection
        self._block = parked_key_policy == "block"
        self._in_turn = asyncio.Lock()

    async def claim(self, *, limit: int, in_flight: Collection[int] = ()) -> list[OutboxRow]:
        """The next rows to send, oldest first, but none of those that are being sent already."""
        return [OutboxRow(*row) for row in await self._fetch(_CLAIM, limit, self._block, in_flight)]

    async def mark_published(self, ids: Collection[int]) -> list[float]:
        """Mark rows that Kafka acknowledged; return for each the seconds since it was made."""
        return [seconds for (seconds,) in await self._fetch(_MARK_PUBLISHED, sorted(ids))]

    async def record_failures(self, errors: Mapping[int, str], *, max_attempts: int) -> set[int]:
        """Note why rows could not be sent; return those that are parked now, their attempts used up."""
        rows = [{"id": row_id, "last_error": error} for row_id, error in sorted(errors.items())]
        noted = await self._fetch(_RECORD_FAILURES, orjson.dumps(rows).decode(), max_attempts)
        return {row["id"] for row in noted if row["parked"]}

    async def sendable(self) -> tuple[int | None, int]:
        """The id of the first row that was never tried and has no failed one of its key and topic, and their number."""
        [(first, rows)] = await self._fetch(_SENDABLE)
        return first, rows

    async def sign_of_life(self) -> None:
        """Keep the session from falling silent."""
        await self._fetch("SELECT 1")

    async def _fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        async with self._in_turn:
            rows: list[asyncpg.Record] = await self._connection.fetch(statement, *arguments)
            return rows
