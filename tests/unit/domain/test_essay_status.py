"""An essay's status in a phase: its own result, a later outcome that lists it as failed, or the word on the batch."""

import pytest

from result_aggregator_service.contracts.enums import Phase, ProcessingStage
from result_aggregator_service.domain.batch import EssayPhaseStatus
from result_aggregator_service.domain.event import Event
from tests.unit.domain import messages as say
from tests.unit.domain.messages import time
from tests.unit.domain.model import ReadModel, read_model

COMPLETED, FAILED = ProcessingStage.COMPLETED, ProcessingStage.FAILED


def status(model: ReadModel, phase: Phase = Phase.SPELLCHECK, essay: str = "e1") -> EssayPhaseStatus:
    """What is known of the essay in the phase."""
    known = model.view().essays[essay][phase]
    assert known is not None
    return known


def code(known: EssayPhaseStatus) -> object:
    assert known.error is not None
    return known.error["error_code"]


RESULTS: list[tuple[Phase, Event, Event]] = [
    (Phase.SPELLCHECK, say.spellcheck("e1", at=50), say.spellcheck("e1", ok=False, error="OWN", at=50)),
    (Phase.SPELLCHECK, say.rich_spellcheck("e1", at=50), say.rich_spellcheck("e1", ok=False, error="OWN", at=50)),
    (Phase.AI_FEEDBACK, say.feedback("e1", at=50), say.feedback("e1", ok=False, error="OWN", at=50)),
    (Phase.CJ_ASSESSMENT, say.assessment({"e1": (1, 0.5)}, at=50), say.thin([], ["e1"], at=50)),
]


@pytest.mark.parametrize(("phase", "success", "failure"), RESULTS)
def test_an_essays_own_result_decides(phase: Phase, success: Event, failure: Event) -> None:
    known = status(read_model(say.registered(), success), phase)
    assert (known.status, known.at, known.error) == (COMPLETED, time(50), None)
    known = status(read_model(say.registered(), failure), phase)
    assert (known.status, known.at) == (FAILED, time(50))
    assert code(known) in ("OWN", "CJ_ASSESSMENT_FAILED")


@pytest.mark.parametrize(("phase", "success", "failure"), RESULTS)
def test_a_later_outcome_that_lists_an_essay_as_failed_overrides_its_result(
    phase: Phase, success: Event, failure: Event
) -> None:
    known = status(read_model(say.registered(), success, say.outcome(phase, [], ["e1"], at=51)), phase)
    assert (known.status, known.at, code(known)) == (FAILED, time(51), "PHASE_OUTCOME_FAILED")


@pytest.mark.parametrize(("phase", "success", "failure"), RESULTS)
def test_an_essay_that_failed_by_itself_keeps_its_own_error(phase: Phase, success: Event, failure: Event) -> None:
    known = status(read_model(say.registered(), failure, say.outcome(phase, [], ["e1"], at=51)), phase)
    assert (known.status, known.at) == (FAILED, time(51))
    assert code(known) in ("OWN", "CJ_ASSESSMENT_FAILED")


@pytest.mark.parametrize(("phase", "success", "failure"), RESULTS)
def test_an_earlier_outcome_does_not_override_a_result(phase: Phase, success: Event, failure: Event) -> None:
    known = status(read_model(say.registered(), say.outcome(phase, [], ["e1"], at=49), success), phase)
    assert (known.status, known.at, known.error) == (COMPLETED, time(50), None)


@pytest.mark.parametrize(("outcome_number", "expected"), [(1, COMPLETED), (3, FAILED)])
def test_at_the_same_time_the_greater_id_decides(outcome_number: int, expected: ProcessingStage) -> None:
    result = say.spellcheck("e1", at=50, number=2)
    outcome = say.outcome("spellcheck", [], ["e1"], at=50, number=outcome_number)
    assert status(read_model(result, outcome)).status is expected


def test_an_essay_that_failed_and_was_never_heard_of_is_failed_by_the_outcome_which_the_error_names() -> None:
    outcome = say.outcome("spellcheck", [], ["e1"], at=100)
    known = status(read_model(say.registered(), outcome))
    assert (known.status, known.at) == (FAILED, time(100))
    assert known.error == {
        "error_code": "PHASE_OUTCOME_FAILED",
        "message": f"listed as failed by the spellcheck outcome {outcome.clock.event_id}",
        "correlation_id": str(outcome.correlation_id),
        "timestamp": "2026-03-02T08:01:40.000000Z",
        "service": "some_service",
        "operation": "spellcheck",
        "details": {"outcome_event_id": str(outcome.clock.event_id)},
    }


def test_an_outcome_of_another_phase_or_batch_says_nothing_of_it() -> None:
    model = read_model(
        say.registered(["e1"], at=200),
        say.outcome("nlp", [], ["e1"], at=100),
        say.outcome("spellcheck", [], ["e1"], "other", at=100),
    )
    assert model.view().essays["e1"][Phase.SPELLCHECK] is None


def test_being_listed_as_processed_is_no_result() -> None:
    model = read_model(say.registered(["e1"]), say.outcome("spellcheck", ["e1"]))
    assert model.view().essays["e1"][Phase.SPELLCHECK] is None


def test_only_the_winning_outcome_counts() -> None:
    rerun = [say.outcome("spellcheck", [], ["e1"], at=100), say.outcome("spellcheck", ["e1"], at=200)]
    assert status(read_model(say.spellcheck("e1", at=50), *rerun)).status is COMPLETED


# Comparative judgment's word on the batch.


def test_when_comparative_judgment_failed_essays_without_a_result_are_failed_with_its_error() -> None:
    known = status(read_model(say.registered(), say.cj_failed(at=80)), Phase.CJ_ASSESSMENT)
    assert (known.status, known.at, code(known)) == (FAILED, time(80), "CJ_BROKE")


def test_essays_with_a_result_keep_it_when_comparative_judgment_fails_afterwards() -> None:
    model = read_model(say.registered(), say.rankings({"e1": (1, 0.5)}, at=70), say.cj_failed(at=80))
    assert status(model, Phase.CJ_ASSESSMENT, "e1").status is COMPLETED
    assert status(model, Phase.CJ_ASSESSMENT, "e2").status is FAILED


@pytest.mark.parametrize("completion", [say.thin(["e1"], at=90), say.rankings({"e2": (1, 0.5)}, at=90)])
def test_after_a_later_completion_they_wait_for_their_scores_again(completion: Event) -> None:
    model = read_model(say.registered(), say.cj_failed(at=80), completion)
    assert model.view().essays["e1"][Phase.CJ_ASSESSMENT] is None


def test_an_outcome_after_the_failure_keeps_the_error_of_comparative_judgment() -> None:
    model = read_model(say.registered(), say.cj_failed(at=80), say.outcome("cj_assessment", [], ["e1"], at=90))
    known = status(model, Phase.CJ_ASSESSMENT)
    assert (known.at, code(known)) == (time(90), "CJ_BROKE")


def test_the_failure_of_comparative_judgment_says_nothing_of_other_phases() -> None:
    statuses = read_model(say.registered(), say.cj_failed()).view().essays["e1"]
    assert [phase for phase, known in statuses.items() if known is not None] == [Phase.CJ_ASSESSMENT]


# The thin form.


def test_the_thin_forms_successes_wait_for_the_scores() -> None:
    model = read_model(say.registered(), say.thin(["e1"], ["e2"], at=80))
    assert model.view().essays["e1"][Phase.CJ_ASSESSMENT] is None
    assert status(model, Phase.CJ_ASSESSMENT, "e2").status is FAILED
    model.poll(say.assessment({"e1": (1, 0.5)}, at=81))
    assert status(model, Phase.CJ_ASSESSMENT, "e1").status is COMPLETED


# Student matching.


def test_student_matching_is_as_the_outcome_lists_it() -> None:
    model = read_model(say.registered(["e1", "e2", "e3"]), say.outcome("student_matching", ["e1"], ["e2"], at=30))
    assert status(model, Phase.STUDENT_MATCHING, "e1") == EssayPhaseStatus(COMPLETED, time(30), None)
    assert code(status(model, Phase.STUDENT_MATCHING, "e2")) == "PHASE_OUTCOME_FAILED"
    assert model.view().essays["e3"][Phase.STUDENT_MATCHING] is None


def test_nlp_has_no_failures_of_its_own_but_those_an_outcome_lists() -> None:
    model = read_model(say.registered(), say.nlp("e1", at=60), say.outcome("nlp", [], ["e1"], at=61))
    known = status(model, Phase.NLP)
    assert (known.status, code(known)) == (FAILED, "PHASE_OUTCOME_FAILED")
