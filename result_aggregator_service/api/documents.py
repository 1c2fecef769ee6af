"""The shapes of the answers: what the presentation has to make (mypy holds it to them) and what OpenAPI tells clients.

Absent is null; no field is ever left out. Times are ISO 8601, UTC, microseconds, `Z`. Strict: an answer holds these
fields and no others. Built as plain dictionaries, for speed.
"""

from typing import Annotated

from pydantic import ConfigDict, Field, JsonValue, with_config
from typing_extensions import TypedDict

from result_aggregator_service.contracts.enums import BatchClientStatus, BatchStatus, Phase, ProcessingStage

_STRICT = ConfigDict(extra="forbid")

Time = Annotated[
    str,
    Field(
        pattern=r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$",
        json_schema_extra={"format": "date-time"},
        examples=["2026-03-02T09:15:00.000000Z"],
    ),
]
"""A time of a message, UTC."""
Tally = Annotated[int, Field(ge=0)]
Seconds = Annotated[float, Field(ge=0)]


@with_config(_STRICT)
class ErrorDocument(TypedDict):
    """Why something failed: code and message of the service that said so."""

    error_code: str
    message: str
    correlation_id: str | None
    timestamp: str | None
    service: str | None
    operation: str | None
    details: dict[str, JsonValue] | None


@with_config(_STRICT)
class PhaseDocument(TypedDict):
    """How a phase stands for the whole batch: its outcome's status, or `processing_pipelines` from the first result."""

    status: BatchStatus | None
    completed_count: Tally
    failed_count: Tally
    first_result_at: Time | None
    last_result_at: Time | None
    completed_at: Time | None
    processing_time_seconds: Seconds | None


@with_config(_STRICT)
class EssayDocument(TypedDict):
    """An essay, and its result in each phase; a result's fields are null unless the phase's status is `completed`."""

    essay_id: str
    filename: str | None
    file_upload_id: str | None
    original_text_storage_id: str | None
    last_updated: Time
    spellcheck_status: ProcessingStage | None
    spellcheck_completed_at: Time | None
    spellcheck_error: str | None
    spellcheck_error_detail: ErrorDocument | None
    spellcheck_correction_count: int | None
    spellcheck_corrected_text_storage_id: str | None
    spellcheck_metrics: dict[str, JsonValue] | None
    cj_assessment_status: ProcessingStage | None
    cj_assessment_completed_at: Time | None
    cj_assessment_error: str | None
    cj_assessment_error_detail: ErrorDocument | None
    cj_rank: int | None
    cj_score: float | None
    cj_comparison_count: int | None
    cj_letter_grade: str | None
    cj_normalized_score: float | None
    cj_confidence_score: float | None
    cj_confidence_label: str | None
    nlp_status: ProcessingStage | None
    nlp_completed_at: Time | None
    nlp_error: str | None
    nlp_error_detail: ErrorDocument | None
    nlp_lexical_diversity_score: float | None
    nlp_cohesion_score: float | None
    nlp_grammatical_error_rate: float | None
    nlp_metrics: dict[str, JsonValue] | None
    ai_feedback_status: ProcessingStage | None
    ai_feedback_completed_at: Time | None
    ai_feedback_error: str | None
    ai_feedback_error_detail: ErrorDocument | None
    ai_feedback_storage_id: str | None
    ai_feedback_details: dict[str, JsonValue] | None


@with_config(_STRICT)
class BatchSummaryDocument(TypedDict):
    """A batch without its essays; the counts are of its own essays, anchors never among them."""

    batch_id: str
    user_id: str
    org_id: str | None
    class_id: str | None
    course_code: str | None
    assignment_id: str | None
    overall_status: BatchStatus
    client_status: BatchClientStatus
    essay_count: Tally
    completed_essay_count: Tally
    failed_essay_count: Tally
    error_count: Tally
    error_detail: ErrorDocument | None
    requested_pipeline: str | None
    current_phase: Phase | None
    phases: dict[Phase, PhaseDocument]
    student_prompt_ref: dict[str, JsonValue] | None
    created_at: Time | None
    last_updated: Time
    processing_started_at: Time | None
    processing_completed_at: Time | None


class BatchDocument(BatchSummaryDocument):
    """A batch with all its essays, by id."""

    essays: list[EssayDocument]


@with_config(_STRICT)
class OffsetPagination(TypedDict):
    """Which part of a list this is, counted from its beginning; `total` is the true count of the whole list."""

    limit: Annotated[int, Field(ge=1, le=100)]
    offset: Tally
    total: Tally


@with_config(_STRICT)
class CursorPagination(TypedDict):
    """A page that goes on after a batch, not after a number: `next` is the next page's URL, null after the last."""

    limit: Annotated[int, Field(ge=1, le=100)]
    next: str | None


@with_config(_STRICT)
class BatchPageDocument(TypedDict):
    """Some of a user's batches, newest first (`created_at`, then `batch_id`)."""

    batches: list[BatchDocument]
    pagination: OffsetPagination | CursorPagination


@with_config(_STRICT)
class BatchSummaryPageDocument(TypedDict):
    """Some of a user's batches without their essays, newest first (`created_at`, then `batch_id`)."""

    batches: list[BatchSummaryDocument]
    pagination: OffsetPagination | CursorPagination


@with_config(_STRICT)
class ProblemDocument(TypedDict):
    """RFC 9457 problem details. `error` is a stable name for programs; `details` name the field or thing at fault."""

    type: str
    title: str
    status: int
    detail: str
    instance: str
    error: str
    details: dict[str, JsonValue]
    correlation_id: str


@with_config(_STRICT)
class LoopDocument(TypedDict):
    """A background loop: whether it lives, and whether it moves although it has work."""

    alive: bool
    making_progress: bool
    detail: str | None


@with_config(_STRICT)
class DependencyDocument(TypedDict):
    """A server elsewhere, or the state of its data, at most half a second ago."""

    ok: bool
    detail: str | None


@with_config(_STRICT)
class ReasonDocument(TypedDict):
    """What keeps the service from serving, and what mends it."""

    dependency: str
    detail: str | None
    mend: str


@with_config(_STRICT)
class LivenessDocument(TypedDict):
    """Whether the process's own loops turn."""

    status: str
    loops: dict[str, LoopDocument]


@with_config(_STRICT)
class ReadinessDocument(TypedDict):
    """Whether reads can be served, and if not why."""

    status: str
    reasons: list[ReasonDocument]
    dependencies: dict[str, DependencyDocument]


@with_config(_STRICT)
class HealthDocument(TypedDict):
    """The whole picture."""

    status: str
    service: str
    version: str
    dependencies: dict[str, DependencyDocument]
    loops: dict[str, LoopDocument]
