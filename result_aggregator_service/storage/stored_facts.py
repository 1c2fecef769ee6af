"""Facts as they stand in the tables: the rows that facts are made, and the facts that rows hold.

What is read of a batch is one row, with its outcomes and its ends as arrays in it; `batch_columns` asks for it and
`batch_of` takes it. Who does not look at the lists of essays, which grow with the batch, need not read them.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from result_aggregator_service.contracts.enums import BatchStatus, Phase
from result_aggregator_service.domain.announcements import assessment_id
from result_aggregator_service.domain.batch import BatchFacts, EssayFacts
from result_aggregator_service.domain.event import Clock
from result_aggregator_service.domain.facets import (
    AIFeedbackResult,
    Assessment,
    Assignment,
    CJGrades,
    CJResult,
    CJVerdict,
    Columns,
    EssayFile,
    NlpResult,
    PhaseOutcome,
    PipelineEnd,
    RankedEssayFact,
    Registration,
    SpellcheckMetrics,
    SpellcheckResult,
)
from result_aggregator_service.domain.tally import BatchTally
from result_aggregator_service.storage.tables import batch_results
from result_aggregator_service.storage.tallies import from_document

#: The lists of essays of a batch and of its outcomes.
LISTS_OF_ESSAYS = frozenset({"essay_ids", "anchor_ids", "processed_essay_ids", "failed_essay_ids"})
# In the order of the functions that take them.
_OF_OUTCOME = (
    "outcome_at",
    "outcome_event_id",
    "phase",
    "status",
    "processed_essay_ids",
    "failed_essay_ids",
    "source_service",
    "correlation_id",
    "traceparent",
)
_OF_END = (
    "ended_at",
    "event_id",
    "completed_phases",
    "final_status",
    "successful_essay_count",
    "failed_essay_count",
    "processing_duration_seconds",
    "correlation_id",
    "traceparent",
)
#: What `assessment_of` takes after the batch's id, as SQL lists it.
ASSESSMENT_COLUMNS = "assessed_at, event_id, job_id, graded, rankings, correlation_id, traceparent"


@dataclass(frozen=True, slots=True)
class Judgement:
    """What is derived of a batch at each change: its status, and when its grace runs out (caught-up seconds)."""

    batch_id: str
    overall_status: BatchStatus
    horizon: Clock | None
    grace_horizon: Clock | None
    grace_due: float | None


@dataclass(frozen=True, slots=True)
class StoredBatch:
    """A batch's facts, with what was derived of them when they last changed.

    `version` is another one whenever the batch's answer may be another one. Until the batch changes for the first time
    since migration 0003, it is nil, and `tally` None.
    """

    facts: BatchFacts
    judgement: Judgement
    version: UUID
    tally: BatchTally | None


def batch_columns(*, lists: Collection[str] = LISTS_OF_ESSAYS) -> str:
    """SQL for what `batch_of` takes of the batch `b`; lists of essays other than these seem to be empty."""

    def value(column: str) -> str:
        return column if column in lists or column not in LISTS_OF_ESSAYS else "'[]'::jsonb"

    def values(columns: Sequence[str]) -> str:
        return ", ".join(map(value, columns))

    return f"""
        {", ".join(f"{value(column.name)} AS {column.name}" for column in batch_results.columns)},
        ARRAY(SELECT ROW({values(_OF_OUTCOME)}) FROM phase_outcomes WHERE batch_id = b.batch_id) AS outcomes,
        ARRAY(SELECT ROW({values(_OF_END)}) FROM pipeline_ends WHERE batch_id = b.batch_id ORDER BY ended_at, event_id)
            AS ends
    """


def batch_of(row: Columns) -> StoredBatch:
    """A batch without its essays, of a row of `batch_columns`."""
    batch_id = row["batch_id"]
    outcomes = [_outcome(batch_id, *values) for values in row["outcomes"]]
    facts = BatchFacts(
        batch_id=batch_id,
        heard_at=row["heard_at"],
        created_at=row["created_at"],
        started_at=row["started_at"],
        registration=Registration.from_row(row),
        assignment=Assignment.from_row(row),
        cj_verdict=CJVerdict.from_row(row),
        grace_horizon=_clock(row, "grace_horizon"),
        anchor_ids=frozenset(row["anchor_ids"]),
        outcomes={outcome.phase: outcome for outcome in outcomes},
        pipeline_ends=[_end(batch_id, *values) for values in row["ends"]],
    )
    judgement = Judgement(
        batch_id,
        BatchStatus(row["overall_status"]),
        _clock(row, "horizon"),
        facts.grace_horizon,
        row["grace_due"],
    )
    return StoredBatch(facts, judgement, row["version"], row["tally"] and from_document(row["tally"]))


def _clock(row: Columns, prefix: str) -> Clock | None:
    at = row[f"{prefix}_at"]
    return None if at is None else Clock(at, row[f"{prefix}_event_id"])


def judgement_row(judgement: Judgement) -> dict[str, Any]:
    """What a judgement is in its batch's row, but for the tally."""
    horizon, grace = judgement.horizon or (None, None), judgement.grace_horizon or (None, None)
    return {
        "batch_id": judgement.batch_id,
        "overall_status": judgement.overall_status,
        "horizon_at": horizon[0],
        "horizon_event_id": horizon[1],
        "grace_horizon_at": grace[0],
        "grace_horizon_event_id": grace[1],
        "grace_due": judgement.grace_due,
    }


def essay_of(row: Columns) -> EssayFacts:
    """An essay, of a row of `essay_results`."""
    return EssayFacts(
        essay_id=row["essay_id"],
        batch_id=row["batch_id"],
        heard_at=row["heard_at"],
        started_at=row["started_at"],
        file=EssayFile.from_row(row),
        spellcheck=SpellcheckResult.from_row(row),
        spellcheck_metrics=SpellcheckMetrics.from_row(row),
        cj=CJResult.from_row(row),
        cj_grades=CJGrades.from_row(row),
        nlp=NlpResult.from_row(row),
        ai_feedback=AIFeedbackResult.from_row(row),
    )


def _outcome(
    batch_id: str,
    at: datetime,
    event_id: UUID,
    phase: str,
    status: str,
    processed_essay_ids: Sequence[str],
    failed_essay_ids: Sequence[str],
    source_service: str,
    correlation_id: UUID,
    traceparent: str | None,
) -> PhaseOutcome:
    return PhaseOutcome(
        clock=Clock(at, event_id),
        batch_id=batch_id,
        phase=Phase(phase),
        status=BatchStatus(status),
        processed_essay_ids=frozenset(processed_essay_ids),
        failed_essay_ids=frozenset(failed_essay_ids),
        source_service=source_service,
        correlation_id=correlation_id,
        traceparent=traceparent,
    )


def outcome_row(outcome: PhaseOutcome) -> dict[str, Any]:
    """The row of an outcome."""
    return {
        "batch_id": outcome.batch_id,
        "phase": outcome.phase,
        "outcome_at": outcome.clock.at,
        "outcome_event_id": outcome.clock.event_id,
        "status": outcome.status,
        "processed_essay_ids": sorted(outcome.processed_essay_ids),
        "failed_essay_ids": sorted(outcome.failed_essay_ids),
        "source_service": outcome.source_service,
        "correlation_id": outcome.correlation_id,
        "traceparent": outcome.traceparent,
    }


def _end(
    batch_id: str,
    at: datetime,
    event_id: UUID,
    completed_phases: Sequence[str],
    final_status: str,
    successful_essay_count: int | None,
    failed_essay_count: int | None,
    processing_duration_seconds: float | None,
    correlation_id: UUID,
    traceparent: str | None,
) -> PipelineEnd:
    return PipelineEnd(
        clock=Clock(at, event_id),
        batch_id=batch_id,
        completed_phases=[Phase(phase) for phase in completed_phases],
        final_status=BatchStatus(final_status),
        successful_essay_count=successful_essay_count,
        failed_essay_count=failed_essay_count,
        processing_duration_seconds=processing_duration_seconds,
        correlation_id=correlation_id,
        traceparent=traceparent,
    )


def end_row(end: PipelineEnd) -> dict[str, Any]:
    """The row of a pipeline's end."""
    return {
        "event_id": end.clock.event_id,
        "batch_id": end.batch_id,
        "ended_at": end.clock.at,
        "completed_phases": end.completed_phases,
        "final_status": end.final_status,
        "successful_essay_count": end.successful_essay_count,
        "failed_essay_count": end.failed_essay_count,
        "processing_duration_seconds": end.processing_duration_seconds,
        "correlation_id": end.correlation_id,
        "traceparent": end.traceparent,
    }


def assessment_of(
    batch_id: str,
    at: datetime,
    event_id: UUID,
    job_id: str,
    graded: bool,
    rankings: Sequence[dict[str, Any]],
    correlation_id: UUID,
    traceparent: str | None,
) -> Assessment:
    """A ranking, of the values of `ASSESSMENT_COLUMNS`."""
    return Assessment(
        clock=Clock(at, event_id),
        batch_id=batch_id,
        job_id=job_id,
        graded=graded,
        rankings=[RankedEssayFact(**ranking) for ranking in rankings],
        correlation_id=correlation_id,
        traceparent=traceparent,
    )


def assessment_row(assessment: Assessment) -> dict[str, Any]:
    """The row of a ranking, but for its place."""
    return {
        "batch_id": assessment.batch_id,
        "job_id": assessment.job_id,
        "graded": assessment.graded,
        "event_id": assessment.clock.event_id,
        "assessed_at": assessment.clock.at,
        "rankings": assessment.rankings,
        "correlation_id": assessment.correlation_id,
        "traceparent": assessment.traceparent,
        "announcement_id": assessment_id(assessment.batch_id, assessment.job_id),
    }
