"""What is shown of a batch, case by case; the whole of one answer is in the integration tests."""

import hashlib
import time
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson
import pytest
from hypothesis import given
from pydantic import TypeAdapter

from result_aggregator_service.api.documents import BatchDocument, BatchSummaryDocument
from result_aggregator_service.api.presentation import REPRESENTATION, present_batch, present_summary
from result_aggregator_service.contracts.enums import CLIENT_STATUS, BatchStatus
from result_aggregator_service.domain.batch import BatchFacts, overall_status
from result_aggregator_service.domain.event import Event
from result_aggregator_service.domain.tally import BatchTally
from result_aggregator_service.storage.stored_facts import Judgement, StoredBatch
from tests.hypothesis_profiles import examples
from tests.unit.domain import messages as say
from tests.unit.domain.histories import lives, soups
from tests.unit.domain.messages import CRITICAL, EXPECTED, FAILURES, SUCCESS
from tests.unit.domain.model import read_model

AT_100 = "2026-03-02T08:01:40.000000Z"
_BATCH, _SUMMARY = TypeAdapter(BatchDocument), TypeAdapter(BatchSummaryDocument)


def stored(batch: BatchFacts, status: BatchStatus | None = None) -> StoredBatch:
    judged = status or overall_status(batch, EXPECTED)
    judgement = Judgement(batch.batch_id, judged, batch.horizon(), batch.grace_horizon, None)
    return StoredBatch(batch, judgement, UUID(int=1), BatchTally.of(batch))


def present(batch: StoredBatch) -> BatchDocument:
    """With its essays, of which nothing is decided beforehand."""
    return present_batch(batch, EXPECTED, batch.facts.members)


def shown(*events: Event, status: BatchStatus | None = None) -> dict[str, Any]:
    """The batch `b` as JSON gives it back, after these messages."""
    document = present(stored(read_model(*events).batch(), status))
    answer: dict[str, Any] = orjson.loads(orjson.dumps(document))
    return answer


def shown_essay(*events: Event, essay_id: str = "e1") -> dict[str, Any]:
    return next(essay for essay in shown(*events)["essays"] if essay["essay_id"] == essay_id)


def test_a_batch_that_is_only_registered_shows_its_essays_with_null_statuses() -> None:
    batch = shown(say.registered(["e2", "e1"], requested=["spellcheck", "no phase", "nlp"]))
    assert [essay["essay_id"] for essay in batch["essays"]] == ["e1", "e2"]
    assert {essay[f"{phase}_status"] for essay in batch["essays"] for phase in ("spellcheck", "nlp")} == {None}
    assert (batch["overall_status"], batch["client_status"]) == ("awaiting_content_validation", "pending_content")
    assert batch["requested_pipeline"] == "spellcheck,nlp"
    assert batch["processing_started_at"] is None
    assert batch["processing_completed_at"] is None
    assert batch["error_detail"] is None
    assert set(batch["phases"]) == {"spellcheck", "nlp"}
    assert set(batch["phases"]["nlp"].values()) == {None, 0}


def test_a_batch_that_nobody_registered_cannot_be_shown() -> None:
    batch = read_model(say.spellcheck("e1")).batch()
    with pytest.raises(ValueError, match="not registered"):
        present(stored(batch))


def test_the_status_shown_is_the_one_that_was_judged() -> None:
    batch = shown(say.registered(), status=BatchStatus.CANCELLED)
    assert (batch["overall_status"], batch["client_status"]) == ("cancelled", "cancelled")


@pytest.mark.parametrize("status", list(BatchStatus))
def test_every_status_has_its_word_for_clients(status: BatchStatus) -> None:
    assert shown(say.registered(), status=status)["client_status"] == CLIENT_STATUS[status].value


def test_a_failed_essay_shows_its_error_in_one_line_and_in_parts() -> None:
    broken = say.spellcheck("e1", ok=False, error="BROKEN", corrections=5, text="leftover")
    broken.payload["system_metadata"]["error_info"]["error_message"] = "first\r\nsecond\u2028third\x85fourth\n"
    essay = shown_essay(say.registered(), broken)
    assert essay["spellcheck_status"] == "failed"
    assert essay["spellcheck_error"] == "BROKEN: first second third fourth"
    assert essay["spellcheck_error_detail"]["message"] == "first\r\nsecond\u2028third\x85fourth\n"
    assert essay["spellcheck_error_detail"]["error_code"] == "BROKEN"
    assert essay["spellcheck_completed_at"] == "2026-03-02T08:00:50.000000Z"
    assert essay["spellcheck_correction_count"] is None
    assert essay["spellcheck_corrected_text_storage_id"] is None


def test_what_a_result_carries_is_hidden_once_a_later_outcome_lists_the_essay_as_failed() -> None:
    results = [
        say.rich_spellcheck("e1", at=50),
        say.assessment({"e1": (1, 0.5)}, at=51),
        say.nlp("e1", "b", at=52),
        say.feedback("e1", at=53),
    ]
    before = shown_essay(say.registered(), *results)
    carried = {
        "spellcheck_correction_count": 3,
        "spellcheck_corrected_text_storage_id": "corrected",
        "cj_rank": 1,
        "cj_score": 0.5,
        "cj_letter_grade": "B",
        "cj_comparison_count": 66,
        "cj_confidence_label": "HIGH",
        "nlp_lexical_diversity_score": 70.5,
        "nlp_cohesion_score": 0.4,
        "nlp_grammatical_error_rate": 0.5,
        "ai_feedback_storage_id": "feedback",
    }
    assert {name: before[name] for name in carried} == carried
    objects = ("spellcheck_metrics", "nlp_metrics", "ai_feedback_details")
    assert all(isinstance(before[name], dict) for name in objects)

    phases = ("spellcheck", "cj_assessment", "nlp", "ai_feedback")
    outcomes = [say.outcome(phase, ["e2"], ["e1"], at=100) for phase in phases]
    after = shown_essay(say.registered(), *results, *outcomes)
    assert {after[name] for name in (*carried, *objects)} == {None}
    for phase in phases:
        assert after[f"{phase}_status"] == "failed"
        assert after[f"{phase}_completed_at"] == AT_100
        assert after[f"{phase}_error"].startswith("PHASE_OUTCOME_FAILED: ")
        assert after[f"{phase}_error_detail"]["error_code"] == "PHASE_OUTCOME_FAILED"


def test_metrics_of_a_richer_form_wait_for_a_completed_result_and_grades_for_a_rank() -> None:
    grades_only = say.assessment({"e1": (None, None)}, at=51)
    essay = shown_essay(say.registered(), grades_only, say.rich_spellcheck("e1", ok=False, error="X"))
    assert essay["cj_assessment_status"] is None
    assert essay["cj_letter_grade"] is None
    assert essay["spellcheck_metrics"] is None


def test_phases_show_those_that_matter_and_those_that_anything_is_known_of() -> None:
    batch = shown(
        say.registered(["e1", "e2"], requested=["spellcheck", "cj_assessment"]),
        say.spellcheck("e1", at=50),
        say.spellcheck("e2", ok=False, error="X", at=60),
        say.outcome("spellcheck", ["e1"], ["e2"], at=100),
        say.outcome("student_matching", ["e1", "e2"], at=130),
        say.nlp("e1", "b", at=70),
    )
    assert batch["current_phase"] == "cj_assessment"
    assert batch["phases"] == {
        "student_matching": {
            "status": "completed_successfully",
            "completed_count": 2,
            "failed_count": 0,
            "first_result_at": None,
            "last_result_at": None,
            "completed_at": "2026-03-02T08:02:10.000000Z",
            "processing_time_seconds": 30.0,
        },
        "spellcheck": {
            "status": "completed_with_failures",
            "completed_count": 1,
            "failed_count": 1,
            "first_result_at": "2026-03-02T08:00:50.000000Z",
            "last_result_at": "2026-03-02T08:01:00.000000Z",
            "completed_at": AT_100,
            "processing_time_seconds": 100.0,
        },
        "nlp": {
            "status": "processing_pipelines",
            "completed_count": 1,
            "failed_count": 0,
            "first_result_at": "2026-03-02T08:01:10.000000Z",
            "last_result_at": "2026-03-02T08:01:10.000000Z",
            "completed_at": None,
            "processing_time_seconds": None,
        },
        "cj_assessment": {
            "status": None,
            "completed_count": 0,
            "failed_count": 0,
            "first_result_at": None,
            "last_result_at": None,
            "completed_at": None,
            "processing_time_seconds": None,
        },
    }


def test_an_essay_that_failed_in_one_phase_counts_as_failed_and_not_as_completed() -> None:
    batch = shown(
        say.registered(["e1", "e2", "e3"]),
        *(say.spellcheck(essay) for essay in ("e1", "e2")),
        say.spellcheck("e3", ok=False, error="X"),
        say.assessment({"e1": (1, 0.5)}),
        say.thin([], ["e2"], at=90),
    )
    assert (batch["completed_essay_count"], batch["failed_essay_count"], batch["error_count"]) == (1, 2, 2)


def test_the_batch_shows_the_cj_services_failure_as_its_error() -> None:
    events = [say.registered(), say.cj_failed(error="CJ_BROKE")]
    for more in ([], [say.outcome("cj_assessment", [], ["e1", "e2"], status=CRITICAL)]):
        batch = shown(*events, *more)
        assert batch["error_detail"]["error_code"] == "CJ_BROKE"
        assert batch["error_detail"]["operation"] == "cj_assessment"
    assert batch["overall_status"] == "failed_critically"
    assert batch["client_status"] == "failed"


def test_a_cj_failure_that_a_later_success_took_back_is_no_error() -> None:
    batch = shown(say.registered(), say.cj_failed(at=80), say.assessment({"e1": (1, 0.5)}, at=81))
    assert batch["error_detail"] is None


def test_a_phase_that_failed_critically_is_named_as_the_batchs_error() -> None:
    critical = say.outcome("spellcheck", [], ["e1", "e2"], status=CRITICAL)
    batch = shown(say.registered(), critical, say.outcome("cj_assessment", [], [], at=120, status=CRITICAL))
    assert batch["error_detail"] == {
        "error_code": "PHASE_FAILED_CRITICALLY",
        "message": "spellcheck failed critically for the batch",
        "correlation_id": str(critical.correlation_id),
        "timestamp": AT_100,
        "service": "some_service",
        "operation": "spellcheck",
        "details": {"phase": "spellcheck", "outcome_event_id": str(critical.clock.event_id)},
    }


def test_a_pipeline_that_ended_critically_without_a_critical_phase_is_the_batchs_error() -> None:
    ended = say.end(status=CRITICAL, at=100)
    batch = shown(say.registered(), ended)
    assert batch["overall_status"] == "failed_critically"
    assert batch["error_detail"]["error_code"] == "PIPELINE_FAILED_CRITICALLY"
    assert batch["error_detail"]["details"] == {"pipeline_event_id": str(ended.clock.event_id)}
    assert batch["error_detail"]["timestamp"] == AT_100


@pytest.mark.parametrize("status", [SUCCESS, FAILURES, BatchStatus.CANCELLED])
def test_a_batch_that_did_not_fail_critically_has_no_error(status: BatchStatus) -> None:
    assert shown(say.registered(), say.end(status=status), status=status)["error_detail"] is None


def test_the_time_of_completion_is_shown_only_once_the_batch_is_finished() -> None:
    events = [say.registered(), say.outcome("spellcheck", ["e1", "e2"]), say.spellcheck("e1")]
    assert shown(*events)["processing_completed_at"] is None
    assert shown(*events, status=SUCCESS)["processing_completed_at"] == AT_100


def test_anchors_are_not_shown() -> None:
    batch = shown(say.registered(["e1"]), say.assessment({"e1": (1, 0.5)}, anchors=["anchor"]))
    assert [essay["essay_id"] for essay in batch["essays"]] == ["e1"]


@examples(0.5)
@given(soups() | lives())
def test_a_summary_is_the_batch_without_its_essays_and_both_are_as_documented(history: list[Event]) -> None:
    model = read_model(*history)
    for batch_id in model.facts.batches:
        subject = stored(model.batch(batch_id))
        if subject.facts.registration is None:
            continue
        whole = present(subject)
        summary = present_summary(replace(subject, facts=replace(subject.facts, essays={})), EXPECTED)
        assert {**summary, "essays": whole["essays"]} == whole
        assert list(summary) == [name for name in whole if name != "essays"]
        _BATCH.validate_json(orjson.dumps(whole), strict=True)
        _SUMMARY.validate_json(orjson.dumps(summary), strict=True)


def test_a_batch_without_a_tally_has_no_summary() -> None:
    subject = replace(stored(read_model(say.registered()).batch()), tally=None)
    with pytest.raises(ValueError, match="has no tally"):
        present_summary(subject, EXPECTED)


def test_an_answer_that_changes_its_form_raises_the_representation() -> None:
    """Where this fails, the same facts are shown differently: raise REPRESENTATION, and pin the new digest to it."""
    essays = ["e1", "e2", "e3", "e4"]
    told = [
        say.registered(essays, requested=["spellcheck", "cj_assessment"]),
        say.slot("e1"),
        say.rich_spellcheck("e1"),
        say.spellcheck("e2", ok=False, error="BROKEN"),
        say.assessment({"e1": (1, 0.5)}, anchors=["anchor"]),
        say.thin([], ["e3"]),
        say.nlp("e1", "b"),
        say.feedback("e1"),
        say.outcome("spellcheck", ["e1", "e3"], ["e2", "e4"]),
        say.outcome("student_matching", essays),
    ]
    documents = [
        present(stored(read_model(*told, *more).batch()))
        for more in ([], [say.outcome("cj_assessment", [], essays, status=CRITICAL)], [say.end(status=CRITICAL)])
    ]
    digest = hashlib.blake2b(orjson.dumps(documents), digest_size=8).hexdigest()
    assert {REPRESENTATION: digest} == {2: "8d680d7066e11056"}


def test_ten_times_the_essays_take_about_ten_times_as_long() -> None:
    def seconds(count: int) -> float:
        essays = [f"e{number:05}" for number in range(count)]
        batch = read_model(
            say.registered(essays),
            *(say.rich_spellcheck(essay) for essay in essays),
            say.outcome("spellcheck", essays),
            say.outcome("cj_assessment", [], essays),
        ).batch()
        fastest = float("inf")
        for _ in range(3):
            subject = stored(replace(batch), BatchStatus.COMPLETED_WITH_FAILURES)
            started = time.perf_counter()
            present(subject)
            fastest = min(fastest, time.perf_counter() - started)
        return fastest

    assert seconds(5000) < 30 * seconds(500)
