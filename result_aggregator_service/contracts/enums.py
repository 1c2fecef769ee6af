"""The platform's enumerations as they stand on the wire, all lower case."""

from enum import StrEnum


class BatchStatus(StrEnum):
    """A batch's state as the services of the platform tell it to each other."""

    AWAITING_CONTENT_VALIDATION = "awaiting_content_validation"
    CONTENT_INGESTION_FAILED = "content_ingestion_failed"
    AWAITING_PIPELINE_CONFIGURATION = "awaiting_pipeline_configuration"
    READY_FOR_PIPELINE_EXECUTION = "ready_for_pipeline_execution"
    PROCESSING_PIPELINES = "processing_pipelines"
    AWAITING_STUDENT_VALIDATION = "awaiting_student_validation"
    STUDENT_VALIDATION_COMPLETED = "student_validation_completed"
    VALIDATION_TIMEOUT_PROCESSED = "validation_timeout_processed"
    COMPLETED_SUCCESSFULLY = "completed_successfully"
    COMPLETED_WITH_FAILURES = "completed_with_failures"
    FAILED_CRITICALLY = "failed_critically"
    CANCELLED = "cancelled"


class BatchClientStatus(StrEnum):
    """A batch's state as a client is shown it."""

    PENDING_CONTENT = "pending_content"
    READY = "ready"
    PROCESSING = "processing"
    COMPLETED_SUCCESSFULLY = "completed_successfully"
    COMPLETED_WITH_FAILURES = "completed_with_failures"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ProcessingStage(StrEnum):
    """An essay's state in one phase."""

    PENDING = "pending"
    INITIALIZED = "initialized"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Phase(StrEnum):
    """One kind of processing of a batch."""

    SPELLCHECK = "spellcheck"
    CJ_ASSESSMENT = "cj_assessment"
    NLP = "nlp"
    AI_FEEDBACK = "ai_feedback"
    STUDENT_MATCHING = "student_matching"


class NotificationType(StrEnum):
    """What a teacher is told of."""

    BATCH_RESULTS_READY = "batch_results_ready"
    BATCH_ASSESSMENT_COMPLETED = "batch_assessment_completed"


class NotificationPriority(StrEnum):
    """How urgently a teacher is told."""

    IMMEDIATE = "immediate"
    STANDARD = "standard"


CLIENT_STATUS: dict[BatchStatus, BatchClientStatus] = {
    BatchStatus.AWAITING_CONTENT_VALIDATION: BatchClientStatus.PENDING_CONTENT,
    BatchStatus.AWAITING_PIPELINE_CONFIGURATION: BatchClientStatus.PENDING_CONTENT,
    BatchStatus.READY_FOR_PIPELINE_EXECUTION: BatchClientStatus.READY,
    BatchStatus.PROCESSING_PIPELINES: BatchClientStatus.PROCESSING,
    BatchStatus.AWAITING_STUDENT_VALIDATION: BatchClientStatus.PROCESSING,
    BatchStatus.STUDENT_VALIDATION_COMPLETED: BatchClientStatus.PROCESSING,
    BatchStatus.VALIDATION_TIMEOUT_PROCESSED: BatchClientStatus.PROCESSING,
    BatchStatus.COMPLETED_SUCCESSFULLY: BatchClientStatus.COMPLETED_SUCCESSFULLY,
    BatchStatus.COMPLETED_WITH_FAILURES: BatchClientStatus.COMPLETED_WITH_FAILURES,
    BatchStatus.FAILED_CRITICALLY: BatchClientStatus.FAILED,
    BatchStatus.CONTENT_INGESTION_FAILED: BatchClientStatus.FAILED,
    BatchStatus.CANCELLED: BatchClientStatus.CANCELLED,
}

#: The statuses that a phase outcome or a pipeline's end may carry (specification, section 2).
FINAL_STATUSES = frozenset(
    {
        BatchStatus.COMPLETED_SUCCESSFULLY,
        BatchStatus.COMPLETED_WITH_FAILURES,
        BatchStatus.FAILED_CRITICALLY,
        BatchStatus.CANCELLED,
    }
)
