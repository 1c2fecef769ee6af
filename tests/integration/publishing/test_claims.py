"""What a claim gives, and what it costs PostgreSQL, however the table looks."""

import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from dishka import AsyncContainer

from result_aggregator_service.publishing.outbox_queue import PLANS_OF_CLAIMS, OutboxQueue
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import connect_directly
from tests.integration.publishing.relaying import announcement, enqueue, queue_of

INSERT = """
INSERT INTO event_outbox (event_id, aggregate_type, aggregate_id, event_type, event_data, event_key, topic,
                          published_at, retry_count, next_attempt_at)
SELECT gen_random_uuid(), 'batch', 'b', 't', json_build_object('padding', repeat('x', 800)), 'key ' || n % 500, 't',
       CASE WHEN $2 THEN now() END, $3::int, CASE WHEN $3 > 0 THEN now() + interval '1 hour' END
FROM generate_series(1, $1) AS n
"""


class Explained(OutboxQueue):
    """Says how PostgreSQL did what it was asked."""

    plan: dict[str, Any]

    async def _fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        explained = await self._connection.fetchval(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {statement}", *arguments)
        [self.plan] = json.loads(explained)
        return []

    def nodes(self) -> list[dict[str, Any]]:
        """Those that were executed."""

        def walk(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
            if node["Actual Loops"]:
                yield node
            for child in node.get("Plans", ()):
                yield from walk(child)

        return list(walk(self.plan["Plan"]))

    def pages(self) -> int:
        """Read, of table and indexes."""
        return int(self.plan["Plan"]["Shared Hit Blocks"] + self.plan["Plan"]["Shared Read Blocks"])


@pytest.mark.parametrize("analysed", [True, False])
@pytest.mark.parametrize(
    ("published", "waiting", "failed"),
    [(15_000, 1_000, 0), (0, 15_000, 0), (15_000, 1_000, 20), (0, 15_000, 20), (15_000, 0, 0)],
)
async def test_a_claim_reads_what_it_gives_and_little_else(
    settings: Settings, container: AsyncContainer, published: int, waiting: int, failed: int, analysed: bool
) -> None:
    connection = await connect_directly(settings)
    await connection.execute("ALTER TABLE event_outbox SET (autovacuum_enabled = off)")
    for rows, is_published, retries in ((published, True, 0), (failed, False, 1), (waiting, False, 0)):
        await connection.execute(INSERT, rows, is_published, retries)
    if analysed:
        await connection.execute("ANALYZE event_outbox")
    await connection.execute(f"SET {PLANS_OF_CLAIMS}")
    queue = Explained(connection, parked_key_policy="block")
    # The sixth plan on is one for all parameters, if PostgreSQL thinks so.
    for limit in (100, 1_000, 1_000, 1_000, 1_000, 1_000, 1_000):
        await queue.claim(limit=limit, in_flight=range(100))
        assert not [node for node in queue.nodes() if node["Node Type"] in ("Sort", "Seq Scan", "Incremental Sort")]
        scans = {node.get("Index Name") for node in queue.nodes()} - {None}
        assert scans <= {"ix_event_outbox_unpublished", "ix_event_outbox_failed"}
        # There are some rows to a page. With failed ones each row is looked up in their index, of a page or two.
        assert queue.pages() <= 50 + limit * (3 if failed else 1)
    await connection.close()


async def test_what_is_being_sent_is_not_given_again(container: AsyncContainer) -> None:
    await enqueue(container, *(announcement("b", number) for number in range(5)))
    async with queue_of(container) as queue:
        first = await queue.claim(limit=2)
        following = await queue.claim(limit=2, in_flight=[row.id for row in first])
        assert [row.id for row in first + following] == [1, 2, 3, 4]
        assert [row.id for row in await queue.claim(limit=9)] == [1, 2, 3, 4, 5]
