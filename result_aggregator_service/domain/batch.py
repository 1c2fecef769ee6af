"""What follows from a batch's facts: its essays' statuses, whether it is finished and how. Nothing here is stored
but what these functions say of stored facets, so that the same facts always give the same answer.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from functools import cached_property

from result_aggregator_service.contracts.enums import BatchStatus, Phase, ProcessingStage
from result_aggregator_service.contracts.fields import seconds_between, wire_time
from result_aggregator_service.domain.event import Clock
from result_aggregator_service.domain.facets import (
    AIFeedbackResult,
    Assignment,
    CJGrades,
    CJResult,
    CJVerdict,
    ErrorDetail,
    EssayFile,
    NlpResult,
    PhaseOutcome,
    PipelineEnd,
    Registration,
    SpellcheckMetrics,
    SpellcheckResult,
)

#: In which order a batch goes through the phases that essays have results in (specification, section 2).
PHASE_ORDER = (Phase.SPELLCHECK, Phase.NLP, Phase.AI_FEEDBACK, Phase.CJ_ASSESSMENT)

_PHASES = {phase.value: phase for phase in Phase}

EssayResult = SpellcheckResult | CJResult | NlpResult | AIFeedbackResult


@dataclass(frozen=True, slots=True)
class EssayFacts:
    """An essay's facets; those not needed for a decision may be left out when it is only to be decided."""

    essay_id: str
    batch_id: str | None
    heard_at: datetime
    started_at: datetime | None = None
    file: EssayFile | None = None
    spellcheck: SpellcheckResult | None = None
    spellcheck_metrics: SpellcheckMetrics | None = None
    cj: CJResult | None = None
    cj_grades: CJGrades | None = None
    nlp: NlpResult | None = None
    ai_feedback: AIFeedbackResult | None = None

    def result(self, phase: Phase) -> EssayResult | None:
        """The essay's own result in a phase; `student_matching` has none."""
        match phase:
            case Phase.SPELLCHECK:
                return self.spellcheck
            case Phase.CJ_ASSESSMENT:
                return self.cj
            case Phase.NLP:
                return self.nlp
            case Phase.AI_FEEDBACK:
                return self.ai_feedback
            case Phase.STUDENT_MATCHING:
                return None


@dataclass(frozen=True)
class BatchFacts:
    """Everything known of a batch. `essays` holds those that are in it, its anchors among them."""

    batch_id: str
    heard_at: datetime
    created_at: datetime | None = None
    started_at: datetime | None = None
    registration: Registration | None = None
    assignment: Assignment | None = None
    cj_verdict: CJVerdict | None = None
    grace_horizon: Clock | None = None
    anchor_ids: frozenset[str] = frozenset()
    outcomes: Mapping[Phase, PhaseOutcome] = field(default_factory=dict)
    pipeline_ends: Sequence[PipelineEnd] = ()
    essays: Mapping[str, EssayFacts] = field(default_factory=dict)
    # known beforehand, where the essays are not loaded
    has_results: bool = False
    counted_awaited: frozenset[Phase] | None = None
    counted_failed: frozenset[Phase] | None = None

    def with_(
        self,
        *,
        has_results: bool,
        grace_horizon: Clock | None,
        awaited: frozenset[Phase] | None = None,
        failed: frozenset[Phase] | None = None,
    ) -> "BatchFacts":
        """The same facts, with these known besides."""
        return replace(
            self,
            has_results=has_results,
            grace_horizon=grace_horizon,
            counted_awaited=awaited,
            counted_failed=failed,
        )

    @cached_property
    def members(self) -> list[EssayFacts]:
        """The batch's own essays, by id; anchors are never among them."""
        return sorted(
            (essay for essay in self.essays.values() if essay.essay_id not in self.anchor_ids),
            key=lambda essay: essay.essay_id,
        )

    @cached_property
    def statuses(self) -> "list[EssayStatuses]":
        """Each member's statuses, in the order of `members`."""
        return [
            {phase: status for phase in Phase if (status := essay_status(self, essay, phase)) is not None}
            for essay in self.members
        ]

    @cached_property
    def awaited(self) -> frozenset[Phase]:
        """The phases whose outcome lists a member as processed that has no result of its own.

        One that is in another batch now is not waited for: its result would bring nobody to look at this one.
        """
        if self.counted_awaited is not None:
            return self.counted_awaited
        return frozenset(
            phase
            for phase, outcome in self.outcomes.items()
            if phase is not Phase.STUDENT_MATCHING
            and any(e.result(phase) is None and e.essay_id in outcome.processed_essay_ids for e in self.members)
        )

    @cached_property
    def failed(self) -> frozenset[Phase]:
        """The phases that a member failed in."""
        if self.counted_failed is not None:
            return self.counted_failed
        return frozenset(
            phase
            for statuses in self.statuses
            for phase, known in statuses.items()
            if known.status is ProcessingStage.FAILED
        )

    def last_end(self) -> PipelineEnd | None:
        """The end of the last pipeline, by clock."""
        return max(self.pipeline_ends, key=lambda end: end.clock, default=None)

    def ruling_end(self) -> PipelineEnd | None:
        """The last pipeline's end, if no winning outcome is later than it: then it has the last word on the batch."""
        end = self.last_end()
        return end if end is not None and not self.outcomes_after(end) else None

    def outcomes_after(self, end: PipelineEnd) -> list[PhaseOutcome]:
        """The winning outcomes later than a pipeline's end: another run has begun."""
        return [outcome for outcome in self.outcomes.values() if outcome.clock > end.clock]

    def horizon(self) -> Clock | None:
        """The latest clock among winning outcomes and pipeline ends; grace given at one horizon ends with the next."""
        clocks = [outcome.clock for outcome in self.outcomes.values()] + [end.clock for end in self.pipeline_ends]
        return max(clocks, default=None)


@dataclass(frozen=True, slots=True)
class EssayPhaseStatus:
    """An essay's status in a phase, the time of the message that decided it, and why it failed."""

    status: ProcessingStage
    at: datetime
    error: ErrorDetail | None


EssayStatuses = Mapping[Phase, EssayPhaseStatus]
"""An essay's statuses, in the phases in which anything is known of it."""


class FinishedBy(StrEnum):
    """What finished a batch."""

    CRITICAL_PHASE = "critical_phase"
    OUTCOMES = "outcomes"
    PIPELINE = "pipeline"
    GRACE = "grace"


def known_phases(words: Iterable[str]) -> list[Phase]:
    """The phases among some words, each once, in the words' order; other words are ignored."""
    return [_PHASES[word] for word in dict.fromkeys(words) if word in _PHASES]


def phases_that_matter(batch: BatchFacts, expected_phases: Sequence[Phase]) -> list[Phase]:
    """The phases that the batch has to go through to be finished, sorted by name."""
    phases: set[Phase] = {phase for end in batch.pipeline_ends for phase in end.completed_phases}
    if not phases and batch.registration is not None:
        phases = set(known_phases(batch.registration.requested_pipelines or ()))
    if not phases:
        phases = set(expected_phases)
    last_end = batch.last_end()
    if last_end is not None:
        phases |= {outcome.phase for outcome in batch.outcomes_after(last_end)}
    return sorted(phases)


def essay_status(batch: BatchFacts, essay: EssayFacts, phase: Phase) -> EssayPhaseStatus | None:
    """An essay's status in a phase; None while nothing is known."""
    own = essay.result(phase)
    outcome = batch.outcomes.get(phase)
    if (
        outcome is not None
        and essay.essay_id in outcome.failed_essay_ids
        and (own is None or own.clock < outcome.clock)
    ):
        return EssayPhaseStatus(
            ProcessingStage.FAILED, outcome.clock.at, _own_error(batch, own, phase) or _outcome_error(outcome)
        )
    if own is not None:
        return EssayPhaseStatus(own.status, own.clock.at, _error_of(own))
    if phase is Phase.CJ_ASSESSMENT and batch.cj_verdict is not None and batch.cj_verdict.error is not None:
        return EssayPhaseStatus(ProcessingStage.FAILED, batch.cj_verdict.clock.at, batch.cj_verdict.error)
    if phase is Phase.STUDENT_MATCHING and outcome is not None and essay.essay_id in outcome.processed_essay_ids:
        return EssayPhaseStatus(ProcessingStage.COMPLETED, outcome.clock.at, None)
    return None


def _error_of(result: EssayResult | None) -> ErrorDetail | None:
    return None if result is None or isinstance(result, NlpResult) else result.error


def _own_error(batch: BatchFacts, own: EssayResult | None, phase: Phase) -> ErrorDetail | None:
    if own is None and phase is Phase.CJ_ASSESSMENT and batch.cj_verdict is not None:
        return batch.cj_verdict.error
    return _error_of(own)


def _outcome_error(outcome: PhaseOutcome) -> ErrorDetail:
    return {
        "error_code": "PHASE_OUTCOME_FAILED",
        "message": f"listed as failed by the {outcome.phase} outcome {outcome.clock.event_id}",
        "correlation_id": str(outcome.correlation_id),
        "timestamp": wire_time(outcome.clock.at),
        "service": outcome.source_service,
        "operation": outcome.phase.value,
        "details": {"outcome_event_id": str(outcome.clock.event_id)},
    }


def finished_by(batch: BatchFacts, expected_phases: Sequence[Phase]) -> FinishedBy | None:
    """What finished the batch, the strongest reason first; None while it is not."""
    matter = phases_that_matter(batch, expected_phases)
    if earliest_critical_outcome(batch, matter) is not None:
        return FinishedBy.CRITICAL_PHASE
    if outcomes_and_results_are_in(batch, matter):
        return FinishedBy.OUTCOMES
    end = batch.ruling_end()
    if end is not None and end.final_status in (BatchStatus.FAILED_CRITICALLY, BatchStatus.CANCELLED):
        return FinishedBy.PIPELINE
    if batch.grace_horizon is not None and batch.grace_horizon == batch.horizon():
        return FinishedBy.GRACE
    return None


def earliest_critical_outcome(batch: BatchFacts, matter: Collection[Phase]) -> PhaseOutcome | None:
    """The first, by clock, of the phases that matter to have failed critically."""
    return min(
        (
            outcome
            for outcome in batch.outcomes.values()
            if outcome.phase in matter and outcome.status is BatchStatus.FAILED_CRITICALLY
        ),
        key=lambda outcome: outcome.clock,
        default=None,
    )


def outcomes_and_results_are_in(batch: BatchFacts, matter: Collection[Phase]) -> bool:
    """Whether each phase that matters has its outcome, and every member listed there as processed its own result."""
    return all(phase in batch.outcomes for phase in matter) and batch.awaited.isdisjoint(matter)


def overall_status(batch: BatchFacts, expected_phases: Sequence[Phase]) -> BatchStatus:
    """The batch's status."""
    if finished_by(batch, expected_phases) is not None:
        return _final_status(batch, expected_phases)
    begun = (
        batch.started_at is not None
        or bool(batch.pipeline_ends)
        or batch.has_results
        or any(essay.started_at is not None for essay in batch.members)
    )
    return BatchStatus.PROCESSING_PIPELINES if begun else BatchStatus.AWAITING_CONTENT_VALIDATION


def _final_status(batch: BatchFacts, expected_phases: Sequence[Phase]) -> BatchStatus:
    end = batch.ruling_end()
    if end is not None:
        return end.final_status
    matter = phases_that_matter(batch, expected_phases)
    if earliest_critical_outcome(batch, matter) is not None:
        return BatchStatus.FAILED_CRITICALLY
    outcome_failed = any(
        phase in batch.outcomes and batch.outcomes[phase].status is BatchStatus.COMPLETED_WITH_FAILURES
        for phase in matter
    )
    if outcome_failed or not batch.failed.isdisjoint(matter):
        return BatchStatus.COMPLETED_WITH_FAILURES
    return BatchStatus.COMPLETED_SUCCESSFULLY


def current_phase(batch: BatchFacts, status: BatchStatus, expected_phases: Sequence[Phase]) -> Phase | None:
    """While processing, the first phase that matters without an outcome."""
    if status is not BatchStatus.PROCESSING_PIPELINES:
        return None
    matter = phases_that_matter(batch, expected_phases)
    return next((phase for phase in PHASE_ORDER if phase in matter and phase not in batch.outcomes), None)


def processing_completed_at(batch: BatchFacts) -> datetime | None:
    """When a finished batch was done: the last pipeline's end, else the latest winning outcome."""
    end = batch.last_end()
    if end is not None:
        return end.clock.at
    return max((outcome.clock.at for outcome in batch.outcomes.values()), default=None)


def phase_durations(outcomes: Iterable[PhaseOutcome], created_at: datetime) -> dict[Phase, float]:
    """Seconds each phase took: from the previous outcome by time, the first from `created_at`, to its own."""
    durations: dict[Phase, float] = {}
    previous = created_at
    for outcome in sorted(outcomes, key=lambda outcome: outcome.clock):
        durations[outcome.phase] = seconds_between(previous, outcome.clock.at)
        previous = outcome.clock.at
    return durations
