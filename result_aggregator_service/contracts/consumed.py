"""Payloads of the consumed messages: the fields this service keeps, and those it decides by.

Unknown fields are ignored: producers add fields without asking. What a message leaves out is not in its payload. These
are dictionaries, not models, as pydantic makes them in two thirds of the time.
"""

from typing import Annotated, NotRequired

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, WithJsonSchema, with_config
from pydantic_core import PydanticCustomError
from typing_extensions import TypedDict

from result_aggregator_service.contracts.enums import Phase
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


class ErrorInfo(TypedDict):
    """A producer's account of a failure; any part may be missing."""

    error_code: NotRequired[Text | None]
    error_message: NotRequired[
        Annotated[
            Text | None,
            Field(
                validation_alias=AliasChoices("error_message", "message"),
                description="Where it is missing, `message` is taken.",
            ),
        ]
    ]
    error_type: NotRequired[Text | None]
    context: NotRequired[JsonObject | None]


class SystemMetadata(TypedDict):
    """What a producer says about the work behind a message."""

    error_info: NotRequired[ErrorInfo | None]


class EssaySystemMetadata(SystemMetadata):
    """The same, where it also names the essay (`entity_id`) and its batch (`parent_id`)."""

    entity_id: Id
    parent_id: NotRequired[Id | None]


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


class References(TypedDict):
    """References to stored content, by kind."""

    corrected_text: NotRequired[StorageId]


class StorageMetadata(TypedDict):
    """Where a service put what it made."""

    references: NotRequired[References | None]


@with_config(
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
                "student_prompt_ref": {"references": {"student_prompt_text": {"storage_id": "prompt-1", "path": ""}}},
                "requested_pipelines": ["spellcheck", "cj_assessment"],
            }
        ],
    }
)
class BatchEssaysRegistered(TypedDict):
    """BOS: a batch exists, is owned by `user_id` and expects these essays."""

    entity_id: Id
    user_id: Id
    expected_essay_count: Count
    essay_ids: ListOf[Id]
    course_code: NotRequired[Text | None]
    class_id: NotRequired[Id | None]
    org_id: NotRequired[Id | None]
    student_prompt_ref: NotRequired[JsonObject | None]
    requested_pipelines: NotRequired[ListOf[Text] | None]


@with_config(
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
class EssaySlotAssigned(TypedDict):
    """ELS: an essay of a batch got its file."""

    batch_id: Id
    essay_id: Id
    file_upload_id: NotRequired[Id | None]
    text_storage_id: Id
    original_file_name: NotRequired[Text | None]


class ProcessedEssay(TypedDict):
    """An essay that went through a phase."""

    essay_id: Id


@with_config(
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
class BatchPhaseOutcome(TypedDict):
    """ELS: a phase ended for the whole batch."""

    batch_id: Id
    phase_name: Phase
    phase_status: FinalStatus
    processed_essays: ListOf[ProcessedEssay]
    failed_essay_ids: ListOf[Id]


@with_config(
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
class SpellcheckCompleted(TypedDict):
    """Spell checker: an essay's spell check, older form."""

    system_metadata: EssaySystemMetadata
    status: Text
    storage_metadata: NotRequired[StorageMetadata | None]
    corrections_made: NotRequired[Count | None]


class CorrectionMetrics(TypedDict):
    """How an essay was corrected; counts, and corrections for each hundred words."""

    total_corrections: NotRequired[Count | None]
    l2_dictionary_corrections: NotRequired[Count | None]
    spellchecker_corrections: NotRequired[Count | None]
    word_count: NotRequired[Count | None]
    correction_density: NotRequired[Real | None]


@with_config(
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
class SpellcheckResult(TypedDict):
    """Spell checker: an essay's spell check, newer and richer form."""

    entity_id: Id
    batch_id: Id
    status: Text
    system_metadata: SystemMetadata
    corrections_made: NotRequired[Count | None]
    correction_metrics: NotRequired[CorrectionMetrics | None]
    corrected_text_storage_id: NotRequired[Id | None]
    processing_duration_ms: NotRequired[Count | None]
    processor_version: NotRequired[Text | None]


class Ranking(TypedDict):
    """An essay's place in a comparative judgment, older form."""

    els_essay_id: Id
    rank: NotRequired[Int32 | None]
    score: NotRequired[Real | None]


class ProcessingSummary(TypedDict):
    """What the thin form says instead of rankings."""

    successful_essay_ids: NotRequired[ListOf[Id]]
    failed_essay_ids: NotRequired[ListOf[Id]]


@with_config(
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
class CJAssessmentCompleted(TypedDict):
    """CJ: an assessment is done: the older form with `rankings`, or the thin one with `processing_summary`."""

    entity_id: Id
    cj_assessment_job_id: Id
    rankings: NotRequired[ListOf[Ranking] | None]
    processing_summary: NotRequired[ProcessingSummary | None]


@with_config(
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
class CJAssessmentFailed(TypedDict):
    """CJ: the batch's assessment failed."""

    entity_id: Id
    cj_assessment_job_id: NotRequired[Id | None]
    system_metadata: SystemMetadata


class EssayResult(TypedDict):
    """An essay's assessment in the rich form; `is_anchor` marks one that is no student's."""

    essay_id: Id
    is_anchor: NotRequired[Annotated[bool, Field(strict=True)]]
    rank: NotRequired[Int32 | None]
    bt_score: NotRequired[Real | None]
    letter_grade: NotRequired[Text | None]
    normalized_score: NotRequired[Real | None]
    confidence_score: NotRequired[Real | None]
    confidence_label: NotRequired[Text | None]


class AssessmentMetadata(TypedDict):
    """How an assessment was made."""

    comparison_count: NotRequired[Count | None]


@with_config(
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
class AssessmentResult(TypedDict):
    """CJ: the rich form of an assessment."""

    batch_id: Id
    cj_assessment_job_id: Id
    assignment_id: NotRequired[Id | None]
    essay_results: ListOf[EssayResult]
    assessment_metadata: NotRequired[AssessmentMetadata | None]


@with_config(
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
class BatchPipelineCompleted(TypedDict):
    """BOS: a pipeline over the batch ended."""

    batch_id: Id
    completed_phases: ListOf[Phase]
    final_status: FinalStatus
    processing_duration_seconds: NotRequired[Real | None]
    successful_essay_count: NotRequired[Count | None]
    failed_essay_count: NotRequired[Count | None]


@with_config(extra="allow")
class NlpMetrics(TypedDict):
    """An essay's text metrics: the ones shown by themselves; all of them are kept, whatever their names."""

    word_count: NotRequired[Count | None]
    mtld_score: NotRequired[Real | None]
    first_order_coherence: NotRequired[Real | None]


def _storable(metrics: NlpMetrics) -> NlpMetrics:
    check_storable(metrics, 0)
    return metrics


class GrammarAnalysis(TypedDict):
    """The grammar check; its findings quote the essay and are not kept."""

    error_count: NotRequired[Count | None]


class NlpProcessingMetadata(TypedDict):
    """May name the batch."""

    batch_id: NotRequired[Id | None]


@with_config(
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
class EssayNlpCompleted(TypedDict):
    """NLP: an essay's text metrics. The batch may be named in two places, or not at all."""

    essay_id: Id
    parent_id: NotRequired[Id | None]
    nlp_metrics: Annotated[NlpMetrics, AfterValidator(_storable)]
    grammar_analysis: NotRequired[GrammarAnalysis | None]
    processing_metadata: NotRequired[NlpProcessingMetadata | None]


@with_config(
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
class AIFeedbackResult(TypedDict):
    """AI feedback: an essay's feedback, or why there is none."""

    system_metadata: EssaySystemMetadata
    status: Text
    feedback_details: NotRequired[JsonObject | None]
    feedback_content_storage_id: NotRequired[Id | None]
    additional_metrics: NotRequired[JsonObject | None]
