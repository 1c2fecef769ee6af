"""Payloads of the published messages."""

from typing import Annotated
from uuid import UUID

from pydantic import ConfigDict, Field, GetJsonSchemaHandler, GetPydanticSchema, JsonValue, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema
from typing_extensions import TypedDict

from result_aggregator_service.contracts.enums import (
    BatchStatus,
    NotificationPriority,
    NotificationType,
    Phase,
    ProcessingStage,
)
from result_aggregator_service.contracts.envelope import PublishedModel
from result_aggregator_service.contracts.fields import Timestamp


class PublishedSystemMetadata(PublishedModel):
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


class PhaseSummary(PublishedModel):
    """A phase of a finished batch. Counts are essays; the time is in seconds."""

    status: BatchStatus
    completed_count: int
    failed_count: int
    processing_time_seconds: float


class PhaseResult(PhaseSummary):
    """A phase summary that says its own name."""

    phase_name: Phase


class BatchResultsReady(PublishedModel):
    """A batch finished. Counts are essays; the duration is in seconds."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "event_name": "batch.results.ready",
                    "entity_id": "batch-1",
                    "entity_type": "batch",
                    "parent_id": None,
                    "timestamp": "2026-03-02T08:20:00.000000Z",
                    "status": "completed_with_failures",
                    "system_metadata": {
                        "entity_id": "batch-1",
                        "entity_type": "batch",
                        "parent_id": None,
                        "timestamp": "2026-03-02T08:20:00.000000Z",
                        "processing_stage": "completed",
                        "started_at": None,
                        "completed_at": None,
                        "event": "batch.results.ready",
                        "error_info": {},
                    },
                    "batch_id": "batch-1",
                    "user_id": "teacher-1",
                    "total_essays": 2,
                    "completed_essays": 1,
                    "phase_results": {
                        "spellcheck": {
                            "status": "completed_with_failures",
                            "completed_count": 1,
                            "failed_count": 1,
                            "processing_time_seconds": 300.0,
                            "phase_name": "spellcheck",
                        }
                    },
                    "overall_status": "completed_with_failures",
                    "processing_duration_seconds": 1200.0,
                }
            ]
        }
    )

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


class RankedEssay(PublishedModel):
    """An essay's place in an assessment; the older form knows no grades."""

    essay_id: str
    rank: int | None
    score: float | None
    letter_grade: str | None = None
    confidence_score: float | None = None
    confidence_label: str | None = None


class BatchAssessmentCompleted(PublishedModel):
    """A CJ job's rankings are in."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "event_name": "batch.assessment.completed",
                    "entity_id": "batch-1",
                    "entity_type": "batch",
                    "parent_id": None,
                    "timestamp": "2026-03-02T08:20:00.000000Z",
                    "status": "completed_successfully",
                    "system_metadata": {
                        "entity_id": "batch-1",
                        "entity_type": "batch",
                        "parent_id": None,
                        "timestamp": "2026-03-02T08:20:00.000000Z",
                        "processing_stage": "completed",
                        "started_at": None,
                        "completed_at": None,
                        "event": "batch.assessment.completed",
                        "error_info": {},
                    },
                    "batch_id": "batch-1",
                    "user_id": "teacher-1",
                    "assessment_job_id": "cj-job-1",
                    "rankings_summary": [
                        {
                            "essay_id": "essay-1",
                            "rank": 1,
                            "score": 0.87,
                            "letter_grade": "B+",
                            "confidence_score": 0.9,
                            "confidence_label": "HIGH",
                        }
                    ],
                }
            ]
        }
    )

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


class ResultsReadyNotice(TypedDict):
    """What a teacher is told when a batch finished. Counts are essays; the duration is in seconds."""

    batch_id: str
    total_essays: int
    completed_essays: int
    overall_status: BatchStatus
    processing_duration_seconds: float
    message: str
    phase_summaries: dict[Phase, PhaseSummary]


class AssessmentNotice(TypedDict):
    """What a teacher is told when a CJ job's rankings are in."""

    batch_id: str
    assessment_job_id: str
    message: str
    rankings_available: bool
    rankings_count: int


_NOTICE = TypeAdapter(ResultsReadyNotice | AssessmentNotice)


def _notice_json_schema(_: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
    return handler(_NOTICE.core_schema)


Notice = Annotated[dict[str, JsonValue], GetPydanticSchema(get_pydantic_json_schema=_notice_json_schema)]
"""Made as plain JSON; its schema says which of the two shapes it has."""


class TeacherNotificationRequested(PublishedModel):
    """What a teacher is to be told."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "teacher_id": "teacher-1",
                    "notification_type": "batch_assessment_completed",
                    "category": "processing_results",
                    "priority": "standard",
                    "payload": {
                        "batch_id": "batch-1",
                        "assessment_job_id": "cj-job-1",
                        "message": "Comparative judgment assessment completed for batch batch-1",
                        "rankings_available": True,
                        "rankings_count": 1,
                    },
                    "action_required": False,
                    "deadline_timestamp": None,
                    "correlation_id": "0b1aab4b-4a25-5d2b-9760-2b1ee722d445",
                    "batch_id": "batch-1",
                    "class_id": "class-9b",
                    "timestamp": "2026-03-02T08:20:00.000000Z",
                }
            ]
        }
    )

    teacher_id: str
    notification_type: NotificationType
    category: str = "processing_results"
    priority: NotificationPriority
    payload: Notice
    action_required: bool
    deadline_timestamp: Timestamp | None = None
    correlation_id: UUID
    batch_id: str
    class_id: str | None
    timestamp: Timestamp
