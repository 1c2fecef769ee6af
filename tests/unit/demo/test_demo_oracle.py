"""The oracle, checked against the published samples and, rule by rule, against small histories with a known outcome."""

import json
import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from demo.batch import SECOND, Batch
from demo.oracle import Either, Holding, Oracle
from demo.traffic import traffic
from demo.verdict import Published, batch_differences, differences, published_differences
from demo.wire import ASSESSMENT_COMPLETED, NOTIFICATION, RESULTS_READY, Message

SAMPLES = Path(__file__).parents[2] / "samples"
Json = dict[str, Any]


# -- the published samples ---------------------------------------------------------------------------------------------


def consumed(*names: str) -> list[Message]:
    messages = []
    for name in names:
        value = (SAMPLES / "consumed" / f"{name}.json").read_bytes()
        messages.append(Message(json.loads(value)["event_type"], b"", value, []))
    return messages


def published_sample(name: str) -> Json:
    sample: Json = json.loads((SAMPLES / "published" / f"{name}.json").read_text())
    return sample


VECTOR = consumed(
    "batch_essays_registered",
    "essay_slot_assigned",
    "spellcheck_completed",
    "spellcheck_completed.failed",
    "spellcheck_results",
    "els_batch_phase_outcome.spellcheck",
    "els_batch_phase_outcome.cj_assessment",
    "assessment_result_published",
)
BATCH = "b7e6c1f2-3a44-4d0c-9b61-6f1f2a7f9d10"


def test_the_published_samples_follow_from_the_consumed_ones() -> None:
    expected = Oracle(VECTOR).announcements(BATCH)
    results, assessment = published_sample("batch_results_ready"), published_sample("batch_assessment_completed")
    assert expected.exact
    assert expected.final == (results["event_id"],)
    assert list(expected.assessments) == [assessment["event_id"]]
    assert not list(differences(expected.possible[results["event_id"]][0].envelope, results, "results"))
    assert not list(differences(expected.assessments[assessment["event_id"]][0].envelope, assessment, "assessment"))


def test_the_notifications_of_the_samples_follow_from_their_domain_events() -> None:
    oracle = Oracle(VECTOR)
    for name in ("batch_results_ready", "batch_assessment_completed"):
        expected = oracle.notification_of(published_sample(name))
        assert not list(differences(expected, published_sample(f"teacher_notification.{name}"), name))


def test_the_samples_as_published_stand_before_the_referee() -> None:
    names = {
        "batch_results_ready": (RESULTS_READY, BATCH),
        "batch_assessment_completed": (ASSESSMENT_COMPLETED, BATCH),
        "teacher_notification.batch_results_ready": (NOTIFICATION, "teacher-4711"),
        "teacher_notification.batch_assessment_completed": (NOTIFICATION, "teacher-4711"),
    }
    everything = [as_published(topic, key, published_sample(name)) for name, (topic, key) in names.items()]
    oracle = Oracle(VECTOR)
    assert list(published_differences(oracle, everything)) == []
    for left_out in range(len(everything)):
        assert list(published_differences(oracle, everything[:left_out] + everything[left_out + 1 :]))
    assert list(published_differences(oracle, [*everything, everything[0]])), "published twice"


def as_published(topic: str, key: str, envelope: Json) -> Published:
    headers = {
        "event_id": envelope["event_id"],
        "event_type": topic,
        "trace_id": envelope["correlation_id"],
        "source_service": envelope["source_service"],
        "schema_version": "1",
        "occurred_at": envelope["event_timestamp"],
        "content_type": "application/json",
    }
    return Published(
        topic, key.encode(), orjson.dumps(envelope), {name: text.encode() for name, text in headers.items()}
    )


def test_the_answer_about_the_samples_is_the_one_written_down() -> None:
    answer = Oracle(VECTOR).answer(BATCH)
    assert answer is not None
    assert answer["overall_status"] == "completed_with_failures"
    assert (answer["essay_count"], answer["completed_essay_count"], answer["failed_essay_count"]) == (3, 2, 1)
    first, second, third = answer["essays"]
    assert first["filename"] == "Åsa Öberg – essay.docx"
    assert (first["spellcheck_correction_count"], first["spellcheck_corrected_text_storage_id"]) == (14, "corrected-01")
    assert (second["cj_rank"], second["cj_score"], second["cj_letter_grade"]) == (3, -0.4375, "C")
    assert third["spellcheck_status"] == "failed"
    assert third["spellcheck_error_detail"].members["error_code"] == "SPELLCHECK_SERVICE_ERROR"


# -- the set of messages -----------------------------------------------------------------------------------------------


def verdict(messages: list[Message]) -> tuple[object, ...]:
    oracle = Oracle(messages)
    answers = {batch_id: oracle.answer(batch_id) for batch_id in oracle.batch_ids()}
    announcements = {}
    for batch_id in answers:
        expected = oracle.announcements(batch_id, early_grace=True)
        contents = {
            event_id: {repr(content) for content in each}
            for event_id, each in {**expected.possible, **expected.assessments}.items()
        }
        announcements[batch_id] = (contents, set(expected.final), expected.exact)
    return answers, dict(oracle.users()), announcements


def test_the_verdict_depends_neither_on_order_nor_on_repetition() -> None:
    messages = list(traffic(seed=7))
    expected = verdict(messages)
    rng = random.Random(0)
    repeated = messages + rng.choices(messages, k=500)
    for _ in range(3):
        rng.shuffle(repeated)
        assert verdict(repeated) == expected


def test_a_message_more_or_less_changes_the_verdict() -> None:
    messages = list(traffic(seed=3, batches=1, broken=False))
    unique = list({message.value: message for message in messages}.values())
    assert verdict(unique) == verdict(messages)
    for index in range(0, len(unique), 10):
        assert verdict(unique[:index] + unique[index + 1 :]) != verdict(messages)


def test_each_quarantined_message_is_named_by_its_place() -> None:
    messages = list(traffic(seed=5))
    oracle = Oracle(messages)
    good = [message for index, message in enumerate(messages) if index not in oracle.quarantined]
    assert 0 < len(oracle.quarantined) < 60
    assert not Oracle(good).quarantined
    assert verdict(good) == verdict(messages)


# -- rule by rule ------------------------------------------------------------------------------------------------------


class History:
    """A batch of three essays whose messages a test says one by one, a second apart."""

    def __init__(self, number: int = 0) -> None:
        self.batch = Batch(number, 1, "test")
        self.batch.essays = self.batch.essays[:3]
        self.batch.alive = list(self.batch.essays)
        self.batch_id = self.batch.batch_id
        self.a, self.b, self.c = self.batch.essays

    def oracle(self) -> Oracle:
        return Oracle([message for _, message in self.batch.said])

    def answer(self) -> Json:
        answer = self.oracle().answer(self.batch_id)
        assert answer is not None
        return answer

    def essay(self, essay: str) -> Json:
        return next(each for each in self.answer()["essays"] if each["essay_id"] == essay)

    def final_status(self) -> str:
        return str(self.answer()["overall_status"])

    def spellcheck_all(self) -> None:
        for essay in self.batch.essays:
            self.batch.now += SECOND
            self.batch.spellchecked(essay, form="older")

    def rank_all(self) -> None:
        self.batch.now += SECOND
        scores = {essay: float(place) for place, essay in enumerate(self.batch.essays)}
        self.batch.cj_rich(self.batch.new_job(), self.batch.essays, scores)

    def outcome(self, phase: str, failed: tuple[str, ...] = (), status: str | None = None) -> None:
        self.batch.now += SECOND
        processed = [essay for essay in self.batch.essays if essay not in failed]
        self.batch.outcome(phase, processed, failed, status=status)

    def everything_goes_well(self) -> None:
        self.batch.register()
        self.spellcheck_all()
        self.outcome("spellcheck")
        self.rank_all()
        self.outcome("cj_assessment")


@pytest.fixture
def history() -> History:
    return History()


def test_an_unregistered_batch_is_unknown_and_nobodys(history: History) -> None:
    history.spellcheck_all()
    history.outcome("spellcheck")
    oracle = history.oracle()
    assert oracle.answer(history.batch_id) is None
    assert not oracle.users()
    assert oracle.announcements(history.batch_id).final == ()


def test_registration_and_slots_alone_await_content_validation(history: History) -> None:
    history.batch.register()
    history.batch.slots()
    answer = history.answer()
    assert (answer["overall_status"], answer["client_status"]) == ("awaiting_content_validation", "pending_content")
    assert answer["processing_started_at"] is None
    assert answer["current_phase"] is None
    assert {essay["spellcheck_status"] for essay in answer["essays"]} == {None}


def test_a_batch_without_a_pipelines_end_finishes_by_the_expected_phases(history: History) -> None:
    history.everything_goes_well()
    assert history.final_status() == "completed_successfully"
    assert history.oracle().announcements(history.batch_id).exact


def test_a_missing_result_of_a_processed_essay_holds_the_batch_open(history: History) -> None:
    history.batch.register()
    history.outcome("spellcheck")
    history.rank_all()
    history.outcome("cj_assessment")
    assert history.final_status() == "processing_pipelines"
    assert history.answer()["current_phase"] is None


def test_the_grace_finishes_it_once_a_pipelines_end_is_stored(history: History) -> None:
    history.batch.register()
    history.outcome("spellcheck")
    history.rank_all()
    history.outcome("cj_assessment")
    history.batch.end("spellcheck", "cj_assessment", status="completed_with_failures")
    expected = history.oracle().announcements(history.batch_id)
    assert history.final_status() == "completed_with_failures"
    assert expected.exact
    assert set(expected.possible[expected.final[0]][0].envelope["data"]["phase_results"]) == {
        "spellcheck",
        "cj_assessment",
    }


def test_an_end_whose_outcome_never_came_counts_essays_as_the_end_does(history: History) -> None:
    history.batch.register()
    history.spellcheck_all()
    history.outcome("spellcheck")
    history.batch.end("spellcheck", "cj_assessment", successful=2)
    expected = history.oracle().announcements(history.batch_id)
    data = expected.possible[expected.final[0]][0].envelope["data"]
    assert data["completed_essays"] == 2
    assert set(data["phase_results"]) == {"spellcheck"}


def test_an_essay_that_only_the_outcome_names_as_failed_does_not_hold_the_batch_open(history: History) -> None:
    history.batch.register(("spellcheck",))
    history.batch.spellchecked(history.a)
    history.batch.spellchecked(history.b)
    history.outcome("spellcheck", (history.c,))
    assert history.final_status() == "completed_with_failures"
    failed = history.essay(history.c)
    assert failed["spellcheck_status"] == "failed"
    assert failed["spellcheck_error_detail"].members["error_code"] == "PHASE_OUTCOME_FAILED"
    assert history.answer()["failed_essay_count"] == 1


def test_a_later_outcome_overrules_a_success_and_a_later_success_the_outcome(history: History) -> None:
    history.batch.register(("spellcheck",))
    history.spellcheck_all()
    history.outcome("spellcheck", (history.a, history.b))
    history.batch.now += SECOND
    history.batch.spellchecked(history.b, form="older", corrections=7)
    first, second = history.essay(history.a), history.essay(history.b)
    assert (first["spellcheck_status"], first["spellcheck_correction_count"]) == ("failed", None)
    assert (second["spellcheck_status"], second["spellcheck_correction_count"]) == ("completed", 7)


def test_an_essay_keeps_its_own_error_when_the_outcome_names_it_too(history: History) -> None:
    history.batch.register(("spellcheck",))
    history.batch.spellchecked(history.a, failed=True, form="older")
    history.outcome("spellcheck", (history.a,))
    code = history.essay(history.a)["spellcheck_error_detail"].members["error_code"]
    assert code.startswith("SPELLCHECK_")


def test_the_later_clock_wins_and_the_event_id_decides_a_tie(history: History) -> None:
    history.batch.register(("spellcheck",))
    for corrections in range(6):
        history.batch.spellchecked(history.a, form="older", corrections=corrections)
    history.batch.spellchecked(history.a, form="older", corrections=99, moment=history.batch.now - SECOND)
    envelopes = [json.loads(message.value or b"") for _, message in history.batch.said]
    tied = [each for each in envelopes if each["data"].get("corrections_made", 99) != 99]
    winner = max(tied, key=lambda each: str(each["event_id"]))
    assert history.essay(history.a)["spellcheck_correction_count"] == winner["data"]["corrections_made"]


def test_metrics_of_the_richer_form_outlive_a_later_message_of_the_older_one(history: History) -> None:
    history.batch.register(("spellcheck",))
    history.batch.spellchecked(history.a, form="rich", corrections=5)
    history.batch.now += SECOND
    history.batch.spellchecked(history.a, form="older", corrections=8)
    essay = history.essay(history.a)
    assert essay["spellcheck_correction_count"] == 8
    assert essay["spellcheck_metrics"].members["total_corrections"] == 5


def test_anchors_are_never_essays_of_the_batch(history: History) -> None:
    history.batch.register()
    scores = {history.a: 1.0, "anchor-1": 0.5, history.b: 0.2, "anchor-2": 0.1}
    history.batch.cj_older("job", [history.a, "anchor-1", history.b], scores)
    history.batch.now += SECOND
    history.batch.cj_rich("job", list(scores), scores, anchors=["anchor-1", "anchor-2"])
    assert [essay["essay_id"] for essay in history.answer()["essays"]] == sorted(history.batch.essays)
    contents = next(iter(history.oracle().announcements(history.batch_id).assessments.values()))
    assert len(contents) == 2
    for content in contents:
        assert [entry["essay_id"] for entry in content.envelope["data"]["rankings_summary"]] == [history.a, history.b]


def test_an_essay_that_moves_to_another_batch_is_no_longer_waited_for(history: History) -> None:
    history.batch.register(("spellcheck",))
    for essay in (history.a, history.b):
        history.batch.spellchecked(essay, form="older")
    history.outcome("spellcheck")
    assert history.final_status() == "processing_pipelines"
    other = History(1)
    other.batch.now = history.batch.now + SECOND
    other.batch.slot(history.c)
    said = [message for _, message in history.batch.said + other.batch.said]
    answer = Oracle(said).answer(history.batch_id)
    assert answer is not None
    assert answer["overall_status"] == "completed_successfully"
    assert len(Oracle(said).announcements(history.batch_id).final) == 1


def test_only_an_assessment_that_every_order_leads_to_is_missed(history: History) -> None:
    history.batch.register()
    history.batch.cj_older("job", [history.a], {history.a: 1.0})
    other = History(1)
    other.batch.now = history.batch.now + SECOND
    other.batch.slot(history.a)

    def missed() -> list[Any]:
        oracle = Oracle([message for _, message in history.batch.said + other.batch.said])
        assert oracle.announcements(history.batch_id).assessments
        return [each.expected for each in published_differences(oracle, []) if each.field == "assessment announcement"]

    assert missed() == []  # it may have been announced before the essay went
    history.batch.cj_older("job", [history.b], {history.b: 1.0})  # the same form of the same job again
    assert len(missed()) == 1


def test_an_essay_of_one_batch_may_be_an_anchor_in_another(history: History) -> None:
    history.batch.register()
    other = History(1)
    other.batch.register()
    other.batch.cj_rich("job", [other.a, history.a], {other.a: 1.0, history.a: 0.0}, anchors=[history.a])
    oracle = Oracle([message for _, message in history.batch.said + other.batch.said])
    assert history.a in oracle.members[history.batch_id]
    assert history.a not in oracle.members[other.batch_id]
    assert oracle.own_result(history.a, "cj_assessment") is None


def test_the_thin_forms_successes_wait_for_the_scores_and_its_failures_do_not(history: History) -> None:
    history.batch.register(("cj_assessment",))
    history.batch.cj_thin("job", [history.a, history.b], [history.c])
    history.outcome("cj_assessment", (history.c,))
    assert history.final_status() == "processing_pipelines"
    assert history.essay(history.a)["cj_assessment_status"] is None
    assert history.essay(history.c)["cj_assessment_status"] == "failed"
    assert not history.oracle().announcements(history.batch_id).assessments


def test_cjs_failure_fails_essays_without_a_place_until_a_later_word(history: History) -> None:
    history.batch.register()
    history.batch.cj_rich("job", [history.a], {history.a: 1.0})
    history.batch.cj_failed()
    assert history.essay(history.a)["cj_assessment_status"] == "completed"
    assert history.essay(history.b)["cj_assessment_status"] == "failed"
    history.batch.now += SECOND
    history.batch.cj_rich("job", [history.a], {history.a: 1.0})
    assert history.essay(history.b)["cj_assessment_status"] is None


def test_a_phase_that_failed_critically_finishes_the_batch_alone(history: History) -> None:
    history.batch.register()
    history.outcome("cj_assessment", tuple(history.batch.essays), status="failed_critically")
    expected = history.oracle().announcements(history.batch_id)
    assert history.final_status() == "failed_critically"
    assert expected.exact
    data = expected.possible[expected.final[0]][0].envelope["data"]
    assert (set(data["phase_results"]), data["completed_essays"]) == ({"cj_assessment"}, 0)
    assert history.answer()["error_count"] == 4


def test_a_cancelled_pipeline_finishes_the_batch_at_once(history: History) -> None:
    history.batch.register()
    history.batch.end(status="cancelled", successful=0)
    assert (history.final_status(), history.answer()["client_status"]) == ("cancelled", "cancelled")


def test_a_rerun_reopens_a_cancelled_batch(history: History) -> None:
    history.batch.register(("spellcheck",))
    history.batch.end(status="cancelled", successful=0)
    history.spellcheck_all()
    history.outcome("spellcheck")
    assert history.final_status() == "completed_successfully"


def test_the_last_ends_status_stands_unless_an_outcome_is_later(history: History) -> None:
    history.batch.register(("spellcheck",))
    history.spellcheck_all()
    history.outcome("spellcheck")
    history.batch.end("spellcheck", status="completed_with_failures")
    assert history.final_status() == "completed_with_failures"
    history.outcome("spellcheck")
    assert history.final_status() == "completed_successfully"


def test_a_phase_with_an_outcome_later_than_the_last_end_matters_too(history: History) -> None:
    history.batch.register()
    history.spellcheck_all()
    history.outcome("spellcheck")
    history.batch.end("spellcheck")
    history.outcome("nlp", (history.a,))
    assert history.answer()["failed_essay_count"] == 1


def test_requested_words_that_are_no_phases_are_ignored(history: History) -> None:
    history.batch.register(("grading", "spellcheck"))
    history.spellcheck_all()
    history.outcome("spellcheck")
    answer = history.answer()
    assert (answer["overall_status"], answer["requested_pipeline"]) == ("completed_successfully", "spellcheck")


def test_student_matching_needs_its_outcome_alone_and_counts_as_the_outcome_lists(history: History) -> None:
    history.batch.register(("student_matching",))
    history.outcome("student_matching", (history.a,))
    answer = history.answer()
    assert answer["overall_status"] == "completed_with_failures"
    assert (answer["completed_essay_count"], answer["failed_essay_count"]) == (2, 1)


def test_nlp_that_names_no_batch_waits_for_its_essay(history: History) -> None:
    history.batch.nlp_analysed(history.a, named="nowhere")
    assert history.oracle().batch_ids() == []
    history.batch.register(("nlp",))
    assert history.essay(history.a)["nlp_status"] == "completed"
    assert history.essay(history.a)["nlp_metrics"].members["word_count"] > 0


def test_an_essay_dropped_by_a_later_registration_is_gone_unless_another_message_placed_it(history: History) -> None:
    history.batch.register()
    history.batch.slot(history.b)
    history.batch.register(essays=[history.c])
    assert [essay["essay_id"] for essay in history.answer()["essays"]] == sorted([history.b, history.c])


def test_created_at_is_the_earliest_registration_and_the_facts_are_the_latests(history: History) -> None:
    history.batch.register()
    created_at = history.answer()["created_at"]
    history.batch.user_id = "teacher-vikarie"
    history.batch.register()
    answer = history.answer()
    assert (answer["created_at"], answer["user_id"]) == (created_at, "teacher-vikarie")


def test_a_history_whose_announcements_depend_on_the_order_is_not_exact_but_closed(history: History) -> None:
    history.everything_goes_well()
    history.batch.end("spellcheck", "cj_assessment", status="completed_with_failures")
    expected = history.oracle().announcements(history.batch_id)
    assert not expected.exact, "successfully before the end is known, with failures after"
    assert len(expected.possible) == 2
    assert len(expected.final) == 1


def test_a_late_success_changes_no_identity(history: History) -> None:
    history.everything_goes_well()
    before = history.oracle().announcements(history.batch_id)
    history.batch.now += SECOND
    history.batch.spellchecked(history.a, form="older")
    assert history.oracle().announcements(history.batch_id).possible.keys() == before.possible.keys()


def test_an_early_grace_may_take_the_outcomes_place(history: History) -> None:
    history.everything_goes_well()
    history.batch.end("spellcheck", "cj_assessment", status="completed_successfully")
    oracle = history.oracle()
    assert oracle.announcements(history.batch_id).exact
    early = oracle.announcements(history.batch_id, early_grace=True)
    assert len(early.final) == 2


# -- the referee's own eye ---------------------------------------------------------------------------------------------


def test_the_referee_sees_every_changed_field_of_an_answer(history: History) -> None:
    history.everything_goes_well()
    oracle = history.oracle()
    answer = plain(oracle.answer(history.batch_id))
    assert list(batch_differences(oracle, history.batch_id, answer)) == []
    for name in (
        "overall_status",
        "created_at",
        "completed_essay_count",
        "user_id",
        "essays",
        "processing_completed_at",
    ):
        assert list(batch_differences(oracle, history.batch_id, answer | {name: "something else"})), name
    for name in ("cj_rank", "spellcheck_correction_count", "spellcheck_status", "cj_assessment_completed_at"):
        essays = [answer["essays"][0] | {name: None}, *answer["essays"][1:]]
        assert list(batch_differences(oracle, history.batch_id, answer | {"essays": essays})), name
    assert list(batch_differences(oracle, history.batch_id, None))


def plain(expected: object) -> Any:
    """An answer as the service would give it, made from what the oracle expects."""
    match expected:
        case Holding(members) | dict(members):
            return {name: plain(member) for name, member in members.items()}
        case list(members):
            return [plain(member) for member in members]
        case Either(values):
            return plain(values[0])
        case None | str() | int() | float():
            return expected
        case _ if hasattr(expected, "isoformat"):
            return expected.isoformat()
        case _:
            return "anything"
