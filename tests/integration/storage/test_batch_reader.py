"""Pages of a user's list: stable under ties and under change, as cheap at the end as at the start."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from sqlalchemy import text

from result_aggregator_service.contracts.enums import BatchStatus
from result_aggregator_service.domain.event import Event
from result_aggregator_service.domain.tally import BatchTally
from result_aggregator_service.storage.batch_reader import FEW, BatchKey, BatchReader, PageKeys, Position
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.session import ReadSession, Session
from tests.integration.storage.projection import Projection
from tests.unit.domain import messages as say
from tests.unit.domain.messages import AWAITING, PROCESSING, time

READER = BatchReader()


def ids(page: PageKeys) -> list[str]:
    return [key.batch_id for key in page.keys]


def end_of(page: PageKeys) -> Position:
    return Position(page.keys[-1].created_at, page.keys[-1].batch_id)


async def page_after(database: Database, after: Position | None, limit: int) -> PageKeys:
    async with database.snapshot() as session:
        return await READER.page_of(session, "teacher", limit=limit, after=after)


# One batch.


async def test_a_batch_that_nobody_registered_is_not_there(projection: Projection) -> None:
    await projection.poll(say.slot("e1", "nobodys"), say.registered(["e2"], "b"))
    async with projection.database.snapshot() as session:
        for batch_ids in (["nobodys"], ["nowhere"], ["nowhere", "nobodys"]):
            assert await READER.versions(session, batch_ids) == {}
            assert await READER.few(session, batch_ids) == {}
        assert await READER.batches(session, ["nowhere", "nobodys"]) == []
        assert await READER.summaries(session, ["nowhere", "nobodys"]) == []


async def test_a_batch_has_the_same_version_however_it_is_read(projection: Projection) -> None:
    await projection.poll(say.registered(["e1"], "b"))
    async with projection.database.snapshot() as session:
        version = (await READER.versions(session, ["b"]))["b"]
        batch, page = (await READER.few(session, ["b"]))["b"], await READER.page_of(session, "teacher", limit=1)
        (summary,) = await READER.summaries(session, ["b"])
    assert isinstance(version, UUID)
    assert {batch.stored.version, summary.version, page.keys[0].version} == {version}


async def test_batches_come_in_the_order_asked_for(projection: Projection) -> None:
    await projection.poll(*(say.registered([f"e{batch}"], batch) for batch in ("b1", "b2", "b3")))
    async with projection.database.snapshot() as session:
        batches = await READER.batches(session, ["b3", "nowhere", "b1", "b2"])
        summaries = await READER.summaries(session, ["b3", "nowhere", "b1", "b2"])
    for found in ([batch.stored for batch in batches], summaries):
        assert [stored.facts.batch_id for stored in found] == ["b3", "b1", "b2"]


# Pages.


async def test_a_page_by_offset_counts_the_list_and_says_whether_more_follow(projection: Projection) -> None:
    same_time = [say.registered([], batch, at=7) for batch in ("b1", "b2", "b4", "b3")]
    await projection.poll(*same_time, say.registered([], "newest", at=9), say.registered([], "x", at=9, user="other"))
    async with projection.database.snapshot() as session:

        async def page(limit: int, offset: int) -> tuple[list[str], int | None, bool]:
            found = await READER.page_of(session, "teacher", limit=limit, offset=offset)
            return ids(found), found.total, found.more

        assert await page(2, 0) == (["newest", "b4"], 5, True)
        assert await page(2, 2) == (["b3", "b2"], 5, True)
        assert await page(2, 3) == (["b2", "b1"], 5, False)
        assert await page(2, 4) == (["b1"], 5, False)
        assert await page(2, 5) == ([], 5, False)
        assert await page(2, 2**80) == ([], 5, False)


async def test_a_page_behind_a_position_is_not_counted_and_needs_no_batch_at_it(projection: Projection) -> None:
    await projection.poll(*(say.registered([], batch, at=7) for batch in ("b1", "b2", "b3")))
    async with projection.database.snapshot() as session:
        behind = await READER.page_of(session, "teacher", limit=1, after=Position(time(7), "b25"))
        nothing = await READER.page_of(session, "teacher", limit=1, after=Position(time(6), "z"))
    assert (ids(behind), behind.total, behind.more) == (["b2"], None, True)
    assert nothing == PageKeys([], None, more=False)


async def test_only_batches_of_some_statuses_are_on_a_page_and_counted(projection: Projection) -> None:
    await projection.poll(*(say.registered([f"e{n}"], f"b{n}", at=n) for n in range(6)))
    await projection.poll(*(say.spellcheck(f"e{n}", f"b{n}") for n in (1, 3, 5)))
    async with projection.database.snapshot() as session:

        async def page(statuses: Sequence[BatchStatus], **where: Any) -> tuple[list[str], int | None, bool]:
            found = await READER.page_of(session, "teacher", limit=2, statuses=statuses, **where)
            return ids(found), found.total, found.more

        assert await page([PROCESSING], offset=0) == (["b5", "b3"], 3, True)
        assert await page([PROCESSING], after=Position(time(3), "b3")) == (["b1"], None, False)
        assert await page([PROCESSING, AWAITING], offset=4) == (["b1", "b0"], 6, False)
        assert await page([], offset=0) == ([], 0, False)


@pytest.mark.parametrize("seed", range(3))
async def test_a_list_that_changes_while_it_is_paged_repeats_nothing_and_skips_nothing_that_stays(
    projection: Projection, seed: int
) -> None:
    """Batches come in front, change their owner, come back and vanish between two pages; many share their time."""
    dice = random.Random(seed)
    numbers = iter(range(1000))

    def registered(batch: str, at: int, owner: str = "teacher") -> Event:
        return say.registered([], batch, at=at, user=owner, number=next(numbers))

    there = [f"b{dice.randrange(10**6):06}" for _ in range(40)]
    await projection.poll(*(registered(batch, at=dice.randrange(5)) for batch in there))
    stayed, after = set(there), None
    seen: list[BatchKey] = []
    while True:
        page = await page_after(projection.database, after, limit=dice.randint(1, 4))
        seen += page.keys
        if not page.more:
            break
        after = end_of(page)
        gone, moved = dice.sample(there, 2)
        async with projection.database.transaction() as session:
            await session.execute(text("DELETE FROM batch_results WHERE batch_id = :gone"), {"gone": gone})
        owner, later = dice.choice(("teacher", "other")), 20 + next(numbers)
        await projection.poll(registered(f"new {later}", at=10), registered(moved, at=later, owner=owner))
        stayed -= {gone, moved}
    positions = [(key.created_at, key.batch_id) for key in seen]
    assert positions == sorted(set(positions), reverse=True), f"seed {seed}"
    assert stayed <= {key.batch_id for key in seen}, f"seed {seed}"


# What they cost.


@dataclass
class Statement:
    """A statement as it went to PostgreSQL."""

    sql: str
    arguments: tuple[Any, ...]


class NotingSession(Session):
    """A session that notes what is sent to PostgreSQL."""

    def __init__(self, session: ReadSession) -> None:
        self._session = session
        self.sent: list[Statement] = []

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        self.sent.append(Statement(sql, arguments))
        return await self._session.fetch(sql, *arguments)


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", ()) for node in nodes(child))]


async def explained(session: ReadSession, statement: Statement) -> list[dict[str, Any]]:
    """The nodes of the plan by which PostgreSQL runs a statement, with what each really read."""
    explain = f"EXPLAIN (ANALYZE, BUFFERS, VERBOSE, FORMAT JSON) {statement.sql}"
    (row,) = await session.fetch(explain, *statement.arguments)
    return nodes(row[0][0]["Plan"])


_MANY = text(
    """
    INSERT INTO batch_results (batch_id, heard_at, created_at, registration_at, registration_event_id, user_id,
                               expected_essay_count, essay_ids)
    SELECT 'b' || n, at, at, at, gen_random_uuid(), CASE WHEN n % 11 = 0 THEN 'other' || n ELSE 'teacher' END, 0, '[]'
    FROM generate_series(1, 55000) AS n, LATERAL (SELECT timestamptz '2026-01-01Z' + n / 3 * interval '1 s' AS at) AS t
    """
)


async def test_a_user_with_fifty_thousand_batches_pages_as_cheaply_at_the_end_as_at_the_start(
    database: Database,
) -> None:
    async with database.transaction() as session:
        await session.execute(_MANY)
    async with database.transaction() as session:
        await session.execute(text("ANALYZE batch_results"))
    limit, read = 20, []
    async with database.snapshot() as session:
        last = await READER.page_of(session, "teacher", limit=limit, offset=50_000 - limit - 5)
        assert (last.total, last.more) == (50_000, True)
        middle = datetime.fromisoformat("2026-01-01T02:30:00+00:00")
        for after in (None, Position(middle, "b5"), Position(last.keys[0].created_at, last.keys[0].batch_id)):
            noting = NotingSession(session)
            page = await READER.page_of(ReadSession(noting), "teacher", limit=limit, after=after)
            assert (len(page.keys), page.more) == (limit, True)
            (statement,) = noting.sent
            plan = await explained(session, statement)
            assert [node["Node Type"] for node in plan] == ["Limit", "Index Scan"]
            assert plan[-1]["Index Name"] == "ix_batch_results_user_newest"
            assert plan[-1]["Actual Rows"] <= limit + 1
            assert plan[-1].get("Rows Removed by Filter", 0) == 0
            read.append(plan[0]["Shared Hit Blocks"] + plan[0]["Shared Read Blocks"])
    assert max(read) <= limit + 10, read


async def test_a_summary_reads_no_essay_and_no_list_of_essays_however_many_there_are(
    projection: Projection,
) -> None:
    await projection.poll(*_a_batch("small", 2), *_a_batch("large", 3000))
    async with projection.database.snapshot() as session:
        for batch_id in ("small", "large"):
            noting = NotingSession(session)
            (summary,) = await READER.summaries(ReadSession(noting), [batch_id])
            assert summary.tally is not None
            assert sum(summary.tally.stages.values()) == (2 if batch_id == "small" else 3000)
            assert summary.facts.essays == {}
            told = [node for statement in noting.sent for node in await explained(session, statement)]
            read = {node["Relation Name"] for node in told if "Relation Name" in node}
            assert read == {"batch_results", "phase_outcomes", "pipeline_ends"}
            columns = {column.rpartition(".")[2] for node in told for column in node["Output"]}
            assert "tally" in columns
            assert not columns & {"essay_ids", "anchor_ids", "processed_essay_ids", "failed_essay_ids"}


async def test_essays_are_found_by_their_batch_and_never_compared_one_by_one_with_a_list(
    projection: Projection,
) -> None:
    anchors = [f"anchor {number}" for number in range(60)]
    await projection.poll(*_a_batch("large", 3000), *_a_batch("other", 3000))
    await projection.poll(say.assessment({"large 1": (1, 0.5)}, "large", anchors=anchors))
    async with projection.database.snapshot() as session:
        for read in (
            lambda s: READER.few(s, ["large"]),
            lambda s: READER.few(s, ["large", "nowhere"]),
            lambda s: READER.batches(s, ["large"]),
        ):
            noting = NotingSession(session)
            await read(ReadSession(noting))
            (statement,) = noting.sent
            plan = await explained(session, statement)
            (essays,) = (node for node in plan if node.get("Relation Name") == "essay_results")
            assert essays["Node Type"] in ("Index Scan", "Bitmap Heap Scan")
            assert essays["Actual Rows"] == 3000
            searches = [
                text for node in plan for text in (node.get("Filter", ""), *node["Output"]) if "SubPlan" in text
            ]
            assert sum("hashed SubPlan" in text for text in searches) >= 2
            assert not [text for text in searches if " ANY " in text and "hashed" not in text]


async def test_reading_few_batches_is_planned_once_and_not_each_time(projection: Projection) -> None:
    batch_ids = [f"b{number}" for number in range(FEW)]
    for batch_id in batch_ids:
        await projection.poll(*_a_batch(batch_id, 30))
    async with projection.database.transaction() as session:
        await session.execute(text("ANALYZE"))
    async with projection.database.snapshot() as session:
        for number in range(60):
            some = batch_ids[: number % FEW + 1]
            assert sorted(await READER.few(session, some)) == some
            assert sorted(await READER.versions(session, some)) == some
        planned = await session.execute(text("SELECT custom_plans FROM pg_prepared_statements WHERE custom_plans > 1"))
    # PostgreSQL plans a statement five times before it thinks of one plan for all.
    assert [row["custom_plans"] for row in planned] == [5, 5, 5, 5]


async def test_more_than_few_are_refused(projection: Projection) -> None:
    async with projection.database.snapshot() as session:
        with pytest.raises(ValueError, match="zip"):
            await READER.few(session, [f"b{number}" for number in range(FEW + 1)])


def _a_batch(batch: str, count: int) -> list[Event]:
    essays = [f"{batch} {number}" for number in range(count)]
    return [
        say.registered(essays, batch),
        say.outcome("spellcheck", essays[1:], essays[:1], batch),
        say.outcome("student_matching", essays, batch=batch),
    ]


async def test_a_batch_without_a_tally_is_tallied_while_it_is_read(projection: Projection) -> None:
    await projection.poll(*_a_batch("b1", 3), *_a_batch("b2", 3))
    async with projection.database.transaction() as session:
        await session.execute(text("UPDATE batch_results SET tally = NULL WHERE batch_id = 'b1'"))
    stored = await projection.all_stored()
    async with projection.database.snapshot() as session:
        few, whole = await READER.few(session, ["b1", "b2"]), await READER.batches(session, ["b1", "b2"])
        noting = NotingSession(session)
        summaries = await READER.summaries(ReadSession(noting), ["b1", "b2"])
    tallies = [BatchTally.of(stored[batch_id].facts) for batch_id in ("b1", "b2")]
    assert [summary.tally for summary in summaries] == [batch.stored.tally for batch in whole] == tallies
    assert [stored[batch_id].tally for batch_id in ("b1", "b2")] == [None, tallies[1]]
    assert [few[batch_id].stored.tally for batch_id in ("b1", "b2")] == [None, tallies[1]]  # it is one statement
    assert [s.arguments for s in noting.sent if "essay_results" in s.sql] == [(["b1"],)]
