"""Whatever a poll or a grace changes of a batch's answer, it renews the batch's version and keeps its tally true.

And the answer that is made of what PostgreSQL put into JSON is the one that follows from the facts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import UUID

import orjson
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings

from result_aggregator_service.api.presentation import present_batch, present_summary
from result_aggregator_service.domain.event import Event
from result_aggregator_service.domain.tally import BatchTally
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.batch_reader import FEW, BatchReader
from result_aggregator_service.storage.projection_repository import ProjectionRepository
from tests.hypothesis_profiles import examples
from tests.integration.projection.projection import ReadModel, at_hand
from tests.integration.service.wiring import rows
from tests.unit.domain import messages as say
from tests.unit.domain.histories import arrival, graces, lives, seeds, soups
from tests.unit.domain.messages import EXPECTED

GRACE = 1.0
_READER = BatchReader()
_REPOSITORY = ProjectionRepository()


@dataclass(frozen=True)
class Shown:
    """What can be seen of a batch: its answer, and the version of that."""

    answer: dict[str, Any]
    version: UUID


async def shown(read_model: ReadModel) -> dict[str, Shown]:
    """Every registered batch, after a look at what was derived of it."""
    ids = [row["batch_id"] for row in await rows(read_model.database, "SELECT batch_id FROM batch_results")]
    found: dict[str, Shown] = {}
    async with read_model.database.snapshot() as session:
        loaded = await _REPOSITORY.load(session, ids)
        facts = await _REPOSITORY.load_essays(session, [stored.facts for stored in loaded.values()])
        batches = await _READER.batches(session, ids)
        summaries = await _READER.summaries(session, ids)
        for batch in batches:
            batch_id = batch.stored.facts.batch_id
            assert await _READER.few(session, [batch_id]) == {batch_id: batch}
        for start in range(0, len(batches), FEW):
            few = {batch.stored.facts.batch_id: batch for batch in batches[start : start + FEW]}
            assert await _READER.few(session, list(few)) == few
            assert await _READER.versions(session, list(few)) == {i: batch.stored.version for i, batch in few.items()}
    assert {batch.stored.facts.batch_id for batch in batches} == {i for i, f in facts.items() if f.registration}
    for batch, summary in zip(batches, summaries, strict=True):
        batch_id = batch.stored.facts.batch_id
        stored = replace(loaded[batch_id], facts=facts[batch_id])
        assert stored.tally == batch.stored.tally == BatchTally.of(stored.facts)
        answer = told(present_batch(stored, EXPECTED, stored.facts.members))
        assert told(present_batch(batch.stored, EXPECTED, batch.essays())) == answer
        assert {**told(present_summary(summary, EXPECTED)), "essays": answer["essays"]} == answer
        assert stored.version == batch.stored.version == summary.version
        found[batch_id] = Shown(answer, stored.version)
    return found


def told(document: object) -> dict[str, Any]:
    """A document as a client reads it."""
    read: dict[str, Any] = orjson.loads(orjson.dumps(document))
    return read


async def compared(read_model: ReadModel, before: Mapping[str, Shown]) -> dict[str, Shown]:
    """What can be seen now; each answer that is another one than before has to have another version."""
    now = await shown(read_model)
    for batch_id, was in before.items():
        assert now[batch_id].answer == was.answer or now[batch_id].version != was.version, batch_id
    return now


async def watch(read_model: ReadModel, history: list[Event], seed: int) -> None:
    """Play one arrival of a history, and compare every batch after each step with what it was before."""
    await read_model.clear()
    polls = arrival(history, seed)
    seen: dict[str, Shown] = {}
    for events, grace in zip(polls, graces(seed, polls), strict=True):
        await read_model.poll(*events)
        seen = await compared(read_model, seen)
        if grace:
            await read_model.caught_up(GRACE + 1)
            seen = await compared(read_model, seen)


def test_an_answer_that_changed_has_another_version_and_every_tally_is_true(settings: Settings) -> None:
    with at_hand(settings.model_copy(update={"results_grace_seconds": GRACE})) as (runner, read_model):

        @hypothesis_settings(examples(0.2), suppress_health_check=list(HealthCheck))
        @given(soups() | lives(), seeds)
        def in_any_order(history: list[Event], seed: int) -> None:
            runner.run(watch(read_model, history, seed))

        in_any_order()


async def test_an_essay_that_moves_renews_the_batch_that_it_leaves(read_model: ReadModel) -> None:
    await read_model.poll(say.registered(["e1"], "a", at=0), say.registered(["e2"], "b", at=0))
    before = await shown(read_model)
    await read_model.poll(say.slot("e1", "b", at=5))
    after = await shown(read_model)
    assert [len(after[batch].answer["essays"]) for batch in ("a", "b")] == [0, 2]
    assert all(after[batch].version != before[batch].version for batch in ("a", "b"))


async def test_a_batch_has_a_version_of_its_own_and_keeps_it_while_only_duplicates_come(read_model: ReadModel) -> None:
    told = [say.registered(["e1"], "a"), say.registered(["e2"], "b")]
    await read_model.poll(*told)
    before = await shown(read_model)
    assert before["a"].version != before["b"].version
    assert not (await read_model.poll(*told)).folded
    await read_model.poll(say.slot("e2", "b"))
    after = await shown(read_model)
    assert after["a"] == before["a"]


async def test_facts_are_read_only_of_essays_of_which_something_is_to_be_decided(read_model: ReadModel) -> None:
    """One of each kind; `shown` holds them against what follows from their facts."""
    await read_model.poll(
        say.registered(["completed", "broken", "graded", "listed", "later", "quiet", "anchor"], "a"),
        say.registered(["unheard", "ranked"], "b"),
        say.rich_spellcheck("completed"),
        say.nlp("completed", "a"),
        say.feedback("completed"),
        say.spellcheck("broken", "a", ok=False, error="BROKEN"),
        say.assessment({"completed": (1, 0.5), "graded": (None, None)}, "a", anchors=["anchor"]),
        say.spellcheck("listed", "a", at=50),
        say.spellcheck("later", "a", at=150),
        say.outcome("spellcheck", ["completed"], ["listed", "later", "anchor", "ranked"], "a", at=100),
        say.slot("ranked", "b", at=160),
        say.assessment({"ranked": (1, 0.5)}, "b"),
        say.cj_failed("b", at=200),
    )
    answers = await shown(read_model)
    assert {batch: [essay["essay_id"] for essay in seen.answer["essays"]] for batch, seen in answers.items()} == {
        "a": ["broken", "completed", "graded", "later", "listed", "quiet"],
        "b": ["ranked", "unheard"],
    }
    async with read_model.database.snapshot() as session:
        batches = await _READER.batches(session, ["a", "b"])
    undecided = [sorted(orjson.loads(row)["essay_id"] for row in batch.undecided) for batch in batches]
    assert undecided == [["broken", "graded", "later", "listed"], ["unheard"]]
