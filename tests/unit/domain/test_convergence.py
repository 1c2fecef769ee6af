"""The read model is a function of the set of messages: order, duplicates and grouping leave no trace in it."""

from dataclasses import replace
from uuid import UUID

from hypothesis import event, given
from hypothesis import strategies as st

from result_aggregator_service.contracts.enums import FINAL_STATUSES, BatchStatus
from result_aggregator_service.contracts.published import BatchAssessmentCompleted, BatchResultsReady
from result_aggregator_service.contracts.topics import BATCH_ESSAYS_REGISTERED
from result_aggregator_service.domain.announcements import (
    Announcement,
    announcement_id,
    pipeline_results_id,
    results_announcement,
)
from result_aggregator_service.domain.batch import BatchFacts, FinishedBy, finished_by, overall_status
from result_aggregator_service.domain.event import Event
from result_aggregator_service.domain.tally import BatchTally
from tests.hypothesis_profiles import examples
from tests.unit.domain.histories import arrival, graces, lives, orderly, seeds, soups
from tests.unit.domain.messages import EXPECTED, SERVICE
from tests.unit.domain.model import ReadModel, after_polls

#: Two ways in which one history arrives.
arrivals = st.tuples(seeds, seeds)
histories = soups() | lives()
#: Whatever the examples of other properties are, these have thousands.
thousands = examples(4.5)


def settled(polls: list[list[Event]]) -> ReadModel:
    model = after_polls(polls)
    model.run_grace()
    return model


def after_arrival(history: list[Event], seed: int) -> ReadModel:
    """The history as it may have arrived, the grace running out after some of its polls and at the end."""
    model = ReadModel()
    polls = arrival(history, seed)
    for events, grace in zip(polls, graces(seed, polls), strict=True):
        model.poll(*events)
        if grace:
            model.run_grace()
    model.run_grace()
    return model


def assert_same_state(history: list[Event], seed_of_each: tuple[int, int]) -> None:
    expected = settled([history])
    for seed in seed_of_each:
        assert after_arrival(history, seed).views() == expected.views(), seed


@thousands
@given(soups(), arrivals)
def test_any_order_duplication_and_grouping_of_any_history_gives_the_same_state(
    history: list[Event], seed_of_each: tuple[int, int]
) -> None:
    assert_same_state(history, seed_of_each)


@thousands
@given(lives(), arrivals)
def test_any_order_duplication_and_grouping_of_lives_gives_the_same_state(
    history: list[Event], seed_of_each: tuple[int, int]
) -> None:
    assert_same_state(history, seed_of_each)


@thousands
@given(histories, arrivals)
def test_the_final_state_is_announced_and_nothing_is_announced_twice(
    history: list[Event], seed_of_each: tuple[int, int]
) -> None:
    for seed in seed_of_each:
        model = after_arrival(history, seed)
        identities = [announcement.event_id for announcement in model.announced]
        assert len(identities) == len(set(identities))
        for batch_id, view in model.views().items():
            if view.finished_by is None or view.facts.registration is None:
                continue
            final = results_announcement(view.facts, view.status, EXPECTED, SERVICE)
            assert final is not None
            # As such, or, once that has been announced, as finished by the pipeline's end that still rules.
            assert {final.event_id, pipeline_results_id(view.facts, view.status)} & set(identities), batch_id
        model.assert_all_is_judged()


@examples(3)  # of twice the length
@given(orderly("b1"), orderly("b2"), arrivals)
def test_orderly_pipelines_announce_the_same_whatever_the_order(
    one: list[Event], other: list[Event], seed_of_each: tuple[int, int]
) -> None:
    history = one + other
    expected = settled([history])
    rankings: dict[tuple[UUID, UUID], Announcement] = {}
    for seed in seed_of_each:
        polls = arrival(history, seed)
        model = settled(polls)
        assert model.views() == expected.views()
        assert model.ledger == expected.ledger, polls
        assert results_of(model) == results_of(expected)
        assert sorted(a.batch_id for a in model.announced if a.event_id in results_of(model)) == ["b1", "b2"]
        for announcement in rankings_of(model).values():
            # Which of its two forms a job's rankings are told from depends on the order; what either tells does not.
            told_from = (announcement.event_id, announcement.envelope.correlation_id)
            assert rankings.setdefault(told_from, announcement) == announcement
        ranked = {b for b in ("b1", "b2") for essay in model.batch(b).members if essay.cj is not None and essay.cj.rank}
        assert sorted(a.batch_id for a in rankings_of(model).values()) == sorted(ranked)


def results_of(model: ReadModel) -> dict[UUID, Announcement]:
    return {a.event_id: a for a in model.announced if isinstance(a.envelope.data, BatchResultsReady)}


def rankings_of(model: ReadModel) -> dict[UUID, Announcement]:
    return {a.event_id: a for a in model.announced if isinstance(a.envelope.data, BatchAssessmentCompleted)}


def registered_once(history: list[Event]) -> list[Event]:
    """The history without all registrations of a batch but the first that was sent."""
    seen: set[str] = set()
    kept: list[Event] = []
    for said in history:
        if said.topic == BATCH_ESSAYS_REGISTERED:
            if said.payload["entity_id"] in seen:
                continue
            seen.add(said.payload["entity_id"])
        kept.append(said)
    return kept


@thousands
@given(histories, arrivals)
def test_an_identity_of_results_has_one_content_whatever_the_order(
    history: list[Event], seed_of_each: tuple[int, int]
) -> None:
    """Where a batch is registered once and its outcomes list none that a rich message marks as an anchor.

    A finish by a pipeline's end tells of the outcomes known by then; all else in it is the same, too.
    """
    history = registered_once(history)
    contents: dict[UUID, Announcement] = {}
    for seed in seed_of_each:
        model = after_arrival(history, seed)
        for event_id, announcement in results_of(model).items():
            batch = model.batch(announcement.batch_id)
            if any((o.processed_essay_ids | o.failed_essay_ids) & batch.anchor_ids for o in batch.outcomes.values()):
                continue
            content = without_outcomes(announcement) if event_id in by_pipelines(batch) else announcement
            event(f"the same identity again: {event_id in contents}")
            assert contents.setdefault(event_id, content) == content


def by_pipelines(batch: BatchFacts) -> set[UUID]:
    """The identities of finishes by the batch's pipelines' ends."""
    return {
        announcement_id(f"huleedu/ras/results/{batch.batch_id}/{status}/pipeline={end.clock.event_id}")
        for end in batch.pipeline_ends
        for status in FINAL_STATUSES
    }


def without_outcomes(announcement: Announcement) -> Announcement:
    """An announcement of results without what it says of the phases' outcomes."""
    data = announcement.envelope.data.model_copy(update={"phase_results": {}, "completed_essays": 0})
    return replace(announcement, envelope=announcement.envelope.model_copy(update={"data": data}))


@thousands
@given(histories, seeds)
def test_to_judge_the_batches_that_a_poll_touched_is_to_judge_them_all(history: list[Event], seed: int) -> None:
    model = ReadModel()
    for events in arrival(history, seed):
        model.poll(*events)
        model.assert_all_is_judged()


@given(histories, arrivals)
def test_a_poll_that_comes_again_changes_and_announces_nothing(
    history: list[Event], seed_of_each: tuple[int, int]
) -> None:
    model = settled(arrival(history, seed_of_each[0]))
    before = model.views()
    for events in arrival(history, seed_of_each[1]):
        assert model.poll(*events) == []
    assert model.run_grace() == []
    assert model.views() == before


@given(histories)
def test_a_batch_is_judged_by_the_count_of_its_essays_as_by_the_essays(history: list[Event]) -> None:
    model = settled([history])
    for batch_id in model.facts.batches:
        batch = model.batch(batch_id)
        tally = BatchTally.of(batch)
        counted = replace(batch, essays={}).with_(
            has_results=tally.started_at is not None,
            grace_horizon=batch.grace_horizon,
            awaited=tally.awaited,
            failed=tally.failed(),
        )
        status = overall_status(batch, EXPECTED)
        assert finished_by(counted, EXPECTED) == finished_by(batch, EXPECTED)
        assert overall_status(counted, EXPECTED) == status
        if status in FINAL_STATUSES:
            announced = results_announcement(batch, status, EXPECTED, SERVICE)
            assert results_announcement(counted, status, EXPECTED, SERVICE) == announced


@given(histories)
def test_after_the_grace_every_batch_whose_pipeline_ended_is_finished(history: list[Event]) -> None:
    for view in settled([history]).views().values():
        if view.facts.pipeline_ends:
            assert view.finished_by is not None
        assert (view.finished_by is FinishedBy.GRACE) == (view.facts.grace_horizon is not None)
        assert (view.finished_by is None) == (
            view.status in (BatchStatus.AWAITING_CONTENT_VALIDATION, BatchStatus.PROCESSING_PIPELINES)
        )


@given(histories)
def test_whatever_is_announced_has_durations_and_counts_of_zero_or_more(history: list[Event]) -> None:
    for announcement in settled([history]).announced:
        data = announcement.envelope.data
        if isinstance(data, BatchResultsReady):
            assert data.processing_duration_seconds >= 0
            assert data.completed_essays >= 0
            assert all(phase.processing_time_seconds >= 0 for phase in data.phase_results.values())
