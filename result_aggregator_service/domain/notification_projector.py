"""Projects a domain announcement into what the batch's teacher is told of it, directly, with no round trip on Kafka."""

from pydantic import BaseModel, JsonValue

from result_aggregator_service.contracts import topics
from result_aggregator_service.contracts.enums import NotificationPriority, NotificationType
from result_aggregator_service.contracts.envelope import PublishedEnvelope
from result_aggregator_service.contracts.published import (
    BatchAssessmentCompleted,
    BatchResultsReady,
    PhaseSummary,
    TeacherNotificationRequested,
)
from result_aggregator_service.domain.announcements import Announcement, announcement_id


def teacher_notification(announced: Announcement, class_id: str | None) -> Announcement:
    """What the batch's teacher is told of an announcement, projected from it directly."""
    data = announced.envelope.data
    payload: dict[str, JsonValue]
    if isinstance(data, BatchResultsReady):
        kind, priority, action = NotificationType.BATCH_RESULTS_READY, NotificationPriority.IMMEDIATE, True
        summaries: dict[str, JsonValue] = {
            phase.value: result.model_dump(mode="json", include=set(PhaseSummary.model_fields))
            for phase, result in data.phase_results.items()
        }
        payload = {
            "batch_id": data.batch_id,
            "total_essays": data.total_essays,
            "completed_essays": data.completed_essays,
            "overall_status": data.overall_status.value,
            "processing_duration_seconds": data.processing_duration_seconds,
            "message": f"Batch {data.batch_id} processing complete. "
            f"{data.completed_essays}/{data.total_essays} essays processed successfully.",
            "phase_summaries": summaries,
        }
    elif isinstance(data, BatchAssessmentCompleted):
        kind, priority, action = NotificationType.BATCH_ASSESSMENT_COMPLETED, NotificationPriority.STANDARD, False
        payload = {
            "batch_id": data.batch_id,
            "assessment_job_id": data.assessment_job_id,
            "message": f"Comparative judgment assessment completed for batch {data.batch_id}",
            "rankings_available": True,
            "rankings_count": len(data.rankings_summary),
        }
    else:
        raise TypeError(f"no teacher is told of {type(data).__name__}")
    envelope = announced.envelope
    return Announcement(
        topic=topics.TEACHER_NOTIFICATION_REQUESTED,
        key=data.user_id,
        batch_id=data.batch_id,
        envelope=PublishedEnvelope[BaseModel](
            event_id=announcement_id(f"huleedu/ras/notification/{announced.event_id}"),
            event_type=topics.TEACHER_NOTIFICATION_REQUESTED,
            event_timestamp=envelope.event_timestamp,
            source_service=envelope.source_service,
            correlation_id=envelope.correlation_id,
            data=TeacherNotificationRequested(
                teacher_id=data.user_id,
                notification_type=kind,
                priority=priority,
                payload=payload,
                action_required=action,
                correlation_id=envelope.correlation_id,
                batch_id=data.batch_id,
                class_id=class_id,
                timestamp=envelope.event_timestamp,
            ),
        ),
        traceparent=announced.traceparent,
    )
