"""A batch's facts as the JSON that a client is shown (specification, section 4). Pure; linear in the essays.

What a result carries is shown only while the essay's status in that phase is completed. Absent is null.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import cast

import orjson

from result_aggregator_service.api.documents import (
    BatchDocument,
    BatchSummaryDocument,
    EssayDocument,
    PhaseDocument,
)
from result_aggregator_service.contracts.enums import CLIENT_STATUS, FINAL_STATUSES, BatchStatus, Phase, ProcessingStage
from result_aggregator_service.contracts.fields import wire_time
from result_aggregator_service.domain.batch import (
    PHASE_ORDER,
    BatchFacts,
    EssayFacts,
    EssayPhaseStatus,
    current_phase,
    earliest_critical_outcome,
    essay_status,
    known_phases,
    phase_durations,
    phases_that_matter,
    processing_completed_at,
)
from result_aggregator_service.domain.facets import ErrorDetail, PhaseOutcome, PipelineEnd
from result_aggregator_service.domain.tally import BatchTally, error_count, last_updated, processing_started_at
from result_aggregator_service.storage.stored_facts import StoredBatch

#: Raised whenever the same facts give another answer, so that no client and no cache goes on with the older form.
REPRESENTATION = 2

_PHASES = (Phase.STUDENT_MATCHING, *PHASE_ORDER)


def present_batch(
    stored: StoredBatch, expected_phases: Sequence[Phase], essays: Iterable[str | EssayFacts]
) -> BatchDocument:
    """A registered batch with its members, which are given by id: as JSON that is shown as it is, or by their facts.

    Raises:
        ValueError: nobody has registered it, or it has no tally.
    """
    return {
        **present_summary(stored, expected_phases),
        # orjson puts a fragment where it stands, and takes it for what it is said to be.
        "essays": [
            cast(EssayDocument, orjson.Fragment(essay)) if isinstance(essay, str) else _essay(stored.facts, essay)
            for essay in essays
        ],
    }


def present_summary(stored: StoredBatch, expected_phases: Sequence[Phase]) -> BatchSummaryDocument:
    """A registered batch by its tally; its essays, loaded or not, are left out.

    Raises:
        ValueError: nobody has registered it, or it has no tally.
    """
    if stored.tally is None:
        raise ValueError(f"batch {stored.facts.batch_id} has no tally")
    return _summary(stored, stored.tally, expected_phases)


def _summary(stored: StoredBatch, tally: BatchTally, expected_phases: Sequence[Phase]) -> BatchSummaryDocument:
    batch, status = stored.facts, stored.judgement.overall_status
    registration = batch.registration
    if registration is None:
        raise ValueError(f"batch {batch.batch_id} is not registered")
    matter = phases_that_matter(batch, expected_phases)
    counts = tally.counts(matter)
    return {
        "batch_id": batch.batch_id,
        "user_id": registration.user_id,
        "org_id": registration.org_id,
        "class_id": registration.class_id,
        "course_code": registration.course_code,
        "assignment_id": batch.assignment.id if batch.assignment else None,
        "overall_status": status,
        "client_status": CLIENT_STATUS[status],
        "essay_count": registration.expected_essay_count,
        "completed_essay_count": counts.completed,
        "failed_essay_count": counts.failed,
        "error_count": error_count(batch, tally),
        "error_detail": _error_detail(batch, status, matter),
        "requested_pipeline": ",".join(known_phases(registration.requested_pipelines or ())) or None,
        "current_phase": current_phase(batch, status, expected_phases),
        "phases": _phases(batch, matter, tally),
        "student_prompt_ref": registration.student_prompt_ref,
        "created_at": _time(batch.created_at),
        "last_updated": wire_time(last_updated(batch, tally)),
        "processing_started_at": _time(processing_started_at(batch, tally)),
        "processing_completed_at": _time(processing_completed_at(batch) if status in FINAL_STATUSES else None),
    }


def _phases(batch: BatchFacts, matter: Sequence[Phase], tally: BatchTally) -> dict[Phase, PhaseDocument]:
    """Every phase that matters, or that something is known of."""
    durations = phase_durations(batch.outcomes.values(), batch.created_at) if batch.created_at is not None else {}
    shown: dict[str, PhaseDocument] = {}
    for phase in _PHASES:
        outcome, has_results = batch.outcomes.get(phase), phase in tally.first_result_at
        if phase not in matter and outcome is None and not has_results:
            continue
        counts = tally.counts_in(phase)
        shown[phase.value] = {
            "status": outcome.status if outcome else BatchStatus.PROCESSING_PIPELINES if has_results else None,
            "completed_count": counts.completed,
            "failed_count": counts.failed,
            "first_result_at": _time(tally.first_result_at.get(phase)),
            "last_result_at": _time(tally.last_result_at.get(phase)),
            "completed_at": _time(outcome.clock.at if outcome else None),
            "processing_time_seconds": durations.get(phase),
        }
    return cast(dict[Phase, PhaseDocument], shown)  # orjson takes only plain strings for keys


def _essay(batch: BatchFacts, essay: EssayFacts) -> EssayDocument:
    in_spellcheck, in_cj = (essay_status(batch, essay, phase) for phase in (Phase.SPELLCHECK, Phase.CJ_ASSESSMENT))
    in_nlp, in_feedback = (essay_status(batch, essay, phase) for phase in (Phase.NLP, Phase.AI_FEEDBACK))
    spellcheck = essay.spellcheck if _is_completed(in_spellcheck) else None
    metrics = essay.spellcheck_metrics if spellcheck else None
    cj = essay.cj if _is_completed(in_cj) else None
    grades = essay.cj_grades if cj else None
    nlp = essay.nlp if _is_completed(in_nlp) else None
    feedback = essay.ai_feedback if _is_completed(in_feedback) else None
    return {
        "essay_id": essay.essay_id,
        "filename": essay.file.name if essay.file else None,
        "file_upload_id": essay.file.upload_id if essay.file else None,
        "original_text_storage_id": essay.file.text_storage_id if essay.file else None,
        "last_updated": wire_time(essay.heard_at),
        "spellcheck_status": in_spellcheck.status if in_spellcheck else None,
        "spellcheck_completed_at": wire_time(in_spellcheck.at) if in_spellcheck else None,
        "spellcheck_error": _one_line(in_spellcheck),
        "spellcheck_error_detail": in_spellcheck.error if in_spellcheck else None,
        "spellcheck_correction_count": spellcheck.correction_count if spellcheck else None,
        "spellcheck_corrected_text_storage_id": spellcheck.corrected_text_storage_id if spellcheck else None,
        "spellcheck_metrics": metrics.values if metrics else None,
        "cj_assessment_status": in_cj.status if in_cj else None,
        "cj_assessment_completed_at": wire_time(in_cj.at) if in_cj else None,
        "cj_assessment_error": _one_line(in_cj),
        "cj_assessment_error_detail": in_cj.error if in_cj else None,
        "cj_rank": cj.rank if cj else None,
        "cj_score": cj.score if cj else None,
        "cj_comparison_count": grades.comparison_count if grades else None,
        "cj_letter_grade": grades.letter_grade if grades else None,
        "cj_normalized_score": grades.normalized_score if grades else None,
        "cj_confidence_score": grades.confidence_score if grades else None,
        "cj_confidence_label": grades.confidence_label if grades else None,
        "nlp_status": in_nlp.status if in_nlp else None,
        "nlp_completed_at": wire_time(in_nlp.at) if in_nlp else None,
        "nlp_error": _one_line(in_nlp),
        "nlp_error_detail": in_nlp.error if in_nlp else None,
        "nlp_lexical_diversity_score": nlp.lexical_diversity_score if nlp else None,
        "nlp_cohesion_score": nlp.cohesion_score if nlp else None,
        "nlp_grammatical_error_rate": nlp.grammatical_error_rate if nlp else None,
        "nlp_metrics": nlp.metrics if nlp else None,
        "ai_feedback_status": in_feedback.status if in_feedback else None,
        "ai_feedback_completed_at": wire_time(in_feedback.at) if in_feedback else None,
        "ai_feedback_error": _one_line(in_feedback),
        "ai_feedback_error_detail": in_feedback.error if in_feedback else None,
        "ai_feedback_storage_id": feedback.storage_id if feedback else None,
        "ai_feedback_details": feedback.details if feedback else None,
    }


def _is_completed(known: EssayPhaseStatus | None) -> bool:
    return known is not None and known.status is ProcessingStage.COMPLETED


def _error_detail(batch: BatchFacts, status: BatchStatus, matter: Sequence[Phase]) -> ErrorDetail | None:
    """Why the batch as a whole failed: the CJ service's failure message, else the critical phase or pipeline end."""
    if batch.cj_verdict is not None and batch.cj_verdict.error is not None:
        return batch.cj_verdict.error
    if status is not BatchStatus.FAILED_CRITICALLY:
        return None
    outcome = earliest_critical_outcome(batch, matter)
    if outcome is not None:
        return _critical_outcome_error(outcome)
    end = batch.ruling_end()
    return _pipeline_error(end) if end is not None else None


def _critical_outcome_error(outcome: PhaseOutcome) -> ErrorDetail:
    return {
        "error_code": "PHASE_FAILED_CRITICALLY",
        "message": f"{outcome.phase} failed critically for the batch",
        "correlation_id": str(outcome.correlation_id),
        "timestamp": wire_time(outcome.clock.at),
        "service": outcome.source_service,
        "operation": outcome.phase.value,
        "details": {"phase": outcome.phase.value, "outcome_event_id": str(outcome.clock.event_id)},
    }


def _pipeline_error(end: PipelineEnd) -> ErrorDetail:
    return {
        "error_code": "PIPELINE_FAILED_CRITICALLY",
        "message": "the pipeline over the batch ended failed_critically",
        "correlation_id": str(end.correlation_id),
        "timestamp": wire_time(end.clock.at),
        "service": None,
        "operation": "pipeline",
        "details": {"pipeline_event_id": str(end.clock.event_id)},
    }


def _one_line(known: EssayPhaseStatus | None) -> str | None:
    if known is None or known.error is None:
        return None
    return " ".join(f"{known.error['error_code']}: {known.error['message']}".splitlines())


def _time(at: datetime | None) -> str | None:
    return None if at is None else wire_time(at)
