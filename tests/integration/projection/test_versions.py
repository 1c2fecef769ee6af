"""Whatever a poll or a grace changes of a batch's answer, it renews the batch's version and keeps its tally true."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings

from result_aggregator_service.api.documents import BatchDocument
from result_aggregator_service.api.presentation import present_batch, present_summary
from result_aggregator_service.domain.event import Event
from result_aggregator_service.domain.tally import BatchTally
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.batch_reader import BatchReader
from result_aggregator_service.storage.projection_repository import ProjectionRepository
from tests.hypothesis_profiles import examples
from tests.integration.projection.projection import ReadModel, at_hand
from tests.integration.service.wiring import rows
from tests.unit.domain import messages as say
from tests.unit.domain.histories import arrival, graces, lives, seeds, soups
from tests.unit.domain.messages import EXPECTED

GRACE = 1.0
_READER = BatchReader(ProjectionRepository())


@dataclass(frozen=True)
class Shown:
    """What can be seen of a batch: its answer, and the version of that."""

    answer: BatchDocument
    version: UUID


async def shown(read_model: ReadModel) -> dict[str, Shown]:
    """Every registered batch, after a look at what was derived of it."""
    ids = [row["batch_id"] for row in await rows(read_model.database, "SELECT batch_id FROM batch_results")]
    found: dict[str, Shown] = {}
    async with read_model.database.snapshot() as session:
        batches = await _READER.batches(session, ids)
        summaries = await _READER.summaries(session, ids)
    for stored, summary in zip(batches, summaries, strict=True):
        assert stored.tally == BatchTally.of(stored.facts)
        answer = present_batch(stored, EXPECTED)
        assert {**present_summary(summary, EXPECTED), "essays": answer["essays"]} == answer
        assert summary.version == stored.version
        found[stored.facts.batch_id] = Shown(answer, stored.version)
    return found


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
