"""The platform's samples: what it publishes follows, field for field, from what it consumed."""

import itertools
import json

import pytest
from pydantic import BaseModel

from result_aggregator_service.contracts import topics
from result_aggregator_service.contracts.envelope import PublishedEnvelope
from result_aggregator_service.domain.announcements import Announcement
from result_aggregator_service.domain.notification_projector import teacher_notification
from tests.samples import published
from tests.unit.domain.messages import sample, slot
from tests.unit.domain.model import ReadModel, read_model

VECTOR = [
    sample(name)
    for name in (
        "batch_essays_registered",
        "essay_slot_assigned",
        "spellcheck_completed",
        "spellcheck_completed.failed",
        "spellcheck_results",
        "els_batch_phase_outcome.spellcheck",
        "els_batch_phase_outcome.cj_assessment",
        "assessment_result_published",
    )
]
RESULTS, ASSESSMENT = published("batch_results_ready"), published("batch_assessment_completed")
RESULTS_NOTIFICATION = published("teacher_notification.batch_results_ready")
ASSESSMENT_NOTIFICATION = published("teacher_notification.batch_assessment_completed")


def on_the_wire(announcement: Announcement) -> object:
    return json.loads(announcement.envelope.model_dump_json())


def by_topic(model: ReadModel) -> dict[str, Announcement]:
    assert len(model.announced) == 2
    return {announcement.topic: announcement for announcement in model.announced}


def test_the_consumed_samples_give_exactly_the_published_ones() -> None:
    announced = by_topic(read_model(*VECTOR))
    results = announced[topics.BATCH_RESULTS_READY]
    assessment = announced[topics.BATCH_ASSESSMENT_COMPLETED]
    assert on_the_wire(results) == RESULTS
    assert on_the_wire(assessment) == ASSESSMENT
    assert on_the_wire(teacher_notification(results, "class-9b")) == RESULTS_NOTIFICATION
    assert on_the_wire(teacher_notification(assessment, "class-9b")) == ASSESSMENT_NOTIFICATION


@pytest.mark.parametrize("first", range(len(VECTOR)))
def test_each_sample_may_come_alone_and_in_any_place(first: int) -> None:
    model = ReadModel()
    for message in itertools.chain(VECTOR[first:], VECTOR[:first]):
        model.poll(message)
    announced = by_topic(model)
    assert on_the_wire(announced[topics.BATCH_RESULTS_READY]) == RESULTS
    assert on_the_wire(announced[topics.BATCH_ASSESSMENT_COMPLETED]) == ASSESSMENT


def test_the_pipelines_end_of_the_samples_changes_nothing_that_is_announced() -> None:
    model = read_model(*VECTOR)
    assert model.poll(sample("batch_pipeline_completed")) == []


def test_announcements_go_out_under_the_batch_and_notifications_under_the_teacher() -> None:
    results = by_topic(read_model(*VECTOR))[topics.BATCH_RESULTS_READY]
    notification = teacher_notification(results, "class-9b")
    batch_id = RESULTS["data"]["batch_id"]
    assert (results.key, results.batch_id) == (batch_id, batch_id)
    assert (notification.key, notification.batch_id) == ("teacher-4711", batch_id)
    assert notification.topic == topics.TEACHER_NOTIFICATION_REQUESTED


def test_nobody_is_told_of_a_notification() -> None:
    results = by_topic(read_model(*VECTOR))[topics.BATCH_RESULTS_READY]
    with pytest.raises(TypeError, match="TeacherNotificationRequested"):
        teacher_notification(teacher_notification(results, None), None)


def test_a_notification_belongs_to_the_trace_and_class_of_what_it_tells_of() -> None:
    announcement = by_topic(read_model(*VECTOR))[topics.BATCH_RESULTS_READY]
    traced = Announcement(
        announcement.topic, announcement.key, announcement.batch_id, announcement.envelope, traceparent="00-trace"
    )
    told = teacher_notification(traced, None)
    assert told.traceparent == "00-trace"
    assert on_the_wire(told)["data"]["class_id"] is None  # type: ignore[index]


def test_a_slot_after_the_end_announces_nothing_again() -> None:
    model = read_model(*VECTOR)
    assert model.poll(slot("essay-1-ad0f7d6b", RESULTS["data"]["batch_id"], at=9000)) == []


def test_an_envelope_holds_its_payload_whole() -> None:
    envelope = by_topic(read_model(*VECTOR))[topics.BATCH_RESULTS_READY].envelope
    assert isinstance(envelope, PublishedEnvelope)
    assert isinstance(envelope.data, BaseModel)
    assert envelope.data.model_dump(mode="json") == RESULTS["data"]
