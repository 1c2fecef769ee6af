"""The grace of batches whose results stay away: by the caught-up clock, once, for every replica and across restarts."""

import asyncio

from result_aggregator_service.settings import Settings
from tests.integration.projection.projection import ReadModel
from tests.integration.service.wiring import container_of, rows, value
from tests.unit.domain import messages as say
from tests.unit.domain.messages import FAILURES

#: The spell check's results stay away, as do all outcomes of CJ.
WAITING = (say.registered(), say.outcome("spellcheck", ["e1", "e2"], at=100), say.end(status=FAILURES, at=300))
CLOCK = "SELECT caught_up_seconds FROM service_state"
GRACE_HORIZON = "SELECT grace_horizon_event_id FROM batch_results"
GRACE = 2.0  # as the fixture `settings` says


async def test_a_batch_is_finished_when_its_grace_has_run_out_and_not_before(read_model: ReadModel) -> None:
    await read_model.poll(*WAITING)
    await read_model.caught_up(GRACE - 0.5)
    assert await read_model.status() == "processing_pipelines"
    assert await read_model.announced() == []
    await read_model.caught_up(1.0)
    assert await read_model.status() == "completed_with_failures"
    [results] = await read_model.announced()
    assert results["correlation_id"] == str(WAITING[2].correlation_id)  # identity and content are those of the end
    assert set(results["data"]["phase_results"]) == {"spellcheck"}
    touched = await rows(read_model.database, "SELECT batch_id, user_id FROM pending_invalidations ORDER BY id")
    assert [tuple(row.values()) for row in touched] == [("b", None), (None, "teacher")]


async def test_the_clock_stands_while_the_group_lags_and_while_nobody_ticks(read_model: ReadModel) -> None:
    await read_model.poll(*WAITING)
    await read_model.grace.tick(caught_up=True)
    before = await value(read_model.database, CLOCK)
    for caught_up in (False, False, True):
        await read_model._last_tick_was(100)
        await read_model.grace.tick(caught_up=caught_up)
    # Neither up to a tick that finds a lag, nor from it, nor for longer than a step.
    assert await value(read_model.database, CLOCK) == before
    await read_model._last_tick_was(100)
    await read_model.grace.tick(caught_up=True)
    assert before + 2.9 < await value(read_model.database, CLOCK) < before + 3.1


async def test_the_clock_and_what_waits_for_it_outlive_a_restart(settings: Settings) -> None:
    async with container_of(settings) as container:
        read_model = await ReadModel.of(container)
        await read_model.poll(*WAITING)
        await read_model.caught_up(GRACE * 0.6)
    async with container_of(settings) as container:
        read_model = await ReadModel.of(container)
        assert await read_model.status() == "processing_pipelines"
        await read_model.caught_up(GRACE * 0.6)
        assert await read_model.status() == "completed_with_failures"


async def test_several_replicas_finish_and_announce_a_batch_once(settings: Settings) -> None:
    async with container_of(settings) as one, container_of(settings) as two:
        models = [await ReadModel.of(one), await ReadModel.of(two)]
        await models[0].poll(*WAITING)
        await models[0].grace.tick(caught_up=True)
        await models[0]._last_tick_was(GRACE + 0.5)
        await models[0].grace.tick(caught_up=True)
        await asyncio.gather(*(model.grace.finish_some() for model in models))
        assert len(await models[0].announced()) == 1
        assert await models[0].grace.finish_some() == 0


async def test_after_the_grace_late_results_and_earlier_outcomes_announce_nothing(read_model: ReadModel) -> None:
    await read_model.poll(*WAITING)
    await read_model.caught_up(GRACE + 1)
    assert len(await read_model.announced()) == 1
    await read_model.poll(say.spellcheck("e1"), say.spellcheck("e2"))
    await read_model.poll(say.outcome("cj_assessment", ["e1"], at=299), say.rankings({"e1": (1, 0.5)}))
    await read_model.caught_up(GRACE + 1)
    assert await read_model.status() == "completed_with_failures"
    assert len(await read_model.announced()) == 1


async def test_a_grace_that_nothing_rests_on_any_more_is_not_kept(read_model: ReadModel) -> None:
    """Else the row would tell whether the results came before the grace had run out."""
    await read_model.poll(*WAITING)
    await read_model.caught_up(GRACE + 1)
    assert await value(read_model.database, GRACE_HORIZON) == WAITING[2].clock.event_id
    await read_model.poll(say.spellcheck("e1"), say.spellcheck("e2"))
    assert await value(read_model.database, GRACE_HORIZON) == WAITING[2].clock.event_id
    await read_model.poll(say.outcome("cj_assessment", ["e1"], at=299), say.rankings({"e1": (1, 0.5)}))
    assert await value(read_model.database, GRACE_HORIZON) is None
    assert await read_model.status() == "completed_with_failures"
    assert len(await read_model.announced()) == 1


async def test_an_outcome_later_than_the_end_opens_the_batch_again(read_model: ReadModel) -> None:
    await read_model.poll(*WAITING)
    await read_model.caught_up(GRACE + 1)
    await read_model.poll(say.outcome("cj_assessment", ["e1", "e2"], at=400))
    assert await read_model.status() == "processing_pipelines"
    await read_model.poll(say.spellcheck("e1"), say.spellcheck("e2"), say.rankings({"e1": (1, 0.5), "e2": (2, 0.1)}))
    assert await read_model.status() == "completed_successfully"
    assert [message["data"]["overall_status"] for message in await read_model.announced()] == [
        "completed_with_failures",
        "completed_successfully",
    ]


async def test_a_later_outcome_starts_the_wait_again(read_model: ReadModel) -> None:
    await read_model.poll(*WAITING)
    await read_model.caught_up(GRACE - 0.5)
    await read_model.poll(say.outcome("cj_assessment", ["e1", "e2"], at=400))
    await read_model.caught_up(GRACE - 0.5)
    assert await read_model.announced() == []
    await read_model.caught_up(1.0)
    assert len(await read_model.announced()) == 1


async def test_a_batch_whose_results_come_in_time_does_not_wait_and_announces_once(read_model: ReadModel) -> None:
    await read_model.poll(*WAITING)
    await read_model.poll(
        say.spellcheck("e1"),
        say.spellcheck("e2"),
        say.rankings({"e1": (1, 0.5)}),
        say.outcome("cj_assessment", ["e1"], ["e2"], at=200),
    )
    assert len(await read_model.announced()) == 1
    assert await value(read_model.database, "SELECT grace_due FROM batch_results") is None
    await read_model.caught_up(GRACE + 1)
    assert len(await read_model.announced()) == 1


async def test_a_batch_that_nobody_registered_is_finished_and_announced_only_once_it_is(read_model: ReadModel) -> None:
    await read_model.poll(*WAITING[1:])
    await read_model.caught_up(GRACE + 1)
    assert await read_model.announced() == []
    await read_model.poll(WAITING[0])
    assert len(await read_model.announced()) == 1


async def test_a_cancelled_pipeline_needs_no_grace(read_model: ReadModel) -> None:
    await read_model.poll(say.registered(), say.end(status=say.CANCELLED))
    assert await read_model.status() == "cancelled"
    assert len(await read_model.announced()) == 1


async def test_more_batches_than_fit_into_one_go_are_all_finished(read_model: ReadModel) -> None:
    await read_model.poll(
        *(say.registered([f"e{n}"], f"b{n}") for n in range(130)),
        *(say.end(batch=f"b{n}", status=FAILURES) for n in range(130)),
    )
    await read_model.caught_up(GRACE + 1)
    assert len(await read_model.announced()) == 130
