"""What is announced, under which identity, with which content, and what is not announced again."""

from uuid import NAMESPACE_URL, UUID, uuid5

import pytest

from result_aggregator_service.contracts import topics
from result_aggregator_service.contracts.enums import BatchStatus, Phase
from result_aggregator_service.contracts.published import BatchAssessmentCompleted, BatchResultsReady
from result_aggregator_service.domain.announcements import Announcement
from result_aggregator_service.domain.event import Event
from result_aggregator_service.domain.notification_projector import teacher_notification
from tests.unit.domain import messages as say
from tests.unit.domain.messages import CANCELLED, CRITICAL, FAILURES, SUCCESS, time
from tests.unit.domain.model import ReadModel, read_model

REGISTERED = say.registered(at=0)
CHECKED = say.outcome("spellcheck", ["e1", "e2"], at=100)
JUDGED = say.outcome("cj_assessment", ["e1", "e2"], at=200)
RESULTS = [say.spellcheck("e1"), say.spellcheck("e2")]
SCORES = [say.rankings({"e1": (1, 0.5), "e2": (2, -0.5)}, job="job", at=190)]
UNSCORED = [REGISTERED, CHECKED, JUDGED, *RESULTS]
FINISHED = [*UNSCORED, *SCORES]


def identity(name: str) -> UUID:
    return uuid5(NAMESPACE_URL, f"huleedu/ras/{name}")


def by_outcomes(status: BatchStatus, *outcomes: Event) -> UUID:
    """The identity of results that these outcomes (phases sorted) decided."""
    named = ",".join(f"{outcome.payload['phase_name']}={outcome.clock.event_id}" for outcome in outcomes)
    return identity(f"results/b/{status.value}/{named}")


def by_pipeline(status: BatchStatus, end: Event) -> UUID:
    return identity(f"results/b/{status.value}/pipeline={end.clock.event_id}")


def results(announced: list[Announcement]) -> list[Announcement]:
    return [a for a in announced if a.topic == topics.BATCH_RESULTS_READY]


def only_results(announced: list[Announcement]) -> tuple[Announcement, BatchResultsReady]:
    (announcement,) = results(announced)
    data = announcement.envelope.data
    assert isinstance(data, BatchResultsReady)
    return announcement, data


def only_assessment(announced: list[Announcement]) -> tuple[Announcement, BatchAssessmentCompleted]:
    (announcement,) = [a for a in announced if a.topic == topics.BATCH_ASSESSMENT_COMPLETED]
    data = announcement.envelope.data
    assert isinstance(data, BatchAssessmentCompleted)
    return announcement, data


# Identities of results.


def test_results_are_known_by_status_and_winning_outcomes_with_phases_sorted() -> None:
    announcement, _ = only_results(read_model(*FINISHED).announced)
    assert announcement.event_id == by_outcomes(SUCCESS, JUDGED, CHECKED)


def test_only_the_winning_outcomes_of_phases_that_matter_are_named() -> None:
    earlier = say.outcome("spellcheck", ["e1"], at=90)
    announcement, data = only_results(read_model(*FINISHED, earlier, say.outcome("nlp", at=300)).announced)
    assert announcement.event_id == by_outcomes(SUCCESS, JUDGED, CHECKED)
    assert set(data.phase_results) == {Phase.SPELLCHECK, Phase.CJ_ASSESSMENT}


def test_a_critical_failure_is_known_by_its_outcome_alone() -> None:
    critical = say.outcome("cj_assessment", [], ["e1", "e2"], status=CRITICAL, at=200)
    announcement, data = only_results(read_model(REGISTERED, CHECKED, *RESULTS, critical).announced)
    assert announcement.event_id == by_outcomes(CRITICAL, critical)
    assert announcement.envelope.event_timestamp == time(200)
    assert list(data.phase_results) == [Phase.CJ_ASSESSMENT]
    assert (data.completed_essays, data.phase_results[Phase.CJ_ASSESSMENT].failed_count) == (0, 2)


def test_of_two_critical_failures_the_earlier_is_named() -> None:
    first = say.outcome("spellcheck", status=CRITICAL, at=100)
    announcement, _ = only_results(
        read_model(REGISTERED, first, say.outcome("cj_assessment", status=CRITICAL, at=200)).announced
    )
    assert announcement.event_id == by_outcomes(CRITICAL, first)


def test_a_critical_failure_that_the_pipelines_end_confirms_is_announced_once() -> None:
    critical = say.outcome("cj_assessment", status=CRITICAL, at=200)
    model = read_model(REGISTERED, critical)
    assert model.poll(say.end(status=CRITICAL, at=300)) == []
    assert [a.event_id for a in model.announced] == [by_outcomes(CRITICAL, critical)]


def test_a_critical_failure_that_the_pipelines_end_denies_is_known_by_the_end() -> None:
    end = say.end(status=FAILURES, at=300)
    model = read_model(REGISTERED, say.outcome("cj_assessment", status=CRITICAL, at=200), end)
    assert [a.event_id for a in model.announced] == [by_pipeline(FAILURES, end)]


@pytest.mark.parametrize("status", [CRITICAL, CANCELLED])
def test_a_finish_by_the_pipelines_status_alone_is_known_by_the_end(status: BatchStatus) -> None:
    end = say.end([], status=status, at=300)
    announcement, data = only_results(read_model(REGISTERED, CHECKED, end).announced)
    assert announcement.event_id == by_pipeline(status, end)
    assert (announcement.envelope.event_timestamp, data.status, data.overall_status) == (time(300), status, status)
    assert announcement.envelope.correlation_id == end.correlation_id
    assert announcement.traceparent == end.traceparent


def test_a_finish_by_grace_is_known_by_the_end() -> None:
    end = say.end(status=FAILURES, successful=1, at=300)
    model = read_model(REGISTERED, CHECKED, *RESULTS, end)
    assert model.announced == []
    announcement, data = only_results(model.run_grace())
    assert announcement.event_id == by_pipeline(FAILURES, end)
    assert (data.completed_essays, data.total_essays) == (1, 2)
    assert list(data.phase_results) == [Phase.SPELLCHECK]


def test_a_pipelines_end_over_complete_results_is_known_by_the_outcomes() -> None:
    end = say.end(status=FAILURES, at=300)
    announcement, data = only_results(read_model(*FINISHED, end).announced)
    assert announcement.event_id == by_outcomes(FAILURES, JUDGED, CHECKED)
    assert (announcement.envelope.event_timestamp, data.overall_status) == (time(200), FAILURES)


def test_with_all_outcomes_but_not_all_results_grace_counts_what_all_outcomes_list() -> None:
    model = read_model(*UNSCORED, say.end(successful=7, at=300))
    _, data = only_results(model.run_grace())
    assert data.completed_essays == 2


def test_without_a_count_from_the_end_and_an_outcome_missing_nothing_is_claimed_complete() -> None:
    model = read_model(REGISTERED, CHECKED, say.end(at=300))
    _, data = only_results(model.run_grace())
    assert data.completed_essays == 0


# What is not announced, or not again.


def test_nothing_is_announced_of_a_batch_that_is_not_registered() -> None:
    model = read_model(*FINISHED[1:], say.end(at=300))
    assert model.announced == []
    assert len(model.poll(REGISTERED)) == 2


def test_after_a_finish_by_the_end_outcomes_no_later_announce_nothing_more() -> None:
    end = say.end(at=300)
    model = read_model(REGISTERED, CHECKED, *RESULTS, end)
    model.run_grace()
    assert results(model.poll(*SCORES)) == []
    assert results(model.poll(JUDGED)) == []
    assert [a.event_id for a in results(model.announced)] == [by_pipeline(SUCCESS, end)]


def test_an_outcome_later_than_the_end_announces_again() -> None:
    model = read_model(REGISTERED, CHECKED, *RESULTS, *SCORES, say.end(at=300))
    model.run_grace()
    late = say.outcome("cj_assessment", ["e1", "e2"], at=301)
    announcement, _ = only_results(model.poll(late))
    assert announcement.event_id == by_outcomes(SUCCESS, late, CHECKED)


def test_a_late_result_changes_no_identity_and_announces_nothing_again() -> None:
    model = read_model(*FINISHED)
    assert model.poll(say.spellcheck("e1", corrections=99, at=900)) == []
    assert model.poll(say.rich_spellcheck("e2", at=901), say.nlp("e1", at=902)) == []


def test_a_later_pipeline_brings_new_outcomes_and_is_announced() -> None:
    model = read_model(*FINISHED, say.end(at=300))
    again = say.outcome("spellcheck", ["e1", "e2"], at=400)
    announcement, _ = only_results(model.poll(again))
    assert announcement.event_id == by_outcomes(SUCCESS, JUDGED, again)
    assert announcement.envelope.event_timestamp == time(400)


def test_a_later_registration_announces_nothing_again() -> None:
    assert read_model(*FINISHED).poll(say.registered(user="another", at=900)) == []


# Content of results.


def test_times_correlation_and_trace_are_those_of_the_latest_outcome_named() -> None:
    announcement, data = only_results(read_model(*FINISHED).announced)
    envelope = announcement.envelope
    assert envelope.event_timestamp == data.timestamp == data.system_metadata.timestamp == time(200)
    assert (envelope.correlation_id, announcement.traceparent) == (JUDGED.correlation_id, JUDGED.traceparent)
    assert envelope.source_service == "result-aggregator-service"


def test_total_is_the_expected_count_and_completed_what_every_outcome_lists() -> None:
    model = read_model(
        say.registered(["e1", "e2", "e3"], expected=30),
        say.outcome("spellcheck", ["e1", "e2"], ["e3"], at=100),
        say.outcome("cj_assessment", ["e2"], ["e1"], at=200),
        *RESULTS,
        *SCORES,
    )
    _, data = only_results(model.announced)
    assert (data.total_essays, data.completed_essays) == (30, 1)
    checked, judged = data.phase_results[Phase.SPELLCHECK], data.phase_results[Phase.CJ_ASSESSMENT]
    assert (checked.completed_count, checked.failed_count, checked.status) == (2, 1, FAILURES)
    assert (judged.completed_count, judged.failed_count, judged.status) == (1, 1, FAILURES)


def test_anchors_are_left_out_of_every_count() -> None:
    outcome = say.outcome("cj_assessment", ["e1", "e2", "a1"], ["a2"], at=201)
    both = say.outcome("spellcheck", ["e1", "e2", "a1"], at=101)
    rich = say.assessment({"e1": (1, 0.5), "e2": (2, 0.4)}, anchors=["a1", "a2"])
    _, data = only_results(read_model(REGISTERED, both, *RESULTS, rich, outcome).announced)
    judged = data.phase_results[Phase.CJ_ASSESSMENT]
    assert (data.completed_essays, judged.completed_count, judged.failed_count) == (2, 2, 0)


def test_durations_run_from_the_birth_of_the_batch_and_from_phase_to_phase() -> None:
    _, data = only_results(read_model(*FINISHED, say.registered(at=20)).announced)
    assert data.processing_duration_seconds == 200
    assert data.phase_results[Phase.SPELLCHECK].processing_time_seconds == 100
    assert data.phase_results[Phase.CJ_ASSESSMENT].processing_time_seconds == 100


def test_phases_are_timed_in_the_order_of_their_outcomes() -> None:
    early_judged = say.outcome("cj_assessment", ["e1", "e2"], at=30)
    _, data = only_results(read_model(REGISTERED, CHECKED, early_judged, *RESULTS, *SCORES).announced)
    assert data.phase_results[Phase.CJ_ASSESSMENT].processing_time_seconds == 30
    assert data.phase_results[Phase.SPELLCHECK].processing_time_seconds == 70


def test_durations_never_run_backwards_though_services_clocks_differ() -> None:
    _, data = only_results(read_model(say.registered(at=1000), *FINISHED[1:]).announced)
    assert data.processing_duration_seconds == 0
    assert data.phase_results[Phase.SPELLCHECK].processing_time_seconds == 0
    assert data.phase_results[Phase.CJ_ASSESSMENT].processing_time_seconds == 100


# Assessments.


def test_an_assessment_is_known_by_batch_and_job() -> None:
    announcement, data = only_assessment(read_model(*FINISHED).announced)
    assert announcement.event_id == identity("assessment/b/job")
    assert data.assessment_job_id == "job"
    assert [(r.essay_id, r.rank, r.score, r.letter_grade) for r in data.rankings_summary] == [
        ("e1", 1, 0.5, None),
        ("e2", 2, -0.5, None),
    ]
    (scores,) = SCORES
    assert announcement.envelope.event_timestamp == data.timestamp == time(190)
    assert (announcement.envelope.correlation_id, announcement.traceparent) == (
        scores.correlation_id,
        scores.traceparent,
    )


@pytest.mark.parametrize(("first", "graded"), [("rich", True), ("older", False)])
def test_the_first_of_the_two_forms_to_be_folded_is_announced(first: str, graded: bool) -> None:
    rich, older = say.assessment({"e1": (1, 0.5)}, grade="A"), say.rankings({"e1": (1, 0.5)})
    model = read_model(REGISTERED)
    for message in (rich, older) if first == "rich" else (older, rich):
        model.poll(message)
    _, data = only_assessment(model.announced)
    assert data.rankings_summary[0].letter_grade == ("A" if graded else None)


def test_a_form_that_ranks_no_student_does_not_stand_in_the_way_of_the_other() -> None:
    older, rich = say.rankings({"anchor": (1, 0.5)}), say.assessment({"e1": (1, 0.5)}, grade="A")
    _, data = only_assessment(read_model(REGISTERED, older, rich).announced)
    assert [(line.essay_id, line.letter_grade) for line in data.rankings_summary] == [("e1", "A")]


def test_a_message_that_ranks_no_student_does_not_stand_in_the_way_of_another_of_its_form() -> None:
    model = read_model(REGISTERED, say.rankings({"anchor": (1, 0.5)}, at=80))
    assert model.announced == []
    _, data = only_assessment(model.poll(say.rankings({"e1": (1, 0.5)}, at=79)))
    assert [line.essay_id for line in data.rankings_summary] == ["e1"]


def test_the_order_within_a_poll_counts_too() -> None:
    rich, older = say.assessment({"e1": (1, 0.5)}, grade="A"), say.rankings({"e1": (1, 0.5)})
    _, data = only_assessment(read_model(REGISTERED, older, rich).announced)
    assert data.rankings_summary[0].letter_grade is None


def test_each_job_is_announced_once() -> None:
    model = read_model(REGISTERED, say.rankings({"e1": (1, 0.5)}, job="one"))
    assert len(model.poll(say.rankings({"e1": (1, 0.7)}, job="two", at=500))) == 1
    assert model.poll(say.rankings({"e1": (2, 0.9)}, job="one", at=900)) == []


@pytest.mark.parametrize(
    "message",
    [
        say.rankings({}),
        say.rankings({"e1": (None, None)}),
        say.assessment({}, anchors=["anchor"]),
        say.assessment({"e1": (None, None)}),
        say.thin(["e1"], ["e2"]),
        say.cj_failed(),
    ],
)
def test_empty_rankings_and_the_thin_form_announce_nothing(message: Event) -> None:
    assert read_model(REGISTERED, message).announced == []


def test_the_thin_form_does_not_stand_in_the_way_of_the_scores() -> None:
    model = read_model(REGISTERED, say.thin(["e1"], job="job"))
    assert len(model.poll(say.assessment({"e1": (1, 0.5)}, job="job"))) == 1


def test_anchors_are_left_out_of_rankings_of_both_forms() -> None:
    rich = say.assessment({"e1": (1, 0.5)}, anchors=["anchor"])
    _, data = only_assessment(read_model(REGISTERED, rich).announced)
    assert [r.essay_id for r in data.rankings_summary] == ["e1"]
    older = say.rankings({"anchor": (1, 0.9), "e1": (2, 0.5)})
    _, data = only_assessment(read_model(REGISTERED, older).announced)
    assert [(r.essay_id, r.rank) for r in data.rankings_summary] == [("e1", 2)]


def test_an_assessment_waits_for_the_registration() -> None:
    model = read_model(say.rankings({"e1": (1, 0.5)}))
    assert model.announced == []
    assert len(model.poll(REGISTERED)) == 1


def test_rankings_keep_the_messages_order() -> None:
    _, data = only_assessment(read_model(REGISTERED, say.assessment({"e2": (2, 0.1), "e1": (1, 0.5)})).announced)
    assert [r.essay_id for r in data.rankings_summary] == ["e2", "e1"]


# Notifications.


def notification(model: ReadModel, topic: str) -> tuple[Announcement, Announcement]:
    (announcement,) = [a for a in model.announced if a.topic == topic]
    return announcement, teacher_notification(announcement, "class")


@pytest.mark.parametrize("topic", [topics.BATCH_RESULTS_READY, topics.BATCH_ASSESSMENT_COMPLETED])
def test_a_notification_is_known_by_what_it_tells_of_and_shares_its_time_and_trace(topic: str) -> None:
    announcement, told = notification(read_model(*FINISHED), topic)
    assert told.event_id == identity(f"notification/{announcement.event_id}")
    assert told.envelope.event_timestamp == announcement.envelope.event_timestamp
    assert told.envelope.correlation_id == announcement.envelope.correlation_id
    assert told.traceparent == announcement.traceparent
    assert told.key == "teacher"
