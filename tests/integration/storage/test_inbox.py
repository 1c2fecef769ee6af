"""The inbox's rows: which messages were folded, and where each of them was read."""

from uuid import UUID

from sqlalchemy import text

from result_aggregator_service.contracts.topics import CONSUMED
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.inbox import Inbox, InboxEntry

ROWS = text('SELECT event_id, topic, "partition", "offset" FROM processed_events ORDER BY event_id')


async def entered(database: Database, *entries: InboxEntry) -> tuple[set[UUID], list[InboxEntry]]:
    """What was known of entries, and all the rows after them."""
    async with database.transaction() as session:
        known = (await Inbox().enter(session, entries)).known
        return known, [tuple(row) for row in await session.execute(ROWS)]


async def test_each_entry_tells_its_message_and_where_that_was_read(database: Database) -> None:
    largest = UUID(int=2**128 - 1)
    entries: list[InboxEntry] = [
        (UUID(int=place), topic, 100 + place, 2**62 + place) for place, topic in enumerate(sorted(CONSUMED))
    ] + [(largest, "Any.topic_that-Kafka.allows", 0, 0)]
    assert await entered(database, *reversed(entries)) == (set(), entries)


async def test_what_is_known_is_told_and_stays_as_it_was_entered(database: Database) -> None:
    first, again, new = (UUID(int=1), "a", 1, 10), (UUID(int=1), "b", 2, 20), (UUID(int=2), "c", 3, 30)
    await entered(database, first)
    assert await entered(database, again, new) == ({UUID(int=1)}, [first, new])


async def test_nothing_can_be_entered(database: Database) -> None:
    assert await entered(database) == (set(), [])
