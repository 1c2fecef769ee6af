"""What has been published is deleted behind everybody's back: with a million rows, too, nobody waits for it or pays."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any, cast

import asyncpg
import pytest
from dishka import AsyncContainer
from sqlalchemy import TextClause, text

from result_aggregator_service.jobs.housekeeping import Housekeeper
from result_aggregator_service.publishing.outbox_manager import OutboxManager
from result_aggregator_service.publishing.outbox_queue import PLANS_OF_CLAIMS, OutboxQueue
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import Database, connect_directly
from result_aggregator_service.storage.inbox import Inbox
from result_aggregator_service.storage.session import Session
from tests.integration.publishing.relaying import announcement, enqueue
from tests.integration.service.wiring import container_of, settings_for, turning
from tests.waiting import eventually

DAY = 24 * 3600.0
OUTBOX = "SELECT count(*) FROM event_outbox"
INBOX = "SELECT count(*) FROM processed_events"
WAITING = "ix_event_outbox_unpublished"
FAILED = "ix_event_outbox_failed"
PUBLISHED = "ix_event_outbox_published_at"


@pytest.fixture
def settings(database_url: str) -> Settings:
    return settings_for(
        database_url,
        redis_url="redis://127.0.0.1:9/0",
        kafka_bootstrap_servers="127.0.0.1:9",
        database_command_timeout_seconds=300,
    )


@pytest.fixture
async def container(settings: Settings) -> AsyncIterator[AsyncContainer]:
    async with container_of(settings) as made:
        yield made


@pytest.fixture
async def connection(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """As the elected relay has it."""
    connection = await connect_directly(settings)
    await connection.execute(f"SET {PLANS_OF_CLAIMS}")
    yield connection
    await connection.close()


async def fill(connection: asyncpg.Connection, rows: int, *, published_hours_ago: float | None) -> None:
    """Rows of 500 batches, published over half an hour that ended so many hours ago; None: they wait."""
    # Random ids, but in order: a million then enter their index in a third less time.
    await connection.execute(
        "INSERT INTO event_outbox (event_id, aggregate_type, aggregate_id, event_type, event_data, event_key, topic, "
        "published_at) SELECT event_id, 'batch', key, 'topic', '{\"data\": {}}', key, 'topic', "
        "clock_timestamp() - make_interval(secs => $2::float8 * 3600 + 1800.0 * ($1 - n) / $1) "
        "FROM (SELECT n, 'b' || n % 500 AS key, event_id FROM (SELECT row_number() OVER (ORDER BY id) AS n, id AS "
        "event_id FROM (SELECT gen_random_uuid() AS id FROM generate_series(1, $1::int)) AS ids) AS numbered) AS made",
        rows,
        published_hours_ago,
    )


class Plan:
    """How PostgreSQL went about a statement that it ran: by which indexes, and how many blocks of 8 KB it looked at."""

    def __init__(self, told: Any) -> None:
        root = told[0]["Plan"]
        nodes = list(_nodes(root))
        self.indexes = {node["Index Name"] for node in nodes if "Index Name" in node}
        self.reads_whole_table = any(node["Node Type"] == "Seq Scan" for node in nodes)
        self.blocks = root["Shared Hit Blocks"] + root["Shared Read Blocks"]

    def __repr__(self) -> str:
        return f"{self.blocks} blocks by {self.indexes}, whole table: {self.reads_whole_table}"


def _nodes(node: Any) -> Iterator[Any]:
    yield node
    for part in node.get("Plans", ()):
        yield from _nodes(part)


EXPLAIN = "EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON)"


class ExplainingConnection:
    """A connection that finds no rows, but the plan of how they are found."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self.plan: Plan | None = None

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        self.plan = Plan(json.loads(await self._connection.fetchval(f"{EXPLAIN} {statement}", *arguments)))
        return []


class ExplainingSession:
    """A session that runs each statement twice, first for its plan; what that changed is taken back."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.plan: Plan | None = None

    async def execute(self, statement: TextClause, parameters: Any = None) -> Any:
        await self._session.execute(text("SAVEPOINT attempt"))
        self.plan = Plan(await self._session.scalar(text(f"{EXPLAIN} {statement.text}"), parameters))
        await self._session.execute(text("ROLLBACK TO SAVEPOINT attempt"))
        return await self._session.execute(statement, parameters)


async def plan_of_claim(connection: asyncpg.Connection) -> Plan:
    explaining = ExplainingConnection(connection)
    await OutboxQueue(cast(asyncpg.Connection, explaining), parked_key_policy="block").claim(limit=100)
    assert explaining.plan is not None
    return explaining.plan


async def plan_of_delete(container: AsyncContainer, *, older_than_seconds: float) -> tuple[Plan, int]:
    """The plan of a batch, and how many rows were deleted."""
    database, outbox = await container.get(Database), await container.get(OutboxManager)
    async with database.transaction() as session:
        explaining: Any = ExplainingSession(session)
        deleted = await outbox.delete_published(explaining, older_than_seconds=older_than_seconds, rows=1000)
    return explaining.plan, deleted


async def plan_of_statistics(container: AsyncContainer) -> tuple[Plan, int]:
    """The plan of the gauges, and the depth."""
    database, outbox = await container.get(Database), await container.get(OutboxManager)
    async with database.snapshot() as session:
        explaining: Any = ExplainingSession(session)
        statistics = await outbox.statistics(explaining)
    return explaining.plan, statistics.depth


async def test_with_a_million_rows_kept_each_statement_reads_no_more_than_it_is_for_and_a_deletion_is_in_nobodys_way(
    container: AsyncContainer, connection: asyncpg.Connection
) -> None:
    await fill(connection, 4_500, published_hours_ago=25)
    await fill(connection, 1_000_000, published_hours_ago=1)
    await fill(connection, 5_000, published_hours_ago=None)
    for analysed in (False, True):
        if analysed:
            await connection.execute("ANALYZE event_outbox")
        claim = await plan_of_claim(connection)
        gauges, depth = await plan_of_statistics(container)
        delete, deleted = await plan_of_delete(container, older_than_seconds=DAY)
        nothing, none = await plan_of_delete(container, older_than_seconds=10 * DAY)
        told = f"{analysed=}, claim {claim}, gauges {gauges}, delete {delete}, nothing to delete {nothing}"
        assert (depth, deleted, none) == (5_000, 1000, 0), told
        assert not any(plan.reads_whole_table for plan in (claim, gauges, delete, nothing)), told
        assert {WAITING} <= claim.indexes <= {WAITING, FAILED}, told
        assert gauges.indexes == {WAITING}, told
        assert delete.indexes == nothing.indexes == {PUBLISHED, "pk_event_outbox"}, told
        assert claim.blocks < 400, told  # for 100 rows
        assert gauges.blocks < 500, told  # for 5,000
        assert delete.blocks < 8_000, told  # for 1,000; the table has 15,000, and its indexes as many
        assert nothing.blocks < 20, told
    await nobody_waits_for_a_deletion(container, connection)


async def nobody_waits_for_a_deletion(container: AsyncContainer, connection: asyncpg.Connection) -> None:
    database, outbox = await container.get(Database), await container.get(OutboxManager)
    queue = OutboxQueue(connection, parked_key_policy="block")
    async with database.transaction() as session, asyncio.timeout(20):
        assert await outbox.delete_published(session, older_than_seconds=DAY, rows=1000) == 1000
        await enqueue(container, announcement("new"))
        claimed = await queue.claim(limit=6_000)
        assert [len(claimed), claimed[-1].event_key] == [5_001, "new"]
        assert len(await queue.mark_published([row.id for row in claimed])) == 5_001
        async with database.transaction() as another_replicas:
            assert await outbox.delete_published(another_replicas, older_than_seconds=DAY, rows=2000) == 1500
        assert await outbox.delete_published(session, older_than_seconds=DAY, rows=1000) == 0


async def test_the_inbox_is_not_read_where_there_is_nothing_to_forget(
    container: AsyncContainer, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        'INSERT INTO processed_events (event_id, topic, partition, "offset", processed_at) SELECT gen_random_uuid(), '
        "'t', 0, n, clock_timestamp() - make_interval(secs => 200000 - n) FROM generate_series(1, 200000) n"
    )
    await connection.execute("VACUUM ANALYZE processed_events")
    database, inbox = await container.get(Database), await container.get(Inbox)
    for days, forgotten, blocks in ((10, 0, 50), (2, 1000, 8_000)):
        async with database.transaction() as session:
            explaining: Any = ExplainingSession(session)
            assert await inbox.forget(explaining, older_than_seconds=days * DAY, rows=1000) == forgotten
        assert not explaining.plan.reads_whole_table, explaining.plan
        assert explaining.plan.blocks < blocks, explaining.plan


async def sizes(connection: asyncpg.Connection) -> dict[str, int]:
    """Of the table and its indexes; bytes."""
    found = await connection.fetch(
        "SELECT relname, pg_relation_size(oid) AS bytes FROM pg_class WHERE oid = 'event_outbox'::regclass OR oid IN "
        "(SELECT indexrelid FROM pg_index WHERE indrelid = 'event_outbox'::regclass)"
    )
    return {row["relname"]: row["bytes"] for row in found}


async def test_table_and_indexes_stop_growing_and_what_waits_is_found_as_fast_as_ever(
    container: AsyncContainer, connection: asyncpg.Connection
) -> None:
    """Days in which as many rows come as are kept. Autovacuum, which comes once a minute, is done by hand."""
    database, outbox = await container.get(Database), await container.get(OutboxManager)
    queue = OutboxQueue(connection, parked_key_policy="block")
    kept, rounds_a_day = 10_000, 5
    await fill(connection, kept, published_hours_ago=1)

    async def live_a_day() -> dict[str, int]:
        for _ in range(rounds_a_day):
            await fill(connection, kept // rounds_a_day, published_hours_ago=None)
            while rows := await queue.claim(limit=500):
                await queue.mark_published([row.id for row in rows])
            for _ in range(kept // rounds_a_day // 1000):
                async with database.transaction() as session:
                    assert await outbox.delete_published(session, older_than_seconds=0, rows=1000) == 1000
            await connection.execute("VACUUM event_outbox")
        return await sizes(connection)

    first, second, third, fourth = [await live_a_day() for _ in range(4)]
    told = f"{first}\n{second}\n{third}\n{fourth}"
    assert await connection.fetchval(OUTBOX) == kept
    assert all(fourth[name] <= 1.1 * size for name, size in second.items()), told
    assert fourth[WAITING] + fourth[FAILED] < 200 * 1024, told
    assert (await plan_of_claim(connection)).blocks < 40, told


async def test_a_day_that_is_past_its_retention_all_at_once_goes_turn_by_turn_and_the_other_work_in_between(
    container: AsyncContainer, connection: asyncpg.Connection
) -> None:
    housekeeper = await container.get(Housekeeper)
    await fill(connection, 22_500, published_hours_ago=25)
    assert await housekeeper.clean_up() is True
    assert await connection.fetchval(OUTBOX) == 12_500

    async def gone() -> bool:
        return bool(await connection.fetchval(OUTBOX) == 0)

    async with turning(housekeeper):
        await eventually(gone, within=30)  # two turns' work; with nothing left to do the next turn for it is in 60 s
    assert await housekeeper.clean_up() is False


async def test_two_replicas_that_clean_up_at_once_share_the_work(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    await fill(connection, 22_500, published_hours_ago=25)
    await connection.execute(
        'INSERT INTO processed_events (event_id, topic, partition, "offset", processed_at) '
        "SELECT gen_random_uuid(), 't', 0, n, clock_timestamp() - interval '1 year' FROM generate_series(1, 22500) n"
    )
    async with container_of(settings) as one, container_of(settings) as other:
        replicas = [await container.get(Housekeeper) for container in (one, other)]
        for left in (2_500, 0):
            await asyncio.gather(*(housekeeper.clean_up() for housekeeper in replicas))
            assert await connection.fetchval(OUTBOX) == left
        while await replicas[0].clean_up():
            pass
    assert await connection.fetchval(INBOX) == 0
