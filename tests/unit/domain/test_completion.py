"""Which phases matter, when a batch is finished and by what, and what is shown of it."""

from collections.abc import Sequence

import pytest

from result_aggregator_service.contracts.enums import CLIENT_STATUS, FINAL_STATUSES, BatchStatus, Phase
from result_aggregator_service.domain.batch import (
    FinishedBy,
    known_phases,
    overall_status,
)
from result_aggregator_service.domain.event import Event
from result_aggregator_service.domain.tally import EssayCounts
from tests.unit.domain import messages as say
from tests.unit.domain.messages import AWAITING, CANCELLED, CRITICAL, EXPECTED, FAILURES, PROCESSING, SUCCESS, time
from tests.unit.domain.model import ReadModel, View, read_model

SPELLCHECK, CJ, NLP = Phase.SPELLCHECK, Phase.CJ_ASSESSMENT, Phase.NLP
FEEDBACK, MATCHING = Phase.AI_FEEDBACK, Phase.STUDENT_MATCHING

CHECKED = [say.registered(), say.spellcheck("e1", at=50), say.spellcheck("e2", at=51)]
CHECKED += [say.outcome("spellcheck", ["e1", "e2"], at=100)]
JUDGED = [say.rankings({"e1": (1, 0.5), "e2": (2, -0.5)}, at=190), say.outcome("cj_assessment", ["e1", "e2"], at=200)]


def view(*events: Event, expected: Sequence[Phase] = EXPECTED) -> View:
    return read_model(*events, expected=expected).view()


# Phases that matter.


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([say.registered()], [CJ, SPELLCHECK]),
        ([say.registered(requested=[])], [CJ, SPELLCHECK]),
        ([say.registered(requested=["unheard of"])], [CJ, SPELLCHECK]),
        ([say.registered(requested=["nlp", "unheard of", "spellcheck", "nlp"])], [NLP, SPELLCHECK]),
        ([say.registered(requested=["nlp"]), say.end(["spellcheck"])], [SPELLCHECK]),
        ([say.registered(requested=["nlp"]), say.end([])], [NLP]),
        ([say.end([])], [CJ, SPELLCHECK]),
        ([say.end(["nlp"], at=1), say.end(["ai_feedback"], at=2)], [FEEDBACK, NLP]),
        ([say.end(["nlp"], at=300), say.end([], at=400)], [NLP]),
        ([say.end(["nlp"], at=300), say.outcome("spellcheck", at=301)], [NLP, SPELLCHECK]),
        ([say.end(["nlp"], at=300), say.outcome("spellcheck", at=299)], [NLP]),
        ([say.end(["nlp"], at=300), say.end(["nlp"], at=400), say.outcome("spellcheck", at=350)], [NLP]),
        ([say.outcome("spellcheck"), say.outcome("student_matching")], [CJ, SPELLCHECK]),
    ],
)
def test_the_phases_that_matter(events: list[Event], expected: list[Phase]) -> None:
    assert view(*events).matter == expected


def test_the_setting_says_which_phases_matter_where_nothing_else_does() -> None:
    assert view(say.registered(), expected=[NLP]).matter == [NLP]


def test_known_phases_are_each_once_in_the_words_order() -> None:
    assert known_phases(["nlp", "x", "spellcheck", "nlp", "NLP"]) == [NLP, SPELLCHECK]


# Each way to finish.


def test_a_batch_is_finished_by_its_outcomes_and_results_whatever_comes_last() -> None:
    messages = [*CHECKED, *JUDGED]
    for last in messages:
        model = read_model(*(message for message in messages if message is not last))
        assert model.batch().registration is None or model.view().finished_by is None
        model.poll(last)
        assert (model.view().finished_by, model.view().status) == (FinishedBy.OUTCOMES, SUCCESS)
        assert len(model.announced) == 2


def test_a_batch_with_an_outcome_missing_is_not_finished() -> None:
    assert view(*CHECKED, JUDGED[0]).finished_by is None


def test_every_essay_listed_as_processed_needs_its_own_result() -> None:
    outcomes = [say.outcome("spellcheck", ["e1", "e2"], at=100), say.outcome("cj_assessment", ["e1"], at=200)]
    model = read_model(say.registered(), *outcomes, say.spellcheck("e1"), say.rankings({"e1": (1, 0.5)}))
    assert model.view().finished_by is None
    model.poll(say.spellcheck("e2"))
    assert model.view().finished_by is FinishedBy.OUTCOMES


def test_a_result_in_another_phase_will_not_do() -> None:
    model = read_model(say.registered(["e1"], requested=["nlp"]), say.outcome("nlp", ["e1"]), say.spellcheck("e1"))
    assert model.view().finished_by is None


def test_an_own_failure_is_a_result_too() -> None:
    model = read_model(say.registered(["e1"], requested=["spellcheck"]), say.outcome("spellcheck", ["e1"]))
    model.poll(say.spellcheck("e1", ok=False, at=120))
    assert (model.view().finished_by, model.view().status) == (FinishedBy.OUTCOMES, FAILURES)


def test_an_essay_that_failed_and_was_never_heard_of_again_does_not_hold_the_batch_open() -> None:
    events = [say.registered(), say.spellcheck("e1"), say.outcome("spellcheck", ["e1"], ["e2"], at=100)]
    events += [say.rankings({"e1": (1, 0.5)}), say.outcome("cj_assessment", ["e1"], at=200)]
    seen = view(*events)
    assert (seen.finished_by, seen.status) == (FinishedBy.OUTCOMES, FAILURES)
    assert seen.counts == EssayCounts(completed=1, failed=1)


def test_an_essay_that_nobody_listed_does_not_hold_the_batch_open_either() -> None:
    seen = view(say.registered(["e1", "e2", "e3"]), *CHECKED[1:], *JUDGED)
    assert seen.finished_by is FinishedBy.OUTCOMES
    assert seen.counts == EssayCounts(completed=2, failed=0)


def test_anchors_need_no_results() -> None:
    outcome = say.outcome("cj_assessment", ["e1", "e2", "anchor"], at=201)
    rich = say.assessment({"e1": (1, 0.5), "e2": (2, 0.1)}, anchors=["anchor"])
    assert view(*CHECKED, rich, outcome).finished_by is FinishedBy.OUTCOMES


@pytest.mark.parametrize("moves", ["first", "before its result", "last"])
def test_an_essay_that_is_in_another_batch_now_is_no_longer_waited_for(moves: str) -> None:
    listed = [say.registered(requested=["spellcheck"]), say.outcome("spellcheck", ["e1", "e2"], at=100)]
    messages = [*listed, say.spellcheck("e1", at=50), say.spellcheck("e2", "other", at=60)]
    messages.insert({"first": 0, "before its result": 3, "last": 4}[moves], say.slot("e2", "other", at=900))
    model = ReadModel()
    for message in messages:
        model.poll(message)
    assert model.view().members == ["e1"]
    assert (model.view().finished_by, model.view().status) == (FinishedBy.OUTCOMES, SUCCESS)
    assert len(model.announced) == 1


def test_the_word_of_comparative_judgments_failure_is_no_result_of_an_essay() -> None:
    assert view(*CHECKED, say.cj_failed(at=190), JUDGED[1]).finished_by is None


def test_the_thin_form_is_waited_upon_for_scores() -> None:
    model = read_model(*CHECKED, say.thin(["e1", "e2"], at=190), JUDGED[1])
    assert model.view().finished_by is None
    model.poll(say.assessment({"e1": (1, 0.5), "e2": (2, 0.1)}, at=191))
    assert model.view().finished_by is FinishedBy.OUTCOMES


def test_for_student_matching_the_outcome_alone_will_do() -> None:
    seen = view(say.registered(requested=["student_matching"]), say.outcome("student_matching", ["e1", "e2"]))
    assert (seen.finished_by, seen.counts.completed) == (FinishedBy.OUTCOMES, 2)


def test_a_critical_failure_of_a_phase_that_matters_finishes_the_batch_at_once() -> None:
    seen = view(say.registered(), say.outcome("spellcheck", ["e1"], status=CRITICAL))
    assert (seen.finished_by, seen.status) == (FinishedBy.CRITICAL_PHASE, CRITICAL)


def test_a_critical_failure_of_a_phase_that_does_not_matter_does_not() -> None:
    seen = view(say.registered(), say.outcome("nlp", status=CRITICAL))
    assert (seen.finished_by, seen.status, seen.error_count) == (None, PROCESSING, 1)


def test_a_later_outcome_of_the_phase_takes_a_critical_failure_back() -> None:
    critical = say.outcome("cj_assessment", status=CRITICAL, at=150)
    assert view(*CHECKED, critical, *JUDGED).status == SUCCESS


@pytest.mark.parametrize("status", [CRITICAL, CANCELLED])
def test_a_pipeline_that_ended_critically_or_cancelled_finishes_the_batch_at_once(status: BatchStatus) -> None:
    seen = view(say.registered(), say.end([], status=status))
    assert (seen.finished_by, seen.status) == (FinishedBy.PIPELINE, status)


@pytest.mark.parametrize("status", [SUCCESS, FAILURES])
def test_a_pipeline_that_ended_otherwise_waits_for_outcomes_and_results(status: BatchStatus) -> None:
    seen = view(say.registered(), say.end(status=status))
    assert (seen.finished_by, seen.status) == (None, PROCESSING)


def test_a_later_outcome_reopens_a_cancelled_batch() -> None:
    cancelled = [say.registered(), say.end([], status=CANCELLED, at=90)]
    assert view(*cancelled, say.outcome("spellcheck", ["e1"], at=80)).status == CANCELLED
    assert view(*cancelled, say.outcome("spellcheck", ["e1"], at=100)).status == PROCESSING


@pytest.mark.parametrize(("outcome_number", "status"), [(1, CANCELLED), (3, PROCESSING)])
def test_of_an_outcome_and_an_end_of_one_time_the_one_with_the_greater_id_is_later(
    outcome_number: int, status: BatchStatus
) -> None:
    end = say.end([], status=CANCELLED, at=90, number=2)
    assert view(say.registered(), end, say.outcome("spellcheck", at=90, number=outcome_number)).status == status


def test_only_the_last_pipelines_end_finishes_a_batch() -> None:
    seen = view(say.registered(), say.end([], status=CANCELLED, at=90), say.end([], status=SUCCESS, at=91))
    assert seen.finished_by is None


def test_a_rerun_of_a_phase_waits_for_its_results_unless_there_are_some() -> None:
    first = [*CHECKED, *JUDGED, say.end(at=300)]
    rerun = say.outcome("spellcheck", ["e1", "e2"], at=400)
    assert view(*first, rerun).finished_by is FinishedBy.OUTCOMES
    assert view(*first, say.outcome("nlp", ["e1"], at=400)).finished_by is None
    assert view(*first, say.outcome("nlp", ["e1"], at=400), say.nlp("e1")).finished_by is FinishedBy.OUTCOMES


# Grace.


def test_grace_finishes_a_batch_whose_pipeline_ended() -> None:
    model = read_model(*CHECKED, say.end(status=FAILURES))
    assert model.view().finished_by is None
    model.run_grace()
    assert (model.view().finished_by, model.view().status) == (FinishedBy.GRACE, FAILURES)


def test_there_is_no_grace_before_a_pipelines_end() -> None:
    model = read_model(*CHECKED)
    model.run_grace()
    assert model.view().finished_by is None


def test_grace_holds_while_late_results_come_in() -> None:
    model = read_model(*CHECKED, say.end())
    model.run_grace()
    model.poll(JUDGED[0])
    assert model.view().finished_by is FinishedBy.GRACE
    model.poll(JUDGED[1])
    assert model.view().finished_by is FinishedBy.OUTCOMES


@pytest.mark.parametrize(
    "later", [say.outcome("nlp", at=301), say.end(["nlp"], at=301), say.outcome("spellcheck", ["e1", "e2"], at=301)]
)
def test_grace_ends_with_an_outcome_or_end_later_than_its_horizon(later: Event) -> None:
    model = read_model(*CHECKED, say.end(at=300))
    model.run_grace()
    model.poll(later)
    assert model.view().finished_by is None
    model.run_grace()
    assert model.view().finished_by is FinishedBy.GRACE


def test_grace_is_not_ended_by_an_outcome_or_end_before_its_horizon() -> None:
    model = read_model(*CHECKED, say.end(at=300))
    model.run_grace()
    model.poll(say.outcome("nlp", at=299), say.end(["nlp"], at=298))
    assert model.view().finished_by is FinishedBy.GRACE


def test_the_horizon_is_the_latest_of_winning_outcomes_and_ends() -> None:
    assert read_model(say.registered()).batch().horizon() is None
    outcome, end = say.outcome("nlp", at=100), say.end(at=99)
    assert read_model(outcome, end, say.spellcheck("e1", at=900)).batch().horizon() == outcome.clock


# The status of a batch.


def test_a_batch_awaits_its_content_when_registered_only() -> None:
    for waiting in (say.slot("e1"), say.thin(["e1"]), say.rankings({}), say.assessment({"e1": (None, None)})):
        assert view(say.registered(), waiting).status == AWAITING


@pytest.mark.parametrize(
    "first",
    [
        say.spellcheck("e1"),
        say.rich_spellcheck("e1", ok=False),
        say.outcome("nlp"),
        say.rankings({"e1": (1, 0.5)}),
        say.thin([], ["e1"]),
        say.cj_failed(),
        say.end(),
        say.nlp("e1"),
        say.feedback("e1"),
    ],
    ids=lambda message: message.topic,
)
def test_the_first_result_outcome_cj_failure_or_pipeline_end_puts_it_in_progress(first: Event) -> None:
    assert view(say.registered(), first).status == PROCESSING


def test_a_result_of_an_anchor_or_another_batchs_essay_does_not() -> None:
    assert view(say.registered(), say.rankings({"anchor": (1, 0.5)})).status == AWAITING
    assert view(say.registered(), say.spellcheck("e9", "other"), say.slot("e8")).status == AWAITING


def test_known_results_will_do_where_the_essays_are_not_loaded() -> None:
    batch = read_model(say.registered()).batch()
    assert overall_status(batch.with_(has_results=True, grace_horizon=None), EXPECTED) == PROCESSING


@pytest.mark.parametrize("status", sorted(FINAL_STATUSES))
def test_the_last_end_has_the_last_word_if_no_outcome_is_later(status: BatchStatus) -> None:
    finished = [*CHECKED, *JUDGED]
    assert view(*finished, say.end(status=status, at=200.5)).status == status
    assert view(*finished, say.end(status=status, at=199)).status == SUCCESS
    assert view(*finished, say.end(status=status, at=1), say.end(status=FAILURES, at=300)).status == FAILURES


def test_a_batch_failed_critically_if_a_phase_that_matters_did_though_others_went_well() -> None:
    assert view(*CHECKED, say.outcome("cj_assessment", status=CRITICAL)).status == CRITICAL


def test_a_batch_is_completed_with_failures_if_an_outcome_says_so() -> None:
    outcome = say.outcome("cj_assessment", ["e1", "e2"], status=FAILURES, at=201)
    assert view(*CHECKED, *JUDGED, outcome).status == FAILURES


def test_a_batch_is_completed_with_failures_if_an_essay_failed_in_a_phase_that_matters() -> None:
    late_failure = say.spellcheck("e2", ok=False, at=150)
    assert view(*CHECKED, *JUDGED, late_failure).status == FAILURES


def test_failures_in_phases_that_do_not_matter_do_not_show_in_the_status() -> None:
    extra = [say.feedback("e1", ok=False), say.outcome("nlp", [], ["e1"], status=FAILURES)]
    assert view(*CHECKED, *JUDGED, *extra).status == SUCCESS


def test_a_cancelled_phase_counts_as_neither_success_nor_failure() -> None:
    assert view(*CHECKED, say.outcome("cj_assessment", status=CANCELLED)).status == SUCCESS


def test_every_status_has_one_that_clients_are_shown() -> None:
    assert set(CLIENT_STATUS) == set(BatchStatus)
    assert CLIENT_STATUS[BatchStatus.CONTENT_INGESTION_FAILED].value == "failed"
    assert CLIENT_STATUS[BatchStatus.STUDENT_VALIDATION_COMPLETED].value == "processing"


# Counts.


def test_an_essay_is_completed_only_in_all_phases_that_matter_and_failed_in_any() -> None:
    model = read_model(
        say.registered(["e1", "e2", "e3", "e4"]),
        say.spellcheck("e1"),
        say.spellcheck("e2"),
        say.spellcheck("e3", ok=False),
        say.rankings({"e1": (1, 0.5), "e3": (2, 0.4)}),
    )
    assert model.view().counts == EssayCounts(completed=1, failed=1)


def test_errors_are_failed_results_of_all_phases_and_critical_outcomes() -> None:
    model = read_model(
        say.registered(["e1", "e2"]),
        say.spellcheck("e1", ok=False),
        say.feedback("e1", ok=False),
        say.outcome("nlp", [], ["e2"], status=CRITICAL),
        say.cj_failed(),
        say.spellcheck("e9", "other", ok=False),
    )
    assert model.view().error_count == 2 + 1 + 2 + 1


# The phase at hand.


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([say.registered()], None),
        ([say.registered(), say.spellcheck("e1")], SPELLCHECK),
        (CHECKED, CJ),
        ([say.registered(requested=["cj_assessment", "ai_feedback", "nlp"]), say.spellcheck("e1")], NLP),
        ([say.registered(requested=["cj_assessment", "ai_feedback"]), say.spellcheck("e1")], FEEDBACK),
        ([say.registered(requested=["student_matching"]), say.spellcheck("e1")], None),
        ([say.registered(), say.outcome("cj_assessment", ["e1"])], SPELLCHECK),
        ([*CHECKED, say.outcome("cj_assessment", ["e1"])], None),
        ([*CHECKED, *JUDGED], None),
        ([say.registered(), say.outcome("spellcheck", status=CRITICAL)], None),
    ],
)
def test_the_phase_at_hand_is_the_first_that_matters_without_an_outcome_while_processing(
    events: list[Event], expected: Phase | None
) -> None:
    assert view(*events).current_phase is expected


# Times.


def test_a_batch_is_born_with_its_earliest_registration() -> None:
    assert read_model(say.registered(at=9), say.registered(at=4), say.slot("e1", at=1)).batch().created_at == time(4)


@pytest.mark.parametrize(
    ("first", "expected"),
    [
        (say.spellcheck("e1", at=5), 5),
        (say.outcome("nlp", at=5), 5),
        (say.cj_failed(at=5), 5),
        (say.rankings({"e1": (1, 0.5)}, at=5), 5),
        (say.slot("e1", at=5), 50),
        (say.rankings({"anchor": (1, 0.5)}, at=5), 50),
        (say.end(at=5), 50),
        (say.spellcheck("e9", "other", at=5), 50),
    ],
)
def test_processing_starts_with_the_earliest_outcome_result_or_cj_failure(first: Event, expected: int) -> None:
    assert view(*CHECKED, first).started_at == time(expected)


def test_processing_that_has_not_started_has_no_start() -> None:
    assert view(say.registered()).started_at is None


def test_processing_is_completed_with_the_last_end_else_the_latest_outcome() -> None:
    assert view(*CHECKED, *JUDGED).completed_at == time(200)
    assert view(*CHECKED, *JUDGED, say.end(at=150), say.end(at=160)).completed_at == time(160)
    assert view(say.registered()).completed_at is None


def test_the_last_update_is_the_latest_message_about_the_batch_or_an_essay_of_it() -> None:
    assert view(say.registered(at=3)).last_updated == time(3)
    assert view(*CHECKED, say.slot("e1", at=500)).last_updated == time(500)
    assert view(*CHECKED, say.nlp("e1", None, at=600)).last_updated == time(600)
    assert view(*CHECKED, say.nlp("e9", None, at=600)).last_updated == time(100)
    assert view(*CHECKED, say.thin(at=700)).last_updated == time(700)
