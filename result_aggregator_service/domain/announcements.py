"""What is announced, and under which identity (specification, section 3). Content is a function of the identity.

Times, correlation id and trace are those of the latest message that the identity names.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import NAMESPACE_URL, UUID, uuid5

from pydantic import BaseModel

from result_aggregator_service.contracts import topics
from result_aggregator_service.contracts.enums import BatchStatus, Phase
from result_aggregator_service.contracts.envelope import PublishedEnvelope
from result_aggregator_service.contracts.fields import seconds_between
from result_aggregator_service.contracts.published import (
    BatchAssessmentCompleted,
    BatchResultsReady,
    PhaseResult,
    PublishedSystemMetadata,
    RankedEssay,
)
from result_aggregator_service.domain.batch import (
    BatchFacts,
    earliest_critical_outcome,
    outcomes_and_results_are_in,
    phase_durations,
    phases_that_matter,
)
from result_aggregator_service.domain.facets import Assessment, PhaseOutcome, PipelineEnd


@dataclass(frozen=True, slots=True)
class Announcement:
    """A message to be published once: its key on Kafka, its envelope and the trace it belongs to."""

    topic: str
    key: str
    batch_id: str
    envelope: PublishedEnvelope[BaseModel]
    traceparent: str | None

    @property
    def event_id(self) -> UUID:
        """The identity that the ledger remembers."""
        return self.envelope.event_id


def announcement_id(name: str) -> UUID:
    """An announcement's identity: UUIDv5 of its name in the URL namespace."""
    return uuid5(NAMESPACE_URL, name)


def assessment_id(batch_id: str, job_id: str) -> UUID:
    """The identity of the announcement of a CJ job's rankings."""
    return announcement_id(f"huleedu/ras/assessment/{batch_id}/{job_id}")


def pipeline_results_id(batch: BatchFacts, status: BatchStatus) -> UUID | None:
    """The identity of a finish by the last pipeline's end, where that end rules; once announced, nothing else is."""
    end = batch.ruling_end()
    return None if end is None else _pipeline_id(batch.batch_id, status, end.clock.event_id)


def _pipeline_id(batch_id: str, status: BatchStatus, end_event_id: UUID) -> UUID:
    return announcement_id(f"huleedu/ras/results/{batch_id}/{status}/pipeline={end_event_id}")


def results_announcement(
    batch: BatchFacts, status: BatchStatus, expected_phases: Sequence[Phase], source_service: str
) -> Announcement | None:
    """The announcement of a finished batch's results; None while it is not registered."""
    if batch.registration is None or batch.created_at is None:
        return None
    matter = phases_that_matter(batch, expected_phases)
    critical = earliest_critical_outcome(batch, matter) if status is BatchStatus.FAILED_CRITICALLY else None
    end = batch.last_end()
    outcomes = [critical] if critical else [batch.outcomes[phase] for phase in matter if phase in batch.outcomes]
    processed_in_all = _processed_in_all(batch, outcomes)
    if critical is not None or end is None or outcomes_and_results_are_in(batch, matter):
        cause: PhaseOutcome | PipelineEnd = max(outcomes, key=lambda outcome: outcome.clock)
        named = ",".join(f"{outcome.phase}={outcome.clock.event_id}" for outcome in outcomes)
        event_id = announcement_id(f"huleedu/ras/results/{batch.batch_id}/{status}/{named}")
        completed = processed_in_all
    else:
        cause = end
        event_id = _pipeline_id(batch.batch_id, status, end.clock.event_id)
        completed = processed_in_all if len(outcomes) == len(matter) else end.successful_essay_count or 0
    at = cause.clock.at
    durations = phase_durations(outcomes, batch.created_at)
    return Announcement(
        topic=topics.BATCH_RESULTS_READY,
        key=batch.batch_id,
        batch_id=batch.batch_id,
        envelope=PublishedEnvelope[BaseModel](
            event_id=event_id,
            event_type=topics.BATCH_RESULTS_READY,
            event_timestamp=at,
            source_service=source_service,
            correlation_id=cause.correlation_id,
            data=BatchResultsReady(
                entity_id=batch.batch_id,
                timestamp=at,
                status=status,
                system_metadata=PublishedSystemMetadata(
                    entity_id=batch.batch_id, timestamp=at, event="batch.results.ready"
                ),
                batch_id=batch.batch_id,
                user_id=batch.registration.user_id,
                total_essays=batch.registration.expected_essay_count,
                completed_essays=completed,
                phase_results={
                    outcome.phase: PhaseResult(
                        phase_name=outcome.phase,
                        status=outcome.status,
                        completed_count=len(outcome.processed_essay_ids - batch.anchor_ids),
                        failed_count=len(outcome.failed_essay_ids - batch.anchor_ids),
                        processing_time_seconds=durations[outcome.phase],
                    )
                    for outcome in outcomes
                },
                overall_status=status,
                processing_duration_seconds=seconds_between(batch.created_at, at),
            ),
        ),
        traceparent=cause.traceparent,
    )


def _processed_in_all(batch: BatchFacts, outcomes: Collection[PhaseOutcome]) -> int:
    """How many essays all of the outcomes list as processed."""
    if not outcomes:
        return 0
    return len(frozenset.intersection(*(outcome.processed_essay_ids for outcome in outcomes)) - batch.anchor_ids)


def assessment_announcement(batch: BatchFacts, assessment: Assessment, source_service: str) -> Announcement | None:
    """The announcement of a CJ job's rankings; None while the batch is not registered or no student is ranked."""
    if batch.registration is None:
        return None
    students = {essay.essay_id for essay in batch.members}
    ranked = [
        ranking
        for ranking in assessment.rankings
        if (assessment.graded or ranking.essay_id in students) and ranking.essay_id not in batch.anchor_ids
    ]
    if not ranked:
        return None
    at = assessment.clock.at
    return Announcement(
        topic=topics.BATCH_ASSESSMENT_COMPLETED,
        key=batch.batch_id,
        batch_id=batch.batch_id,
        envelope=PublishedEnvelope[BaseModel](
            event_id=assessment_id(batch.batch_id, assessment.job_id),
            event_type=topics.BATCH_ASSESSMENT_COMPLETED,
            event_timestamp=at,
            source_service=source_service,
            correlation_id=assessment.correlation_id,
            data=BatchAssessmentCompleted(
                entity_id=batch.batch_id,
                timestamp=at,
                system_metadata=PublishedSystemMetadata(
                    entity_id=batch.batch_id, timestamp=at, event="batch.assessment.completed"
                ),
                batch_id=batch.batch_id,
                user_id=batch.registration.user_id,
                assessment_job_id=assessment.job_id,
                rankings_summary=[
                    RankedEssay(
                        essay_id=ranking.essay_id,
                        rank=ranking.rank,
                        score=ranking.score,
                        letter_grade=ranking.letter_grade,
                        confidence_score=ranking.confidence_score,
                        confidence_label=ranking.confidence_label,
                    )
                    for ranking in ranked
                ],
            ),
        ),
        traceparent=assessment.traceparent,
    )
