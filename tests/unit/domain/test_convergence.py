"""The read model is a function of the set of messages: order, duplicates and grouping leave no trace in it."""

from hypothesis import given
from hypothesis import strategies as st

from result_aggregator_service.contracts.enums import BatchStatus
from result_aggregator_service.contracts.published import BatchAssessmentCompleted, BatchResultsReady
from result_aggregator_service.domain.announcements import pipeline_results_id, results_announcement
from result_aggregator_service.domain.batch import finished_by, may_be_finished
from result_aggregator_service.domain.event import Event
from tests.hypothesis_profiles import examples
from tests.unit.domain.histories import in_polls, orderly, soups
from tests.unit.domain.messages import EXPECTED, SERVICE
from tests.unit.domain.model import ReadModel, after_polls


def settled(polls: list[list[Event]]) -> ReadModel:
    model = after_polls(polls)
    model.run_grace()
    return model


@examples(4)
@given(st.data())
def test_any_order_duplication_and_grouping_of_any_history_gives_the_same_state(data: st.DataObject) -> None:
    history = data.draw(soups(), label="history")
    expected = settled([history])
    assert settled(data.draw(in_polls(history), label="polls")).views() == expected.views()


@given(st.data())
def test_any_order_of_several_orderly_pipelines_gives_the_same_state(data: st.DataObject) -> None:
    history = data.draw(orderly("b1")) + data.draw(orderly("b2"))
    assert settled(data.draw(in_polls(history))).views() == settled([history]).views()


@examples(3)
@given(st.data())
def test_the_final_state_is_announced_and_nothing_is_announced_twice(data: st.DataObject) -> None:
    history = data.draw(soups(), label="history")
    model = ReadModel()
    for events in data.draw(in_polls(history), label="polls"):
        model.poll(*events)
        if data.draw(st.integers(0, 7)) == 0:
            model.run_grace()
    model.run_grace()
    identities = [announcement.event_id for announcement in model.announced]
    assert len(identities) == len(set(identities))
    for batch_id, view in model.views().items():
        if view.finished_by is None or view.facts.registration is None:
            continue
        final = results_announcement(view.facts, view.status, EXPECTED, SERVICE)
        assert final is not None
        assert {final.event_id, pipeline_results_id(view.facts, view.status)} & set(identities), batch_id
    assert model.settle() == []


@examples(2)
@given(st.data())
def test_an_orderly_pipeline_announces_the_same_whatever_the_order(data: st.DataObject) -> None:
    history = data.draw(orderly(), label="history")
    expected = settled([history])
    model = settled(data.draw(in_polls(history), label="polls"))
    assert model.ledger == expected.ledger
    results = {a.event_id: a for a in model.announced if isinstance(a.envelope.data, BatchResultsReady)}
    assert results == {a.event_id: a for a in expected.announced if isinstance(a.envelope.data, BatchResultsReady)}
    assert len(results) == 1
    ranked = [a for a in model.announced if isinstance(a.envelope.data, BatchAssessmentCompleted)]
    assert len(ranked) == any(essay.cj is not None and essay.cj.rank for essay in model.batch().members)


@given(st.data())
def test_a_poll_that_comes_again_changes_and_announces_nothing(data: st.DataObject) -> None:
    polls = data.draw(in_polls(data.draw(soups())))
    model = settled(polls)
    before = model.views()
    for events in polls:
        assert model.poll(*events) == []
    assert model.run_grace() == []
    assert model.views() == before


@given(soups())
def test_a_batch_is_only_finished_where_its_essays_were_worth_a_look(history: list[Event]) -> None:
    model = settled([history])
    for batch_id in model.facts.batches:
        batch = model.batch(batch_id)
        assert may_be_finished(batch, EXPECTED) or finished_by(batch, EXPECTED) is None


@given(soups())
def test_after_the_grace_every_batch_whose_pipeline_ended_is_finished(history: list[Event]) -> None:
    for view in settled([history]).views().values():
        if view.facts.pipeline_ends:
            assert view.finished_by is not None
        assert (view.finished_by is None) == (
            view.status in (BatchStatus.AWAITING_CONTENT_VALIDATION, BatchStatus.PROCESSING_PIPELINES)
        )


@given(soups())
def test_whatever_is_announced_has_durations_and_counts_of_zero_or_more(history: list[Event]) -> None:
    for announcement in settled([history]).announced:
        data = announcement.envelope.data
        if isinstance(data, BatchResultsReady):
            assert data.processing_duration_seconds >= 0
            assert data.completed_essays >= 0
            assert all(phase.processing_time_seconds >= 0 for phase in data.phase_results.values())
