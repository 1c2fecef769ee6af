"""Payloads of the consumed messages: the fields this service keeps, and those it decides by."""

from typing import Annotated, Self

from pydantic import AliasChoices, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from result_aggregator_service.contracts.enums import Phase
from result_aggregator_service.contracts.envelope import WireModel
from result_aggregator_service.contracts.fields import (
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
    error_message: Text | None = Field(default=None, validation_alias=AliasChoices("error_message", "message"))
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


StorageId = Annotated[Id | None, BeforeValidator(_storage_id)]
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

    batch_id: Id
    phase_name: Phase
    phase_status: FinalStatus
    processed_essays: ListOf[ProcessedEssay]
    failed_essay_ids: ListOf[Id]


class SpellcheckCompleted(WireModel):
    """Spell checker, older form."""

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
    """Spell checker, newer and richer form."""

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

    entity_id: Id
    cj_assessment_job_id: Id
    rankings: ListOf[Ranking] | None = None
    processing_summary: ProcessingSummary | None = None


class CJAssessmentFailed(WireModel):
    """CJ: the batch's assessment failed."""

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

    batch_id: Id
    cj_assessment_job_id: Id
    assignment_id: Id | None = None
    essay_results: ListOf[EssayResult]
    assessment_metadata: AssessmentMetadata | None = None


class BatchPipelineCompleted(WireModel):
    """BOS: a pipeline over the batch ended."""

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

    essay_id: Id
    parent_id: Id | None = None
    nlp_metrics: NlpMetrics
    grammar_analysis: GrammarAnalysis | None = None
    processing_metadata: NlpProcessingMetadata | None = None


class AIFeedbackResult(WireModel):
    """AI feedback: an essay's feedback, or why there is none."""

    system_metadata: EssaySystemMetadata
    status: Text
    feedback_details: JsonObject | None = None
    feedback_content_storage_id: Id | None = None
    additional_metrics: JsonObject | None = None
