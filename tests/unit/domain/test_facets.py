"""What each message states, and which of two messages about the same fact holds."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from uuid import UUID

import pytest

from result_aggregator_service.contracts import consumed, topics
from result_aggregator_service.contracts.enums import Phase, ProcessingStage
from result_aggregator_service.domain.event import Clock, Event
from result_aggregator_service.domain.facets import BATCH_FACETS, ESSAY_FACETS, Registration, later
from result_aggregator_service.domain.fold import FOLDS, fold, results_by_phase, stage
from tests.samples import CONSUMED_NAMES
from tests.samples import consumed as consumed_sample
from tests.unit.contracts.wire import Record, decoded, is_bad
from tests.unit.domain import messages as say
from tests.unit.domain.messages import sample, time
from tests.unit.domain.model import ReadModel, read_model

COMPLETED, FAILED = ProcessingStage.COMPLETED, ProcessingStage.FAILED


def both_ways(first: Event, second: Event) -> ReadModel:
    """The state after two messages, which is that after the two the other way round."""
    model = read_model(first, second)
    assert model.views() == read_model(second, first).views()
    return model


# The clock.


def test_the_later_message_about_a_fact_holds() -> None:
    model = both_ways(say.slot("e1", text="old", at=10), say.slot("e1", text="new", at=11))
    file = model.essay("e1").file
    assert file is not None
    assert file.text_storage_id == "new"


def test_of_two_messages_of_one_time_the_one_with_the_greater_id_holds() -> None:
    model = both_ways(say.slot("e1", text="smaller", number=1), say.slot("e1", text="greater", number=2))
    file = model.essay("e1").file
    assert file is not None
    assert file.text_storage_id == "greater"


def test_ids_are_compared_as_sixteen_bytes() -> None:
    smaller, greater = UUID("0fffffff-ffff-ffff-ffff-ffffffffffff"), UUID("f0000000-0000-0000-0000-000000000000")
    model = both_ways(
        say.slot("e1", text="greater", number=greater.int), say.slot("e1", text="smaller", number=smaller.int)
    )
    file = model.essay("e1").file
    assert file is not None
    assert file.text_storage_id == "greater"
    assert smaller.bytes < greater.bytes


def test_the_same_fact_heard_twice_is_the_one_that_is_known() -> None:
    one, two = (model.essay("e1").file for model in (read_model(say.slot("e1")), read_model(say.slot("e1"))))
    assert one is not None
    assert two is not None
    assert later(one, two) is one


def test_a_facet_is_replaced_as_a_whole() -> None:
    bare = consumed.EssaySlotAssigned(batch_id="b", essay_id="e1", text_storage_id="bare")
    event = say.event(topics.ESSAY_SLOT_ASSIGNED, bare, at=11)
    file = both_ways(say.slot("e1", at=10), event).essay("e1").file
    assert file is not None
    assert (file.text_storage_id, file.upload_id, file.name) == ("bare", None, None)


# Registration.


def test_a_registration_says_who_owns_the_batch_and_what_is_expected() -> None:
    batch = read_model(sample("batch_essays_registered")).batch("b7e6c1f2-3a44-4d0c-9b61-6f1f2a7f9d10")
    registration = batch.registration
    assert registration is not None
    assert registration == Registration(
        registration.clock,
        user_id="teacher-4711",
        class_id="class-9b",
        org_id=None,
        course_code="ENG5",
        expected_essay_count=3,
        essay_ids=["essay-1-ad0f7d6b", "essay-2-76cb3571", "essay-3-fdb338f9"],
        student_prompt_ref={"references": {"student_prompt_text": {"storage_id": "prompt-77", "path": ""}}},
        requested_pipelines=None,
    )


def test_a_later_registration_replaces_the_earlier_one_and_leaves_the_birth_of_the_batch() -> None:
    batch = both_ways(say.registered(user="first", at=5), say.registered(user="second", at=9)).batch()
    assert batch.registration is not None
    assert batch.registration.user_id == "second"
    assert batch.created_at == time(5)


# Spell check.


def test_the_older_form_gives_count_and_text() -> None:
    own = read_model(sample("spellcheck_completed")).essay("essay-1-ad0f7d6b")
    assert own.batch_id == "b7e6c1f2-3a44-4d0c-9b61-6f1f2a7f9d10"
    assert own.spellcheck is not None
    assert (own.spellcheck.status, own.spellcheck.correction_count) == (COMPLETED, 14)
    assert own.spellcheck.corrected_text_storage_id == "corrected-01"
    assert own.spellcheck.error is None
    assert own.spellcheck_metrics is None


def test_the_newer_form_also_gives_metrics() -> None:
    own = read_model(sample("spellcheck_results")).essay("essay-2-76cb3571")
    assert own.spellcheck is not None
    assert (own.spellcheck.correction_count, own.spellcheck.corrected_text_storage_id) == (9, "corrected-02")
    assert own.spellcheck_metrics is not None
    assert own.spellcheck_metrics.values == {
        "total_corrections": 9,
        "l2_dictionary_corrections": 4,
        "spellchecker_corrections": 5,
        "word_count": 412,
        "correction_density": 2.18,
        "processing_duration_ms": 840,
        "processor_version": "pyspellchecker_1.0_L2_swedish",
    }


def test_the_newer_form_without_metrics_still_says_how_long_it_took() -> None:
    metrics = read_model(say.rich_spellcheck("e1", words=None)).essay("e1").spellcheck_metrics
    assert metrics is not None
    assert metrics.values == {"processing_duration_ms": 840, "processor_version": "1.0"}


@pytest.mark.parametrize("failure", [say.spellcheck, say.rich_spellcheck])
@pytest.mark.parametrize("success", [say.spellcheck, say.rich_spellcheck])
def test_a_failure_after_a_success_leaves_no_count_and_no_text(success, failure) -> None:  # type: ignore[no-untyped-def]
    model = both_ways(success("e1", at=50), failure("e1", ok=False, error="BROKEN", corrections=7, at=51))
    own = model.essay("e1").spellcheck
    assert own is not None
    assert (own.status, own.correction_count, own.corrected_text_storage_id) == (FAILED, None, None)
    assert own.error is not None
    assert own.error["error_code"] == "BROKEN"


def test_a_success_after_a_failure_leaves_no_error() -> None:
    own = both_ways(say.spellcheck("e1", ok=False, error="X", at=50), say.spellcheck("e1", at=51)).essay("e1")
    assert own.spellcheck is not None
    assert (own.spellcheck.status, own.spellcheck.error) == (COMPLETED, None)


def test_a_failure_in_the_newer_form_leaves_no_metrics() -> None:
    model = both_ways(say.rich_spellcheck("e1", at=50), say.rich_spellcheck("e1", ok=False, at=51))
    metrics = model.essay("e1").spellcheck_metrics
    assert metrics is not None
    assert metrics.values is None


def test_metrics_are_a_fact_of_their_own_that_the_older_form_does_not_touch() -> None:
    model = both_ways(say.rich_spellcheck("e1", words=123, at=50), say.spellcheck("e1", corrections=8, at=51))
    own = model.essay("e1")
    assert own.spellcheck is not None
    assert own.spellcheck.correction_count == 8
    assert own.spellcheck_metrics is not None
    assert own.spellcheck_metrics.values is not None
    assert own.spellcheck_metrics.values["word_count"] == 123
    assert own.spellcheck_metrics.clock.at == time(50)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("spellchecked_success", COMPLETED),
        ("SpellChecked_SUCCESS", COMPLETED),
        ("success", COMPLETED),
        ("spellcheck_failed", FAILED),
        ("completed", FAILED),
        ("", FAILED),
    ],
)
def test_a_status_counts_as_completed_where_it_holds_success_in_any_case(
    status: str, expected: ProcessingStage
) -> None:
    assert stage(status) is expected


# Errors.


def test_an_error_is_structured_and_takes_code_and_message_from_the_message() -> None:
    own = read_model(sample("spellcheck_completed.failed")).essay("essay-3-fdb338f9").spellcheck
    assert own is not None
    assert own.error == {
        "error_code": "SPELLCHECK_SERVICE_ERROR",
        "message": "Content Service returned 404 for text-03",
        "correlation_id": "0b1aab4b-4a25-5d2b-9760-2b1ee722d445",
        "timestamp": "2026-03-02T08:04:00.000000Z",
        "service": "spellchecker_service",
        "operation": "spellcheck",
        "details": {"storage_id": "text-03", "error_type": "ContentServiceError"},
    }


@pytest.mark.parametrize(
    ("failure", "code"),
    [
        (say.spellcheck("e1", ok=False), "SPELLCHECK_FAILED"),
        (say.rich_spellcheck("e1", ok=False), "SPELLCHECK_FAILED"),
        (say.feedback("e1", ok=False), "AI_FEEDBACK_FAILED"),
    ],
)
def test_a_failure_without_a_reason_still_has_a_code_and_a_message(failure: Event, code: str) -> None:
    essay = read_model(failure).essay("e1")
    own = essay.spellcheck or essay.ai_feedback
    assert own is not None
    assert own.error is not None
    assert own.error["error_code"] == code
    assert "some_service" in str(own.error["message"])
    assert own.error["details"] == {}


# Comparative judgment.


def test_rankings_of_the_older_form_are_results() -> None:
    own = read_model(say.registered(), say.rankings({"e1": (2, 0.5)})).essay("e1").cj
    assert own is not None
    assert (own.status, own.rank, own.score, own.error) == (COMPLETED, 2, 0.5, None)


def test_the_rich_form_gives_rank_and_score_and_apart_from_them_grades() -> None:
    own = read_model(sample("assessment_result_published")).essay("essay-1-ad0f7d6b")
    assert own.cj is not None
    assert (own.cj.rank, own.cj.score) == (1, 0.8125)
    assert own.cj_grades is not None
    assert (own.cj_grades.letter_grade, own.cj_grades.normalized_score) == ("A-", 0.91)
    assert (own.cj_grades.confidence_score, own.cj_grades.confidence_label) == (0.83, "HIGH")
    assert own.cj_grades.comparison_count == 66


def test_grades_stay_when_the_older_form_brings_a_later_rank() -> None:
    model = both_ways(say.assessment({"e1": (1, 0.9)}, grade="A", at=80), say.rankings({"e1": (2, 0.1)}, at=81))
    own = model.essay("e1")
    assert own.cj is not None
    assert own.cj.rank == 2
    assert own.cj_grades is not None
    assert own.cj_grades.letter_grade == "A"


@pytest.mark.parametrize("form", [say.rankings, say.assessment])
@pytest.mark.parametrize(("rank", "score"), [(1, None), (None, 0.5), (0, None), (None, 0.0)])
def test_a_rank_or_a_score_alone_is_a_result(form, rank, score) -> None:  # type: ignore[no-untyped-def]
    own = read_model(form({"e1": (rank, score)})).essay("e1").cj
    assert own is not None
    assert (own.status, own.rank, own.score) == (COMPLETED, rank, score)


def test_an_entry_of_the_rich_form_with_neither_rank_nor_score_is_no_result_but_has_grades() -> None:
    model = both_ways(say.assessment({"e1": (1, 0.9)}, at=80), say.assessment({"e1": (None, None)}, grade="F", at=81))
    own = model.essay("e1")
    assert own.cj is not None
    assert own.cj.rank == 1
    assert own.cj_grades is not None
    assert own.cj_grades.letter_grade == "F"


def test_an_entry_of_the_older_form_with_neither_says_nothing_at_all() -> None:
    assert "e1" not in read_model(say.rankings({"e1": (None, None)})).facts.essays


def test_the_thin_forms_failures_are_results_and_its_successes_are_not() -> None:
    model = read_model(say.thin(["e1"], ["e2"], job="job 7"))
    assert model.essay("e1").cj is None
    assert model.essay("e1").batch_id == "b"
    own = model.essay("e2").cj
    assert own is not None
    assert (own.status, own.rank, own.score) == (FAILED, None, None)
    assert own.error is not None
    assert own.error["error_code"] == "CJ_ASSESSMENT_FAILED"
    assert "job 7" in str(own.error["message"])


def test_a_thin_failure_after_a_ranking_leaves_neither_rank_nor_score() -> None:
    own = both_ways(say.rankings({"e1": (1, 0.5)}, at=80), say.thin([], ["e1"], at=81)).essay("e1").cj
    assert own is not None
    assert (own.status, own.rank, own.score) == (FAILED, None, None)


@pytest.mark.parametrize("completion", [say.thin(["e1"], at=90), say.assessment({}, at=90), say.rankings({}, at=90)])
def test_a_later_completion_takes_the_verdict_of_failure_back(completion: Event) -> None:
    verdict = both_ways(say.cj_failed(at=89), completion).batch().cj_verdict
    assert verdict is not None
    assert verdict.error is None
    verdict = both_ways(say.cj_failed(at=91), completion).batch().cj_verdict
    assert verdict is not None
    assert verdict.error is not None
    assert verdict.error["error_code"] == "CJ_BROKE"


def test_the_assignment_is_that_of_the_latest_rich_message() -> None:
    one, other = say.assessment({}, assignment="one", at=80), say.assessment({}, assignment=None, at=81)
    assignment = both_ways(one, other).batch().assignment
    assert assignment is not None
    assert assignment.id is None


def test_a_comparison_count_may_be_missing() -> None:
    own = read_model(say.assessment({"e1": (1, 0.5)}, comparisons=None)).essay("e1").cj_grades
    assert own is not None
    assert own.comparison_count is None


# NLP and AI feedback.


def test_nlp_gives_scores_an_error_rate_and_all_metrics() -> None:
    own = read_model(sample("essay_nlp_completed")).essay("essay-1-ad0f7d6b").nlp
    assert own is not None
    assert own.status is COMPLETED
    assert (own.lexical_diversity_score, own.cohesion_score) == (74.1, 0.44)
    assert own.grammatical_error_rate == pytest.approx(100 / 398)
    assert own.metrics["phrasal_indices"] == {"noun_phrase_ratio": 0.31}
    assert len(own.metrics) == 18


@pytest.mark.parametrize(("words", "errors"), [(0, 2), (400, None)])
def test_an_error_rate_needs_words_and_a_grammar_check(words: int, errors: int | None) -> None:
    own = read_model(say.nlp("e1", words=words, errors=errors)).essay("e1").nlp
    assert own is not None
    assert own.grammatical_error_rate is None


def test_errors_are_counted_for_each_hundred_words() -> None:
    own = read_model(say.nlp("e1", words=50, errors=2)).essay("e1").nlp
    assert own is not None
    assert own.grammatical_error_rate == 4.0


def test_nlp_may_name_its_batch_in_either_of_two_places() -> None:
    by_metadata: consumed.EssayNlpCompleted = {
        "essay_id": "e1",
        "nlp_metrics": {},
        "processing_metadata": {"batch_id": "inside"},
    }
    by_parent: consumed.EssayNlpCompleted = {**by_metadata, "parent_id": "parent"}
    assert read_model(say.event(topics.ESSAY_NLP_COMPLETED, by_metadata, 1)).essay("e1").batch_id == "inside"
    assert read_model(say.event(topics.ESSAY_NLP_COMPLETED, by_parent, 1)).essay("e1").batch_id == "parent"


def test_feedback_gives_its_text_and_details() -> None:
    own = read_model(sample("essay_aifeedback_completed")).essay("essay-1-ad0f7d6b").ai_feedback
    assert own is not None
    assert (own.status, own.storage_id, own.error) == (COMPLETED, "feedback-01", None)
    assert own.details is not None
    assert own.details["model_version"] == "claude-sonnet"
    assert own.details["additional_metrics"] == {"suggestions": 6}


def test_failed_feedback_after_a_success_leaves_neither_text_nor_details() -> None:
    own = both_ways(say.feedback("e1", at=70), say.feedback("e1", ok=False, error="X", at=71)).essay("e1").ai_feedback
    assert own is not None
    assert (own.status, own.storage_id, own.details) == (FAILED, None, None)
    assert own.error is not None
    assert own.error["operation"] == "ai_feedback"


# Outcomes and ends.


def test_a_phase_has_one_outcome_the_latest() -> None:
    model = both_ways(say.outcome("spellcheck", ["e1"], at=100), say.outcome("spellcheck", [], ["e1"], at=200))
    won = model.batch().outcomes[Phase.SPELLCHECK]
    assert (won.processed_essay_ids, won.failed_essay_ids) == (frozenset[str](), frozenset({"e1"}))


def test_outcomes_of_different_phases_and_batches_do_not_compete() -> None:
    model = read_model(
        say.outcome("spellcheck", at=1), say.outcome("nlp", at=2), say.outcome("spellcheck", batch="other", at=3)
    )
    assert {phase: outcome.clock.at for phase, outcome in model.batch().outcomes.items()} == {
        Phase.SPELLCHECK: time(1),
        Phase.NLP: time(2),
    }


def test_every_pipeline_end_is_a_fact_of_its_own() -> None:
    model = read_model(say.end(["nlp"], at=300), say.end(["spellcheck"], at=200), say.end(["nlp"], at=300))
    assert [end.clock.at for end in model.batch().pipeline_ends] == [time(200), time(300)]


# The table.


def test_every_topic_has_its_fold() -> None:
    assert set(FOLDS) == {sample(name).topic for name in CONSUMED_NAMES}


# Values that are kept as they are: in them a null is one more thing that was said.
KEPT_WHOLE = frozenset({"student_prompt_ref", "nlp_metrics", "feedback_details", "additional_metrics", "context"})


def fields_of(value: object, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The places of all fields in a message, those of what is kept whole left out."""
    if isinstance(value, dict):
        for name, member in value.items():
            yield (*place, name)
            if name not in KEPT_WHOLE:
                yield from fields_of(member, (*place, name))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from fields_of(member, (*place, index))


def stated(topic: str, message: Mapping[str, Any]) -> object:
    """What a message states, to be compared; None if it is bad."""
    record = Record(topic, json.dumps(message).encode())
    if is_bad(record):
        return None
    facts = fold([decoded(record)])
    rows = {
        key: (row.facets, row.heard_at, row.started_at) for key, row in [*facts.batches.items(), *facts.essays.items()]
    }
    return rows, facts.outcomes, facts.pipeline_ends, facts.assessments


def parent_of(message: Any, place: Sequence[str | int]) -> Any:
    """The object or list at a place; None if that is null."""
    for step in place:
        message = None if message is None else message[step]
    return message


@pytest.mark.parametrize("inner_first", [True, False])
@pytest.mark.parametrize("name", CONSUMED_NAMES)
def test_to_leave_a_field_out_is_to_say_null(name: str, inner_first: bool) -> None:
    """One field after the other, until all that may be is null in the one message and gone from the other."""
    topic = consumed_sample(name)["event_type"]
    nulls, bare = consumed_sample(name), consumed_sample(name)
    places = list(fields_of(consumed_sample(name)))
    for *place, field in reversed(places) if inner_first else places:
        if (holder := parent_of(nulls, place)) is None:
            continue
        before, holder[field] = holder[field], None
        if stated(topic, nulls) is None:
            holder[field] = before
        else:
            del parent_of(bare, place)[field]
            assert stated(topic, bare) == stated(topic, nulls), f"{place}, {field}"
    assert "metadata" not in bare


def test_results_are_counted_by_phase_each_essay_once() -> None:
    checked = [say.spellcheck("e1"), say.rich_spellcheck("e1"), say.spellcheck("e2", ok=False)]
    others = [say.thin(["e1"], ["e2"]), say.nlp("e1"), say.feedback("e1"), say.slot("e3")]
    facts = fold([*checked, *others, say.outcome("spellcheck", ["e3"])])
    assert results_by_phase(facts) == {
        Phase.SPELLCHECK: 2,
        Phase.CJ_ASSESSMENT: 1,
        Phase.NLP: 1,
        Phase.AI_FEEDBACK: 1,
    }


def test_a_fold_may_go_on_where_another_ended() -> None:
    facts = fold([say.slot("e1")])
    assert fold([say.slot("e2")], into=facts) is facts
    assert set(facts.essays) == {"e1", "e2"}


def test_a_facet_goes_into_its_columns_and_comes_out_of_them_unchanged() -> None:
    model = read_model(*(sample(name) for name in CONSUMED_NAMES))
    stated = [f for row in (*model.facts.batches.values(), *model.facts.essays.values()) for f in row.facets.values()]
    assert {type(facet) for facet in stated} == {*BATCH_FACETS, *ESSAY_FACETS}
    for facet in stated:
        row = dict(facet.to_row())
        assert tuple(sorted(row)) == tuple(sorted(type(facet).columns()))
        assert type(facet).from_row(row) == facet


def test_a_facet_that_nobody_stated_comes_out_of_its_columns_as_none() -> None:
    for facet in (*BATCH_FACETS, *ESSAY_FACETS):
        assert facet.from_row(dict.fromkeys(facet.columns())) is None


def test_clocks_compare_by_time_before_id() -> None:
    assert Clock(time(1), UUID(int=9)) < Clock(time(2), UUID(int=1)) < Clock(time(2), UUID(int=2))
