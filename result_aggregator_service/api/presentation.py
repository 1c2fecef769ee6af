"""A batch's facts as the JSON that a client is shown (specification, section 4). Pure; linear in the essays.

What a result carries is shown only while the essay's status in that phase is completed. Absent is null.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from pydantic import JsonValue

from result_aggregator_service.contracts.enums import CLIENT_STATUS, FINAL_STATUSES, BatchStatus, Phase, ProcessingStage
from result_aggregator_service.contracts.fields import wire_time
from result_aggregator_service.domain.batch import (
    PHASE_ORDER,
    BatchFacts,
    EssayCounts,
    EssayFacts,
    EssayPhaseStatus,
    current_phase,
    earliest_critical_outcome,
    error_count,
    essay_status,
    known_phases,
    last_updated,
    phase_durations,
    phases_that_matter,
    processing_completed_at,
    processing_started_at,
)
from result_aggregator_service.domain.facets import ErrorDetail, PhaseOutcome, PipelineEnd
from result_aggregator_service.storage.projection_repository import StoredBatch

JsonObject = dict[str, JsonValue]
Statuses = Mapping[Phase, EssayPhaseStatus]

_PHASES = (Phase.STUDENT_MATCHING, *PHASE_ORDER)


def present_batch(stored: StoredBatch, expected_phases: Sequence[Phase]) -> JsonObject:
    """A registered batch, with its essays loaded."""
    batch, status = stored.facts, stored.judgement.overall_status
    registration = batch.registration
    if registration is None:
        raise ValueError(f"batch {batch.batch_id} is not registered")
    matter = phases_that_matter(batch, expected_phases)
    counts = EssayCounts.of(batch, matter)
    statuses = [_statuses(batch, essay) for essay in batch.members]
    return {
        "batch_id": batch.batch_id,
        "user_id": registration.user_id,
        "org_id": registration.org_id,
        "class_id": registration.class_id,
        "course_code": registration.course_code,
        "assignment_id": batch.assignment.id if batch.assignment else None,
        "overall_status": status.value,
        "client_status": CLIENT_STATUS[status].value,
        "essay_count": registration.expected_essay_count,
        "completed_essay_count": counts.completed,
        "failed_essay_count": counts.failed,
        "error_count": error_count(batch),
        "error_detail": _error_detail(batch, status, matter),
        "requested_pipeline": ",".join(known_phases(registration.requested_pipelines or ())) or None,
        "current_phase": current_phase(batch, status, expected_phases),
        "phases": _phases(batch, matter, statuses),
        "student_prompt_ref": registration.student_prompt_ref,
        "created_at": _time(batch.created_at),
        "last_updated": wire_time(last_updated(batch)),
        "processing_started_at": _time(processing_started_at(batch)),
        "processing_completed_at": _time(processing_completed_at(batch) if status in FINAL_STATUSES else None),
        "essays": [_essay(essay, known) for essay, known in zip(batch.members, statuses, strict=True)],
    }


def _statuses(batch: BatchFacts, essay: EssayFacts) -> Statuses:
    known = ((phase, essay_status(batch, essay, phase)) for phase in _PHASES)
    return {phase: status for phase, status in known if status is not None}


def _phases(batch: BatchFacts, matter: Sequence[Phase], statuses: Sequence[Statuses]) -> JsonObject:
    """Every phase that matters, or that something is known of."""
    outcomes = batch.outcomes.values()
    durations = phase_durations(outcomes, batch.created_at) if batch.created_at is not None else {}
    shown: JsonObject = {}
    for phase in _PHASES:
        outcome = batch.outcomes.get(phase)
        result_times = [own.clock.at for essay in batch.members if (own := essay.result(phase)) is not None]
        if phase not in matter and outcome is None and not result_times:
            continue
        stages = [known[phase].status for known in statuses if phase in known]
        status = outcome.status if outcome else BatchStatus.PROCESSING_PIPELINES if result_times else None
        shown[phase.value] = {
            "status": status,
            "completed_count": stages.count(ProcessingStage.COMPLETED),
            "failed_count": stages.count(ProcessingStage.FAILED),
            "first_result_at": _time(min(result_times, default=None)),
            "last_result_at": _time(max(result_times, default=None)),
            "completed_at": _time(outcome.clock.at if outcome else None),
            "processing_time_seconds": durations.get(phase),
        }
    return shown


def _essay(essay: EssayFacts, statuses: Statuses) -> JsonObject:
    spellcheck = essay.spellcheck if _is_completed(statuses, Phase.SPELLCHECK) else None
    metrics = essay.spellcheck_metrics if spellcheck else None
    cj = essay.cj if _is_completed(statuses, Phase.CJ_ASSESSMENT) else None
    grades = essay.cj_grades if cj else None
    nlp = essay.nlp if _is_completed(statuses, Phase.NLP) else None
    feedback = essay.ai_feedback if _is_completed(statuses, Phase.AI_FEEDBACK) else None
    return {
        "essay_id": essay.essay_id,
        "filename": essay.file.name if essay.file else None,
        "file_upload_id": essay.file.upload_id if essay.file else None,
        "original_text_storage_id": essay.file.text_storage_id if essay.file else None,
        "last_updated": wire_time(essay.heard_at),
        **_phase_of_essay(statuses, Phase.SPELLCHECK),
        "spellcheck_correction_count": spellcheck.correction_count if spellcheck else None,
        "spellcheck_corrected_text_storage_id": spellcheck.corrected_text_storage_id if spellcheck else None,
        "spellcheck_metrics": metrics.values if metrics else None,
        **_phase_of_essay(statuses, Phase.CJ_ASSESSMENT),
        "cj_rank": cj.rank if cj else None,
        "cj_score": cj.score if cj else None,
        "cj_comparison_count": grades.comparison_count if grades else None,
        "cj_letter_grade": grades.letter_grade if grades else None,
        "cj_normalized_score": grades.normalized_score if grades else None,
        "cj_confidence_score": grades.confidence_score if grades else None,
        "cj_confidence_label": grades.confidence_label if grades else None,
        **_phase_of_essay(statuses, Phase.NLP),
        "nlp_lexical_diversity_score": nlp.lexical_diversity_score if nlp else None,
        "nlp_cohesion_score": nlp.cohesion_score if nlp else None,
        "nlp_grammatical_error_rate": nlp.grammatical_error_rate if nlp else None,
        "nlp_metrics": nlp.metrics if nlp else None,
        **_phase_of_essay(statuses, Phase.AI_FEEDBACK),
        "ai_feedback_storage_id": feedback.storage_id if feedback else None,
        "ai_feedback_details": feedback.details if feedback else None,
    }


def _phase_of_essay(statuses: Statuses, phase: Phase) -> JsonObject:
    """What is shown alike of every phase: the status, when it was decided, and why where it is a failure."""
    known = statuses.get(phase)
    return {
        f"{phase}_status": known.status if known else None,
        f"{phase}_completed_at": _time(known.at if known else None),
        f"{phase}_error": _one_line(known.error) if known else None,
        f"{phase}_error_detail": known.error if known else None,
    }


def _is_completed(statuses: Statuses, phase: Phase) -> bool:
    known = statuses.get(phase)
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


def _one_line(error: ErrorDetail | None) -> str | None:
    if error is None:
        return None
    return " ".join(f"{error['error_code']}: {error['message']}".splitlines())


def _time(at: datetime | None) -> str | None:
    return None if at is None else wire_time(at)
