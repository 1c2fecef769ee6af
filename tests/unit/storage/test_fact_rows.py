"""The rows of facts are the same whether they were made ahead or as they are written."""

import asyncio

import orjson

from result_aggregator_service.domain.fold import fold
from result_aggregator_service.storage.fact_rows import FactRows, Parameters
from tests.unit.domain import messages as say
from tests.waiting import eventually


async def statements(rows: FactRows) -> list[Parameters]:
    return [parameters async for parameters in rows.essays()]


async def test_rows_made_ahead_are_those_that_are_made_when_they_are_written() -> None:
    facts = fold([say.registered([f"e{number}" for number in range(6_000)]), say.rich_spellcheck("e7", corrections=3)])
    ahead, late = FactRows(facts), FactRows(facts)
    await ahead.make_ahead()
    assert await statements(ahead) == await statements(late)
    essays = [row["essay_id"] for each in await statements(ahead) for row in orjson.loads(each["rows"])]
    assert essays == sorted(facts.essays), "every essay, in the order in which their locks are taken"
    assert ahead.essay_count == 6_000


async def test_tables_that_get_no_row_get_no_statement() -> None:
    rows = FactRows(fold([say.nlp("e1", None)]))
    assert rows.unplaced == ["e1"]
    assert (rows.heard, rows.batches, rows.anchors) == (None, None, None)
    assert (rows.outcomes, rows.pipeline_ends, rows.assessments, rows.registered) == (None, None, None, [])
    assert len(await statements(rows)) == 1
    assert await statements(FactRows(fold([]))) == []


async def test_while_the_rows_of_many_essays_are_made_others_have_their_turns() -> None:
    # They take many times as long as a slice, on however fast a machine.
    rows = FactRows(fold([say.registered([f"e{number}" for number in range(5_000)])]))
    assert await turns_of_others(rows) > 3, "at least two slices"


async def test_while_the_rows_of_many_batches_are_made_they_have_them_too() -> None:
    # Three tables get rows, each of which takes longer than a slice.
    said = [say.outcome("spellcheck", batch=f"b{number}") for number in range(5_000)]
    rows = FactRows(fold([*said, *(say.registered([], batch=f"b{number}") for number in range(5_000))]))
    assert rows.essay_count == 0
    assert await turns_of_others(rows) > 3, "after each table"


async def turns_of_others(rows: FactRows) -> int:
    making = asyncio.create_task(rows.make_ahead())
    turns = 0
    while not making.done():
        await asyncio.sleep(0)
        turns += 1
    await eventually(making.done)
    return turns
