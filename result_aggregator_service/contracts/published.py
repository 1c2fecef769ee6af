"""Payloads of the published messages."""

from uuid import UUID

from pydantic import Field, JsonValue

from result_aggregator_service.contracts.enums import (
    BatchStatus,
    NotificationPriority,
    NotificationType,
    Phase,
    ProcessingStage,
)
from result_aggregator_service.contracts.envelope import WireModel
from result_aggregator_service.contracts.fields import Timestamp


class PublishedSystemMetadata(WireModel):
    """The work behind an announcement: always a batch whose aggregation is complete."""

    entity_id: str
    entity_type: str = "batch"
    parent_id: str | None = None
    timestamp: Timestamp
    processing_stage: ProcessingStage = ProcessingStage.COMPLETED
    started_at: Timestamp | None = None
    completed_at: Timestamp | None = None
    event: str
    error_info: dict[str, JsonValue] = Field(default_factory=dict)


class PhaseSummary(WireModel):
    """A phase of a finished batch. Counts are essays; the time is in seconds."""

    status: BatchStatus
    completed_count: int
    failed_count: int
    processing_time_seconds: float


class PhaseResult(PhaseSummary):
    """A phase summary that says its own name."""

    phase_name: Phase


class BatchResultsReady(WireModel):
    """A batch finished. Counts are essays; the duration is in seconds."""

    event_name: str = "batch.results.ready"
    entity_id: str
    entity_type: str = "batch"
    parent_id: str | None = None
    timestamp: Timestamp
    status: BatchStatus
    system_metadata: PublishedSystemMetadata
    batch_id: str
    user_id: str
    total_essays: int
    completed_essays: int
    phase_results: dict[Phase, PhaseResult]
    overall_status: BatchStatus
    processing_duration_seconds: float


class RankedEssay(WireModel):
    """An essay's place in an assessment; the older form knows no grades."""

    essay_id: str
    rank: int | None
    score: float | None
    letter_grade: str | None = None
    confidence_score: float | None = None
    confidence_label: str | None = None


class BatchAssessmentCompleted(WireModel):
    """A CJ job's rankings are in."""

    event_name: str = "batch.assessment.completed"
    entity_id: str
    entity_type: str = "batch"
    parent_id: str | None = None
    timestamp: Timestamp
    status: BatchStatus = BatchStatus.COMPLETED_SUCCESSFULLY
    system_metadata: PublishedSystemMetadata
    batch_id: str
    user_id: str
    assessment_job_id: str
    rankings_summary: list[RankedEssay]


class TeacherNotificationRequested(WireModel):
    """What a teacher is to be told."""

    teacher_id: str
    notification_type: NotificationType
    category: str = "processing_results"
    priority: NotificationPriority
    payload: dict[str, JsonValue]
    action_required: bool
    deadline_timestamp: Timestamp | None = None
    correlation_id: UUID
    batch_id: str
    class_id: str | None
    timestamp: Timestamp
