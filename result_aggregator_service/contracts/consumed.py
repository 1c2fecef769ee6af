"""Payloads of the consumed messages: the fields this service keeps, and those it decides by."""

from typing import Annotated, Self

from pydantic import AliasChoices, BeforeValidator, ConfigDict, Field, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from result_aggregator_service.contracts.enums import Phase
from result_aggregator_service.contracts.envelope import WireModel
from result_aggregator_service.contracts.fields import (
    MAX_ID_LENGTH,
    NO_NUL,
    Count,
    FinalStatus,
    Id,
    Int32,
    JsonObject,
    ListOf,
    Real,
    Text,
    check_storable,
)


class ErrorInfo(WireModel):
    """A producer's account of a failure; any part may be missing."""

    error_code: Text | None = None
    error_message: Text | None = Field(
        default=None,
        validation_alias=AliasChoices("error_message", "message"),
        description="Where it is missing, `message` is taken.",
    )
    error_type: Text | None = None
    context: JsonObject | None = None


class SystemMetadata(WireModel):
    """What a producer says about the work behind a message."""

    error_info: ErrorInfo | None = None


class EssaySystemMetadata(SystemMetadata):
    """The same, where it also names the essay (`entity_id`) and its batch (`parent_id`)."""

    entity_id: Id
    parent_id: Id | None = None


def _storage_id(reference: object) -> object:
    if reference is None:
        return None
    if not isinstance(reference, dict):
        raise PydanticCustomError("dict_type", "Input should be an object")
    values = (reference.get("storage_id"), *reference.values())
    return next((value for value in values if value not in (None, "")), None)


StorageId = Annotated[
    Id | None,
    BeforeValidator(_storage_id),
    WithJsonSchema(
        {
            "description": "The id is `storage_id`, else the first value that is not empty; other values are not kept.",
            "anyOf": [
                {
                    "type": "object",
                    "properties": {
                        "storage_id": {
                            "anyOf": [
                                {"type": "string", "maxLength": MAX_ID_LENGTH, "pattern": NO_NUL},
                                {"type": "null"},
                            ]
                        }
                    },
                },
                {"type": "null"},
            ],
        }
    ),
]
"""A reference, an object of strings, by its `storage_id`, else its first value; its other values are not kept."""


class References(WireModel):
    """References to stored content, by kind."""

    corrected_text: StorageId = None


class StorageMetadata(WireModel):
    """Where a service put what it made."""

    references: References | None = None

    @property
    def corrected_text_id(self) -> str | None:
        """The corrected text's id; None if there is none."""
        return self.references.corrected_text if self.references else None


class BatchEssaysRegistered(WireModel):
    """BOS: a batch exists, is owned by `user_id` and expects these essays."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-producer": "batch_orchestrator_service",
            "examples": [
                {
                    "entity_id": "batch-1",
                    "user_id": "teacher-1",
                    "expected_essay_count": 2,
                    "essay_ids": ["essay-1", "essay-2"],
                    "course_code": "ENG5",
                    "class_id": "class-9b",
                    "org_id": None,
                    "student_prompt_ref": {
                        "references": {"student_prompt_text": {"storage_id": "prompt-1", "path": ""}}
                    },
                    "requested_pipelines": ["spellcheck", "cj_assessment"],
                }
            ],
        }
    )

    entity_id: Id
    user_id: Id
    expected_essay_count: Count
    essay_ids: ListOf[Id]
    course_code: Text | None = None
    class_id: Id | None = None
    org_id: Id | None = None
    student_prompt_ref: JsonObject | None = None
    requested_pipelines: ListOf[Text] | None = None


class EssaySlotAssigned(WireModel):
    """ELS: an essay of a batch got its file."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-producer": "essay_lifecycle_service",
            "examples": [
                {
                    "batch_id": "batch-1",
                    "essay_id": "essay-1",
                    "file_upload_id": "upload-1",
                    "text_storage_id": "text-1",
                    "original_file_name": "essay 1.docx",
                }
            ],
        }
    )

    batch_id: Id
    essay_id: Id
    file_upload_id: Id | None = None
    text_storage_id: Id
    original_file_name: Text | None = None


class ProcessedEssay(WireModel):
    """An essay that went through a phase."""

    essay_id: Id


class BatchPhaseOutcome(WireModel):
    """ELS: a phase ended for the whole batch."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-producer": "essay_lifecycle_service",
            "examples": [
                {
                    "batch_id": "batch-1",
                    "phase_name": "spellcheck",
                    "phase_status": "completed_with_failures",
                    "processed_essays": [{"essay_id": "essay-1"}],
                    "failed_essay_ids": ["essay-2"],
                }
            ],
        }
    )

    batch_id: Id
    phase_name: Phase
    phase_status: FinalStatus
    processed_essays: ListOf[ProcessedEssay]
    failed_essay_ids: ListOf[Id]


class SpellcheckCompleted(WireModel):
    """Spell checker: an essay's spell check, older form."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-producer": "spellchecker_service",
            "examples": [
                {
                    "system_metadata": {"entity_id": "essay-1", "parent_id": "batch-1", "error_info": None},
                    "status": "spellchecked_success",
                    "storage_metadata": {"references": {"corrected_text": {"storage_id": "corrected-1", "path": ""}}},
                    "corrections_made": 9,
                }
            ],
        }
    )

    system_metadata: EssaySystemMetadata
    status: Text
    storage_metadata: StorageMetadata | None = None
    corrections_made: Count | None = None


class CorrectionMetrics(WireModel):
    """How an essay was corrected; counts, and corrections for each hundred words."""

    total_corrections: Count | None = None
    l2_dictionary_corrections: Count | None = None
    spellchecker_corrections: Count | None = None
    word_count: Count | None = None
    correction_density: Real | None = None


class SpellcheckResult(WireModel):
    """Spell checker: an essay's spell check, newer and richer form."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-producer": "spellchecker_service",
            "examples": [
                {
                    "entity_id": "essay-1",
                    "batch_id": "batch-1",
                    "status": "spellchecked_success",
                    "system_metadata": {"error_info": None},
                    "corrections_made": 9,
                    "correction_metrics": {
                        "total_corrections": 9,
                        "l2_dictionary_corrections": 4,
                        "spellchecker_corrections": 5,
                        "word_count": 412,
                        "correction_density": 2.18,
                    },
                    "corrected_text_storage_id": "corrected-1",
                    "processing_duration_ms": 1840,
                    "processor_version": "2.1.0",
                }
            ],
        }
    )

    entity_id: Id
    batch_id: Id
    status: Text
    system_metadata: SystemMetadata
    corrections_made: Count | None = None
    correction_metrics: CorrectionMetrics | None = None
    corrected_text_storage_id: Id | None = None
    processing_duration_ms: Count | None = None
    processor_version: Text | None = None


class Ranking(WireModel):
    """An essay's place in a comparative judgment, older form."""

    els_essay_id: Id
    rank: Int32 | None = None
    score: Real | None = None


class ProcessingSummary(WireModel):
    """What the thin form says instead of rankings."""

    successful_essay_ids: ListOf[Id] = Field(default_factory=list)
    failed_essay_ids: ListOf[Id] = Field(default_factory=list)


class CJAssessmentCompleted(WireModel):
    """CJ: an assessment is done: the older form with `rankings`, or the thin one with `processing_summary`."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-producer": "cj_assessment_service",
            "examples": [
                {
                    "entity_id": "batch-1",
                    "cj_assessment_job_id": "cj-job-1",
                    "rankings": [{"els_essay_id": "essay-1", "rank": 1, "score": 0.87}],
                },
                {
                    "entity_id": "batch-1",
                    "cj_assessment_job_id": "cj-job-1",
                    "processing_summary": {"successful_essay_ids": ["essay-1"], "failed_essay_ids": ["essay-2"]},
                },
            ],
        }
    )

    entity_id: Id
    cj_assessment_job_id: Id
    rankings: ListOf[Ranking] | None = None
    processing_summary: ProcessingSummary | None = None


class CJAssessmentFailed(WireModel):
    """CJ: the batch's assessment failed."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-producer": "cj_assessment_service",
            "examples": [
                {
                    "entity_id": "batch-1",
                    "cj_assessment_job_id": "cj-job-1",
                    "system_metadata": {
                        "error_info": {
                            "error_code": "CJ_TOO_FEW_ESSAYS",
                            "error_message": "two essays are needed, one was given",
                        }
                    },
                }
            ],
        }
    )

    entity_id: Id
    cj_assessment_job_id: Id | None = None
    system_metadata: SystemMetadata


class EssayResult(WireModel):
    """An essay's assessment in the rich form; `is_anchor` marks one that is no student's."""

    essay_id: Id
    is_anchor: bool = Field(default=False, strict=True)
    rank: Int32 | None = None
    bt_score: Real | None = None
    letter_grade: Text | None = None
    normalized_score: Real | None = None
    confidence_score: Real | None = None
    confidence_label: Text | None = None


class AssessmentMetadata(WireModel):
    """How an assessment was made."""

    comparison_count: Count | None = None


class AssessmentResult(WireModel):
    """CJ: the rich form of an assessment."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-producer": "cj_assessment_service",
            "examples": [
                {
                    "batch_id": "batch-1",
                    "cj_assessment_job_id": "cj-job-1",
                    "assignment_id": "assignment-1",
                    "essay_results": [
                        {
                            "essay_id": "essay-1",
                            "is_anchor": False,
                            "rank": 1,
                            "bt_score": 0.87,
                            "letter_grade": "B+",
                            "normalized_score": 0.72,
                            "confidence_score": 0.9,
                            "confidence_label": "HIGH",
                        },
                        {"essay_id": "anchor-1", "is_anchor": True, "rank": 2, "bt_score": -0.2, "letter_grade": "C"},
                    ],
                    "assessment_metadata": {"comparison_count": 24},
                }
            ],
        }
    )

    batch_id: Id
    cj_assessment_job_id: Id
    assignment_id: Id | None = None
    essay_results: ListOf[EssayResult]
    assessment_metadata: AssessmentMetadata | None = None


class BatchPipelineCompleted(WireModel):
    """BOS: a pipeline over the batch ended."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-producer": "batch_orchestrator_service",
            "examples": [
                {
                    "batch_id": "batch-1",
                    "completed_phases": ["spellcheck", "cj_assessment"],
                    "final_status": "completed_with_failures",
                    "processing_duration_seconds": 1020.0,
                    "successful_essay_count": 1,
                    "failed_essay_count": 1,
                }
            ],
        }
    )

    batch_id: Id
    completed_phases: ListOf[Phase]
    final_status: FinalStatus
    processing_duration_seconds: Real | None = None
    successful_essay_count: Count | None = None
    failed_essay_count: Count | None = None


class NlpMetrics(WireModel):
    """An essay's text metrics: the ones shown by themselves; all of them are kept, whatever their names."""

    model_config = ConfigDict(extra="allow")

    word_count: Count | None = None
    mtld_score: Real | None = None
    first_order_coherence: Real | None = None

    @model_validator(mode="after")
    def _others_are_storable(self) -> Self:
        check_storable(self.model_extra, 0)
        return self


class GrammarAnalysis(WireModel):
    """The grammar check; its findings quote the essay and are not kept."""

    error_count: Count | None = None


class NlpProcessingMetadata(WireModel):
    """May name the batch."""

    batch_id: Id | None = None


class EssayNlpCompleted(WireModel):
    """NLP: an essay's text metrics. The batch may be named in two places, or not at all."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-producer": "nlp_service",
            "examples": [
                {
                    "essay_id": "essay-1",
                    "parent_id": "batch-1",
                    "nlp_metrics": {
                        "word_count": 398,
                        "mtld_score": 74.1,
                        "first_order_coherence": 0.44,
                        "hdd_score": 0.83,
                        "phrasal_indices": {"noun_phrase_ratio": 0.31},
                    },
                    "grammar_analysis": {"error_count": 1},
                    "processing_metadata": {"batch_id": "batch-1"},
                }
            ],
        }
    )

    essay_id: Id
    parent_id: Id | None = None
    nlp_metrics: NlpMetrics
    grammar_analysis: GrammarAnalysis | None = None
    processing_metadata: NlpProcessingMetadata | None = None


class AIFeedbackResult(WireModel):
    """AI feedback: an essay's feedback, or why there is none."""

    model_config = ConfigDict(
        json_schema_extra={
            "x-producer": "ai_feedback_service",
            "examples": [
                {
                    "system_metadata": {"entity_id": "essay-1", "parent_id": "batch-1", "error_info": None},
                    "status": "ai_feedback_success",
                    "feedback_details": {
                        "model_version": "feedback-3",
                        "generation_timestamp": "2026-03-02T08:12:00Z",
                        "feedback_type": "formative",
                        "processing_time_seconds": 4.2,
                    },
                    "feedback_content_storage_id": "feedback-1",
                    "additional_metrics": {"tokens": 812},
                }
            ],
        }
    )

    system_metadata: EssaySystemMetadata
    status: Text
    feedback_details: JsonObject | None = None
    feedback_content_storage_id: Id | None = None
    additional_metrics: JsonObject | None = None
