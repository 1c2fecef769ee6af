"""What a batch's summary needs of its essays, and nothing else: how many stand where, and their first and last times.

A function of the batch's facts and of no setting. It is kept with the batch, so that a summary reads no essay.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from result_aggregator_service.contracts.enums import BatchStatus, Phase
from result_aggregator_service.domain.batch import BatchFacts

UNKNOWN = "-"

_PLACES = {phase: place for place, phase in enumerate(Phase)}


@dataclass(frozen=True, slots=True)
class EssayCounts:
    """Essays completed in every phase that matters, and essays failed in any of them."""

    completed: int
    failed: int


@dataclass(frozen=True, slots=True)
class BatchTally:
    """A batch's members, counted.

    `stages` says how many stand in each combination of stages: a letter for each phase, in the order of `Phase`, `c`
    for completed, `f` for failed and `-` while nothing is known. The times are those of the members' own results by
    phase, of the earliest result of any kind, and of the latest message about any member. `awaited` are
    the phases whose outcome lists a member as processed that has no result of its own.
    """

    stages: Mapping[str, int]
    first_result_at: Mapping[Phase, datetime]
    last_result_at: Mapping[Phase, datetime]
    started_at: datetime | None
    heard_at: datetime | None
    awaited: frozenset[Phase] = frozenset()

    @classmethod
    def of(cls, batch: BatchFacts) -> "BatchTally":
        """Count the members of a batch whose essays are loaded."""
        stages = Counter(
            "".join(known[phase].status[0] if phase in known else UNKNOWN for phase in Phase)
            for known in batch.statuses
        )
        results = {
            phase: times
            for phase in Phase
            if (times := [own.clock.at for essay in batch.members if (own := essay.result(phase)) is not None])
        }
        return cls(
            stages,
            {phase: min(times) for phase, times in results.items()},
            {phase: max(times) for phase, times in results.items()},
            min((essay.started_at for essay in batch.members if essay.started_at is not None), default=None),
            max((essay.heard_at for essay in batch.members), default=None),
            batch.awaited,
        )

    def counts(self, matter: Collection[Phase]) -> EssayCounts:
        """What has become of the essays in the phases that matter."""
        completed = failed = 0
        for stages, essays in self.stages.items():
            reached = {stages[_PLACES[phase]] for phase in matter}
            if "f" in reached:
                failed += essays
            elif reached == {"c"}:
                completed += essays
        return EssayCounts(completed, failed)

    def counts_in(self, phase: Phase) -> EssayCounts:
        """Essays completed and essays failed in one phase."""
        return self.counts([phase])

    def failed(self) -> frozenset[Phase]:
        """The phases that a member failed in."""
        return frozenset(phase for phase, place in _PLACES.items() if any(s[place] == "f" for s in self.stages))

    def failed_results(self) -> int:
        """Pairs of an essay and a phase that it failed in."""
        return sum(stages.count("f") * essays for stages, essays in self.stages.items())


def error_count(batch: BatchFacts, tally: BatchTally) -> int:
    """Failed essay results of all phases, plus phases that failed critically."""
    critical = sum(outcome.status is BatchStatus.FAILED_CRITICALLY for outcome in batch.outcomes.values())
    return tally.failed_results() + critical


def processing_started_at(batch: BatchFacts, tally: BatchTally) -> datetime | None:
    """The earliest outcome, CJ failure, or result of a member."""
    return min((at for at in (batch.started_at, tally.started_at) if at is not None), default=None)


def last_updated(batch: BatchFacts, tally: BatchTally) -> datetime:
    """The latest message about the batch or its essays."""
    return batch.heard_at if tally.heard_at is None else max(batch.heard_at, tally.heard_at)
