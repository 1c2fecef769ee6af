"""The inbox: which messages have been folded, entered in the transaction of their effects. It saves work and gives an
audit trail; the fold is idempotent without it, so old entries may be deleted.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text

from result_aggregator_service.storage.session import WriteSession

# Arrays come as text: the driver takes half a microsecond for each element of a list. The database's name is of this
# very database: a new, restored or promoted one has another.
_ENTER = text(
    """
    WITH sent AS MATERIALIZED (
        SELECT CAST(CAST(:event_ids AS text) AS uuid[]) AS event_ids
    ), entered AS (
        INSERT INTO processed_events (event_id, topic, "partition", "offset")
        SELECT entry.* FROM sent, unnest(
            sent.event_ids, CAST(CAST(:topics AS text) AS text[]), CAST(CAST(:partitions AS text) AS integer[]),
            CAST(CAST(:offsets AS text) AS bigint[])
        ) AS entry(event_id, topic, "partition", "offset")
        ORDER BY event_id ON CONFLICT DO NOTHING RETURNING event_id
    )
    SELECT s.database_id || '-' || c.system_identifier || '-' || k.timeline_id || '-' || 'service_state'::regclass::oid,
           CASE WHEN cardinality(sent.event_ids) > (SELECT count(*) FROM entered)
                THEN ARRAY(SELECT unnest(sent.event_ids) EXCEPT SELECT event_id FROM entered)
                ELSE '{}' END
    FROM sent, service_state s, pg_control_system() c, pg_control_checkpoint() k
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
        columns = {
            "event_ids": _array(event_id.hex for event_id in event_ids),
            "topics": _array(topics),
            "partitions": _array(map(str, partitions)),
            "offsets": _array(map(str, offsets)),
        }
        database_id, known = (await session.execute(_ENTER, columns)).one()
        return Entered(set(known), database_id)

    async def forget(self, session: WriteSession, *, older_than_seconds: float, rows: int) -> int:
        """Delete up to `rows` entries older than that; return how many there were."""
        return len(await session.execute(_FORGET, {"seconds": older_than_seconds, "rows": rows}))


def _array(elements: Iterable[str]) -> str:
    """The text of an array; a topic's name needs no quotes, as Kafka allows letters, digits and `._-` in it."""
    return f"{{{','.join(elements)}}}"
