"""The fold: what a set of messages says, each fact once. Any order, duplication or grouping gives the same facts.

Every function below tells what one kind of message states; the table at the foot says which function is whose.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any, cast
from uuid import UUID

from pydantic import JsonValue

from result_aggregator_service.contracts import consumed, topics
from result_aggregator_service.contracts.enums import Phase, ProcessingStage
from result_aggregator_service.contracts.fields import wire_time
from result_aggregator_service.domain.event import Event
from result_aggregator_service.domain.facets import (
    AIFeedbackResult,
    Assessment,
    Assignment,
    CJGrades,
    CJResult,
    CJVerdict,
    ErrorDetail,
    EssayFile,
    Facet,
    Listing,
    NlpResult,
    PhaseOutcome,
    PipelineEnd,
    Placement,
    RankedEssayFact,
    Registration,
    SpellcheckMetrics,
    SpellcheckResult,
    later,
)

# An answer that has metrics names each of them.
_NO_METRICS: dict[str, JsonValue] = dict.fromkeys(consumed.CorrectionMetrics.__annotations__)


class Row:
    """What is said of one batch or one essay: its facets, and the first and last times it was spoken of."""

    __slots__ = ("facets", "heard_at", "started_at")

    def __init__(self) -> None:
        self.facets: dict[type[Facet], Facet] = {}
        self.heard_at: datetime | None = None
        self.started_at: datetime | None = None

    def state(self, facet: Facet) -> None:
        """A message states a facet."""
        kind = type(facet)
        self.facets[kind] = later(self.facets.get(kind), facet)

    def heard(self, at: datetime) -> None:
        """A message speaks of it."""
        if self.heard_at is None or self.heard_at < at:
            self.heard_at = at

    def started(self, at: datetime) -> None:
        """A message is a result of processing it."""
        if self.started_at is None or at < self.started_at:
            self.started_at = at


class BatchRow(Row):
    """The same of a batch, which also has a birth and knows its anchors."""

    __slots__ = ("anchor_ids", "created_at")

    def __init__(self) -> None:
        super().__init__()
        self.created_at: datetime | None = None
        self.anchor_ids: set[str] = set()

    def created(self, at: datetime) -> None:
        """A registration speaks of it."""
        if self.created_at is None or at < self.created_at:
            self.created_at = at


class Facts:
    """What a set of messages says."""

    def __init__(self) -> None:
        self.batches: dict[str, BatchRow] = {}
        self.essays: dict[str, Row] = {}
        self.outcomes: dict[tuple[str, Phase], PhaseOutcome] = {}
        self.pipeline_ends: dict[UUID, PipelineEnd] = {}
        self.assessments: dict[UUID, Assessment] = {}

    def batch(self, batch_id: str, event: Event) -> BatchRow:
        """The batch, of which `event` speaks."""
        row = self.batches.get(batch_id)
        if row is None:
            row = self.batches[batch_id] = BatchRow()
        row.heard(event.clock.at)
        return row

    def essay(self, essay_id: str, event: Event, placed: Placement | None = None) -> Row:
        """The essay, of which `event` speaks, and which it places if it says so."""
        row = self.essays.get(essay_id)
        if row is None:
            row = self.essays[essay_id] = Row()
        row.heard(event.clock.at)
        if placed is not None:
            row.state(placed)
        return row

    def processed_essay(self, essay_id: str, event: Event, *, batch_id: str | None) -> Row:
        """The essay, of which `event` is a result; it may name the batch."""
        if batch_id is None:
            row = self.essay(essay_id, event)
        else:
            self.batch(batch_id, event)
            row = self.essay(essay_id, event, Placement(event.clock, batch_id))
        row.started(event.clock.at)
        return row


def fold(events: Iterable[Event], into: Facts | None = None) -> Facts:
    """Fold events into `into` (a new `Facts` if None) and return it."""
    facts = Facts() if into is None else into
    for event in events:
        FOLDS[event.topic](facts, event, event.payload)
    return facts


def results_by_phase(facts: Facts) -> Counter[Phase]:
    """How many essay results some facts hold, by phase."""
    phases: dict[type[Facet], Phase] = {
        SpellcheckResult: Phase.SPELLCHECK,
        CJResult: Phase.CJ_ASSESSMENT,
        NlpResult: Phase.NLP,
        AIFeedbackResult: Phase.AI_FEEDBACK,
    }
    return Counter(phases[kind] for essay in facts.essays.values() for kind in essay.facets if kind in phases)


def fold_registration(facts: Facts, event: Event, payload: consumed.BatchEssaysRegistered) -> None:
    batch = facts.batch(payload["entity_id"], event)
    batch.created(event.clock.at)
    batch.state(
        Registration(
            event.clock,
            user_id=payload["user_id"],
            class_id=payload.get("class_id"),
            org_id=payload.get("org_id"),
            course_code=payload.get("course_code"),
            expected_essay_count=payload["expected_essay_count"],
            essay_ids=payload["essay_ids"],
            student_prompt_ref=payload.get("student_prompt_ref"),
            requested_pipelines=payload.get("requested_pipelines"),
        )
    )
    listed = Listing(event.clock, payload["entity_id"])
    for essay_id in payload["essay_ids"]:
        facts.essay(essay_id, event).state(listed)


def fold_slot(facts: Facts, event: Event, payload: consumed.EssaySlotAssigned) -> None:
    batch_id = payload["batch_id"]
    facts.batch(batch_id, event)
    facts.essay(payload["essay_id"], event, Placement(event.clock, batch_id)).state(
        EssayFile(
            event.clock,
            upload_id=payload.get("file_upload_id"),
            text_storage_id=payload["text_storage_id"],
            name=payload.get("original_file_name"),
        )
    )


def fold_phase_outcome(facts: Facts, event: Event, payload: consumed.BatchPhaseOutcome) -> None:
    batch_id = payload["batch_id"]
    facts.batch(batch_id, event).started(event.clock.at)
    processed = frozenset(essay["essay_id"] for essay in payload["processed_essays"])
    failed = frozenset(payload["failed_essay_ids"])
    key = (batch_id, payload["phase_name"])
    facts.outcomes[key] = later(
        facts.outcomes.get(key),
        PhaseOutcome(
            event.clock,
            batch_id=batch_id,
            phase=payload["phase_name"],
            status=payload["phase_status"],
            processed_essay_ids=processed,
            failed_essay_ids=failed,
            source_service=event.source_service,
            correlation_id=event.correlation_id,
            traceparent=event.traceparent,
        ),
    )
    placed = Placement(event.clock, batch_id)
    for essay_id in processed | failed:
        facts.essay(essay_id, event, placed)


def fold_spellcheck_completed(facts: Facts, event: Event, payload: consumed.SpellcheckCompleted) -> None:
    about = payload["system_metadata"]
    storage = payload.get("storage_metadata") or {}
    references = storage.get("references") or {}
    _spellcheck(
        facts,
        event,
        payload,
        essay_id=about["entity_id"],
        batch_id=about.get("parent_id"),
        corrected_text=references.get("corrected_text"),
    )


def fold_spellcheck_result(facts: Facts, event: Event, payload: consumed.SpellcheckResult) -> None:
    essay = _spellcheck(
        facts,
        event,
        payload,
        essay_id=payload["entity_id"],
        batch_id=payload["batch_id"],
        corrected_text=payload.get("corrected_text_storage_id"),
    )
    # A failure has nothing to tell here, and what an earlier success told is no longer so.
    told: dict[str, JsonValue] | None = None
    if stage(payload["status"]) is ProcessingStage.COMPLETED:
        metrics = payload.get("correction_metrics")
        told = {
            **({} if metrics is None else _NO_METRICS | _as_json(metrics)),
            "processing_duration_ms": payload.get("processing_duration_ms"),
            "processor_version": payload.get("processor_version"),
        }
    essay.state(SpellcheckMetrics(event.clock, values=told))


def _spellcheck(
    facts: Facts,
    event: Event,
    payload: consumed.SpellcheckCompleted | consumed.SpellcheckResult,
    *,
    essay_id: str,
    batch_id: str | None,
    corrected_text: str | None,
) -> Row:
    """What both forms of a spell check message say."""
    essay = facts.processed_essay(essay_id, event, batch_id=batch_id)
    status = stage(payload["status"])
    succeeded = status is ProcessingStage.COMPLETED
    essay.state(
        SpellcheckResult(
            event.clock,
            status=status,
            correction_count=payload.get("corrections_made") if succeeded else None,
            corrected_text_storage_id=corrected_text if succeeded else None,
            error=None if succeeded else error_detail(event, Phase.SPELLCHECK, payload["system_metadata"]),
        )
    )
    return essay


def fold_cj_completed(facts: Facts, event: Event, payload: consumed.CJAssessmentCompleted) -> None:
    batch_id, job_id = payload["entity_id"], payload["cj_assessment_job_id"]
    facts.batch(batch_id, event).state(CJVerdict(event.clock, error=None))
    # A ranking places no essay: an id that only rankings name is an anchor's (specification, section 2).
    rankings = []
    for ranking in payload.get("rankings") or ():
        essay_id, rank, score = ranking["els_essay_id"], ranking.get("rank"), ranking.get("score")
        if rank is None and score is None:
            continue
        essay = facts.essay(essay_id, event)
        essay.started(event.clock.at)
        essay.state(CJResult(event.clock, ProcessingStage.COMPLETED, rank, score, error=None))
        rankings.append(RankedEssayFact(essay_id, rank, score))
    if rankings:
        _assessment(facts, event, batch_id, job_id, graded=False, rankings=rankings)
    summary = payload.get("processing_summary")
    if summary is not None:
        placed = Placement(event.clock, batch_id)
        for essay_id in summary.get("successful_essay_ids", ()):
            facts.essay(essay_id, event, placed)
        error_info: consumed.ErrorInfo = {
            "error_code": "CJ_ASSESSMENT_FAILED",
            "error_message": f"CJ assessment job {job_id} failed for this essay",
        }
        error = error_detail(event, Phase.CJ_ASSESSMENT, {"error_info": error_info})
        failed = CJResult(event.clock, ProcessingStage.FAILED, None, None, error)
        for essay_id in summary.get("failed_essay_ids", ()):
            essay = facts.essay(essay_id, event, placed)
            essay.started(event.clock.at)
            essay.state(failed)


def fold_cj_failed(facts: Facts, event: Event, payload: consumed.CJAssessmentFailed) -> None:
    batch = facts.batch(payload["entity_id"], event)
    batch.started(event.clock.at)
    batch.state(CJVerdict(event.clock, error=error_detail(event, Phase.CJ_ASSESSMENT, payload["system_metadata"])))


def fold_assessment_result(facts: Facts, event: Event, payload: consumed.AssessmentResult) -> None:
    batch_id = payload["batch_id"]
    batch = facts.batch(batch_id, event)
    batch.state(CJVerdict(event.clock, error=None))
    batch.state(Assignment(event.clock, payload.get("assignment_id")))
    metadata = payload.get("assessment_metadata") or {}
    placed = Placement(event.clock, batch_id)
    rankings = []
    for result in payload["essay_results"]:
        essay_id, rank, score = result["essay_id"], result.get("rank"), result.get("bt_score")
        if result.get("is_anchor"):
            batch.anchor_ids.add(essay_id)
            continue
        grade = result.get("letter_grade")
        confidence, label = result.get("confidence_score"), result.get("confidence_label")
        essay = facts.essay(essay_id, event, placed)
        if rank is not None or score is not None:
            essay.started(event.clock.at)
            essay.state(CJResult(event.clock, ProcessingStage.COMPLETED, rank, score, error=None))
            rankings.append(RankedEssayFact(essay_id, rank, score, grade, confidence, label))
        essay.state(
            CJGrades(
                event.clock,
                letter_grade=grade,
                normalized_score=result.get("normalized_score"),
                confidence_score=confidence,
                confidence_label=label,
                comparison_count=metadata.get("comparison_count"),
            )
        )
    if rankings:
        _assessment(facts, event, batch_id, payload["cj_assessment_job_id"], graded=True, rankings=rankings)


def _assessment(
    facts: Facts, event: Event, batch_id: str, job_id: str, *, graded: bool, rankings: list[RankedEssayFact]
) -> None:
    """Every message is kept, in the order of folding: a job's first that ranks a student is the one announced."""
    facts.assessments.setdefault(
        event.clock.event_id,
        Assessment(event.clock, batch_id, job_id, graded, rankings, event.correlation_id, event.traceparent),
    )


def fold_pipeline_completed(facts: Facts, event: Event, payload: consumed.BatchPipelineCompleted) -> None:
    facts.batch(payload["batch_id"], event)
    facts.pipeline_ends[event.clock.event_id] = PipelineEnd(
        event.clock,
        batch_id=payload["batch_id"],
        completed_phases=payload["completed_phases"],
        final_status=payload["final_status"],
        successful_essay_count=payload.get("successful_essay_count"),
        failed_essay_count=payload.get("failed_essay_count"),
        processing_duration_seconds=payload.get("processing_duration_seconds"),
        correlation_id=event.correlation_id,
        traceparent=event.traceparent,
    )


def fold_nlp_completed(facts: Facts, event: Event, payload: consumed.EssayNlpCompleted) -> None:
    batch_id = payload.get("parent_id")
    if batch_id is None:
        batch_id = (payload.get("processing_metadata") or {}).get("batch_id")
    essay = facts.processed_essay(payload["essay_id"], event, batch_id=batch_id)
    metrics = payload["nlp_metrics"]
    words = metrics.get("word_count")
    errors = (payload.get("grammar_analysis") or {}).get("error_count")
    essay.state(
        NlpResult(
            event.clock,
            status=ProcessingStage.COMPLETED,
            lexical_diversity_score=metrics.get("mtld_score"),
            cohesion_score=metrics.get("first_order_coherence"),
            grammatical_error_rate=100.0 * errors / words if errors is not None and words else None,
            metrics=_as_json(metrics),
        )
    )


def fold_ai_feedback(facts: Facts, event: Event, payload: consumed.AIFeedbackResult) -> None:
    about = payload["system_metadata"]
    essay = facts.processed_essay(about["entity_id"], event, batch_id=about.get("parent_id"))
    status = stage(payload["status"])
    succeeded = status is ProcessingStage.COMPLETED
    feedback, metrics = payload.get("feedback_details"), payload.get("additional_metrics")
    details: dict[str, JsonValue] | None = None
    if succeeded and (feedback is not None or metrics is not None):
        details = {**(feedback or {}), "additional_metrics": metrics}
    essay.state(
        AIFeedbackResult(
            event.clock,
            status=status,
            storage_id=payload.get("feedback_content_storage_id") if succeeded else None,
            details=details,
            error=None if succeeded else error_detail(event, Phase.AI_FEEDBACK, about),
        )
    )


def _as_json(metrics: consumed.CorrectionMetrics | consumed.NlpMetrics) -> dict[str, JsonValue]:
    return cast(dict[str, JsonValue], metrics)


def stage(status: str) -> ProcessingStage:
    """An essay-level status counts as completed when it holds "success" in any case, else failed."""
    return ProcessingStage.COMPLETED if "success" in status.lower() else ProcessingStage.FAILED


def error_detail(event: Event, phase: Phase, about: consumed.SystemMetadata) -> ErrorDetail:
    """The structured error of a failure told by `event`; code and message from what it says about it, if it does."""
    info = about.get("error_info") or {}
    details: dict[str, JsonValue] = dict(info.get("context") or {})
    error_type = info.get("error_type")
    if error_type is not None:
        details["error_type"] = error_type
    return {
        "error_code": info.get("error_code") or f"{phase.upper()}_FAILED",
        "message": info.get("error_message") or f"{phase} failed; {event.source_service} gave no reason",
        "correlation_id": str(event.correlation_id),
        "timestamp": wire_time(event.clock.at),
        "service": event.source_service,
        "operation": phase.value,
        "details": details,
    }


FOLDS: dict[str, Callable[[Facts, Event, Any], None]] = {
    topics.BATCH_ESSAYS_REGISTERED: fold_registration,
    topics.ESSAY_SLOT_ASSIGNED: fold_slot,
    topics.BATCH_PHASE_OUTCOME: fold_phase_outcome,
    topics.SPELLCHECK_COMPLETED: fold_spellcheck_completed,
    topics.SPELLCHECK_RESULTS: fold_spellcheck_result,
    topics.CJ_ASSESSMENT_COMPLETED: fold_cj_completed,
    topics.CJ_ASSESSMENT_FAILED: fold_cj_failed,
    topics.ASSESSMENT_RESULT_PUBLISHED: fold_assessment_result,
    topics.BATCH_PIPELINE_COMPLETED: fold_pipeline_completed,
    topics.ESSAY_NLP_COMPLETED: fold_nlp_completed,
    topics.ESSAY_AIFEEDBACK_COMPLETED: fold_ai_feedback,
}
