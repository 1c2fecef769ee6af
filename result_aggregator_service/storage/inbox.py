"""The inbox: which messages have been folded, entered in the transaction of their effects. It saves work and gives an
audit trail; the fold is idempotent without it, so old entries may be deleted.
"""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text

from result_aggregator_service.storage.session import WriteSession

# The database's name is of this very database: a new, restored or promoted one has another.
_ENTER = text(
    """
    WITH entered AS (
        INSERT INTO processed_events (event_id, topic, "partition", "offset")
        SELECT * FROM unnest(CAST(:event_ids AS uuid[]), CAST(:topics AS text[]), CAST(:partitions AS integer[]),
                             CAST(:offsets AS bigint[])) AS entry(event_id, topic, "partition", "offset")
        ORDER BY event_id ON CONFLICT DO NOTHING RETURNING event_id
    )
    SELECT s.database_id || '-' || c.system_identifier || '-' || k.timeline_id || '-' || 'service_state'::regclass::oid,
           CASE WHEN cardinality(CAST(:event_ids AS uuid[])) > (SELECT count(*) FROM entered)
                THEN ARRAY(SELECT unnest(CAST(:event_ids AS uuid[])) EXCEPT SELECT event_id FROM entered)
                ELSE '{}' END
    FROM service_state s, pg_control_system() c, pg_control_checkpoint() k
    """
)
# As in the outbox: `now()`, by which the index can be used, and an array, which is looked up by the primary key.
_FORGET = text(
    """
    DELETE FROM processed_events WHERE event_id = ANY(ARRAY(
        SELECT event_id FROM processed_events
        WHERE processed_at < now() - make_interval(secs => :seconds) LIMIT :rows FOR UPDATE SKIP LOCKED))
    RETURNING event_id
    """
)


InboxEntry = tuple[UUID, str, int, int]
"""A message's id and where it was read: topic, partition, offset."""


class Entered(NamedTuple):
    """The ids of the messages that were in the inbox before, and the name of the database whose inbox it is."""

    known: set[UUID]
    database_id: str


class Inbox:
    """The table of messages that have been folded."""

    async def enter(self, session: WriteSession, entries: Sequence[InboxEntry]) -> Entered:
        """Enter messages, if there are any; each id once."""
        event_ids, topics, partitions, offsets = zip(*entries, strict=True) if entries else ((), (), (), ())
        columns = {"event_ids": event_ids, "topics": topics, "partitions": partitions, "offsets": offsets}
        database_id, known = (await session.execute(_ENTER, columns)).one()
        return Entered(set(known), database_id)

    async def forget(self, session: WriteSession, *, older_than_seconds: float, rows: int) -> int:
        """Delete up to `rows` entries older than that; return how many there were."""
        return len(await session.execute(_FORGET, {"seconds": older_than_seconds, "rows": rows}))
