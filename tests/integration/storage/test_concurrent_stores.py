"""Replicas that store at the same time lose nothing, and wait for each other without end for nobody."""

import asyncio
import random

import pytest
from sqlalchemy import text

from result_aggregator_service.domain.event import Event
from result_aggregator_service.domain.fold import fold
from result_aggregator_service.domain.tally import BatchTally
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.fact_rows import FactRows
from result_aggregator_service.storage.projection_repository import Touched
from tests.integration.storage.projection import Projection
from tests.unit.domain import messages as say
from tests.unit.domain.model import read_model
from tests.waiting import eventually

REPLICAS = 4


async def waiting_for_a_lock(projection: Projection) -> int:
    async with projection.database.snapshot() as session:
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        return int((await session.scalars(text(query))).one())


async def test_two_connections_that_make_the_same_batch_and_essay_lose_no_fact(projection: Projection) -> None:
    first = [say.registered(["e1"]), say.spellcheck("e1")]
    second = [say.slot("e1"), say.rankings({"e1": (1, 0.5)}), say.outcome("spellcheck", ["e1"])]
    async with projection.database.transaction() as session:
        await projection.repository.store(session, FactRows(fold(first)))
        other = asyncio.create_task(projection.poll(*second))
        await eventually(lambda: waiting_for_a_lock(projection))
        await projection.completion.settle(session, Touched({"b"}))
    await other
    model = read_model(*first, *second)
    assert await projection.batches() == {"b": model.batch()}
    assert await projection.statuses() == {"b": model.view().status}


async def test_the_last_of_two_to_commit_sees_what_the_other_wrote_and_finishes_the_batch(
    projection: Projection,
) -> None:
    await projection.poll(say.registered(["e1"], requested=["spellcheck"]))
    async with projection.database.transaction() as session:
        touched = await projection.repository.store(session, FactRows(fold([say.spellcheck("e1")])))
        other = asyncio.create_task(projection.poll(say.outcome("spellcheck", ["e1"])))
        await eventually(lambda: waiting_for_a_lock(projection))
        await projection.completion.settle(session, touched)
    await other
    assert len(await projection.outbox()) == 2


async def test_an_essay_of_another_batch_holds_that_batch_until_the_commit(projection: Projection) -> None:
    await projection.poll(say.registered(["e1"], "a"), say.registered(["e2"], "b"))
    async with projection.database.transaction() as session:
        await projection.repository.store(session, FactRows(fold([say.nlp("e1")])))
        other = asyncio.create_task(projection.poll(say.slot("e9", "a")))
        await eventually(lambda: waiting_for_a_lock(projection))
        await projection.poll(say.slot("e8", "b"))
    await other


@pytest.mark.parametrize("message", [say.nlp("e1"), say.rankings({"e1": (1, 0.5)}, "a")])
async def test_a_message_known_only_by_its_essay_waits_for_the_batch_before_it_holds_the_essay(
    projection: Projection, message: Event
) -> None:
    await projection.poll(say.registered(["e1"], "b"))
    async with projection.database.transaction() as session:
        await projection.repository.lock(session, ["b"])
        other = asyncio.create_task(projection.poll(message))
        await eventually(lambda: waiting_for_a_lock(projection))
        await projection.repository.store(session, FactRows(fold([say.spellcheck("e1", "b")])))
    await other


# Deadlocks are looked for after so long; by default a second goes by, on each.
_IMPATIENT = "DO $$BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout TO 20', current_database()); END$$"


def a_message(dice: random.Random, number: int) -> Event:
    """Something about one of three batches and some of eight essays, with this number for its id."""
    batch, at = dice.choice(("b1", "b2", "b3")), number % 7
    one, two, three = dice.sample([f"e{essay}" for essay in range(8)], 3)
    match dice.randrange(8):
        case 0:
            return say.registered([one, two, three], batch, user=f"u{number}", at=at, number=number)
        case 1:
            return say.slot(one, batch, at=at, number=number)
        case 2:
            return say.spellcheck(one, batch, corrections=number, at=at, number=number)
        case 3:
            return say.nlp(one, None, words=number, at=at, number=number)
        case 4:
            return say.outcome("spellcheck", [one, two], [three], batch, at=at, number=number)
        case 5:
            return say.outcome("cj_assessment", [one, two], [three], batch, at=at, number=number)
        case 6:
            return say.assessment({one: (number, 0.5)}, batch, anchors=[three], at=at, number=number)
        case _:
            return say.end(["spellcheck"], batch, at=at, number=number)


@pytest.mark.parametrize("seed", range(4))
async def test_replicas_that_store_overlapping_polls_end_with_what_one_would_have(
    database: Database, projection: Projection, seed: int
) -> None:
    async with database.transaction() as session:
        await session.execute(text(_IMPATIENT))
    await database.close()
    dice = random.Random(seed)
    history = [a_message(dice, number) for number in range(1, 161)]
    shares = [[*history[replica::REPLICAS], *dice.sample(history, 10)] for replica in range(REPLICAS)]

    async def replica(messages: list[Event]) -> None:
        for start in range(0, len(messages), 5):
            await projection.poll_until_done(*messages[start : start + 5])

    async with asyncio.timeout(60):
        await asyncio.gather(*(replica(share) for share in shares))
    model = read_model(*history)
    stored = await projection.all_stored()
    assert {b: batch.facts for b, batch in stored.items()} == {b: model.batch(b) for b in model.facts.batches}
    assert {b: batch.tally for b, batch in stored.items()} == {b: BatchTally.of(model.batch(b)) for b in stored}
    assert await projection.statuses() == {batch_id: view.status for batch_id, view in model.views().items()}
