"""The read model in memory: what the database does with facts, said in the fewest words and on a single thread.

It merges as the upserts merge, finds an essay's batch by the rule of `docs/semantics.md`, and after each poll judges
the batches that the poll touched and no others, as the service does. The database is compared with it.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from result_aggregator_service.contracts.enums import BatchStatus, Phase
from result_aggregator_service.domain.announcements import (
    Announcement,
    assessment_announcement,
    pipeline_results_id,
    results_announcement,
)
from result_aggregator_service.domain.batch import (
    BatchFacts,
    EssayFacts,
    EssayPhaseStatus,
    FinishedBy,
    current_phase,
    essay_status,
    finished_by,
    overall_status,
    phases_that_matter,
    processing_completed_at,
)
from result_aggregator_service.domain.event import Clock, Event
from result_aggregator_service.domain.facets import (
    AIFeedbackResult,
    Assignment,
    CJGrades,
    CJResult,
    CJVerdict,
    EssayFile,
    Facet,
    Listing,
    NlpResult,
    Placement,
    Registration,
    SpellcheckMetrics,
    SpellcheckResult,
    later,
)
from result_aggregator_service.domain.fold import BatchRow, Facts, Row, fold
from result_aggregator_service.domain.tally import (
    BatchTally,
    EssayCounts,
    error_count,
    last_updated,
    processing_started_at,
)
from tests.unit.domain.messages import EXPECTED, SERVICE

AnyFacet = TypeVar("AnyFacet", bound=Facet)


@dataclass(frozen=True)
class View:
    """All that can be seen of a batch once it is settled; the status is the one written down when it was judged."""

    facts: BatchFacts
    members: list[str]
    status: BatchStatus
    finished_by: FinishedBy | None
    matter: list[Phase]
    counts: EssayCounts
    error_count: int
    current_phase: Phase | None
    started_at: datetime | None
    completed_at: datetime | None
    last_updated: datetime
    essays: dict[str, dict[Phase, EssayPhaseStatus | None]]


class ReadModel:
    """Folds polls, and tells what follows."""

    def __init__(self, expected: Sequence[Phase] = EXPECTED) -> None:
        self.expected = expected
        self.facts = Facts()
        self.grace: dict[str, Clock] = {}
        self.announced: list[Announcement] = []
        self._statuses: dict[str, BatchStatus] = {}  # as they were judged last
        self._waiting: set[str] = set()  # for the grace to run out, as they were judged last
        self._places: dict[str, str | None] = {}  # each essay's batch, until something comes in
        self._batches: dict[str, BatchFacts] = {}  # as they stand until something comes in

    # What comes in.

    def poll(self, *events: Event) -> list[Announcement]:
        """Fold a poll by itself, merge it, judge what it touched; returns what is announced now."""
        return self.settle(self.merge(fold(events)))

    def merge(self, facts: Facts) -> set[str]:
        """Take facts as the upserts take them.

        Returns the batches that they touch: those that they speak of, those that hold an essay of which they speak,
        and those that an essay left or entered.
        """
        before = self._places
        for batch_id, batch in facts.batches.items():
            known = self.facts.batches.setdefault(batch_id, BatchRow())
            _merge_row(known, batch)
            known.anchor_ids |= batch.anchor_ids
            if batch.created_at is not None:
                known.created(batch.created_at)
        for essay_id, essay in facts.essays.items():
            _merge_row(self.facts.essays.setdefault(essay_id, Row()), essay)
        for key, outcome in facts.outcomes.items():
            self.facts.outcomes[key] = later(self.facts.outcomes.get(key), outcome)
        for event_id, end in facts.pipeline_ends.items():
            self.facts.pipeline_ends.setdefault(event_id, end)
        for event_id, assessment in facts.assessments.items():
            self.facts.assessments.setdefault(event_id, assessment)
        self._batches.clear()
        self._places = {essay_id: self.batch_of(essay_id) for essay_id in self.facts.essays}
        moved = {essay_id for essay_id, batch_id in self._places.items() if before.get(essay_id) != batch_id}
        places = {place.get(essay_id) for essay_id in facts.essays.keys() | moved for place in (before, self._places)}
        return {batch_id for batch_id in facts.batches.keys() | places if batch_id is not None}

    def run_grace(self) -> list[Announcement]:
        """The grace of every batch that waits after a pipeline's end runs out; returns what is announced now."""
        waiting = set(self._waiting)
        for batch_id in waiting:
            horizon = self.batch(batch_id).horizon()
            assert horizon is not None
            self.grace[batch_id] = horizon
            del self._batches[batch_id]
        return self.settle(waiting)

    def settle(self, touched: Collection[str]) -> list[Announcement]:
        """Judge some batches: write down what follows, announce what is to be announced and has not been."""
        known = self.ledger
        fresh: list[Announcement] = []
        for batch_id in sorted(touched):
            batch = self.batch(batch_id)
            finished = finished_by(batch, self.expected)
            status = self._statuses[batch_id] = overall_status(batch, self.expected)
            if batch_id in self.grace and finished is not FinishedBy.GRACE:
                del self.grace[batch_id], self._batches[batch_id]
            if finished is None:
                if batch.pipeline_ends:
                    self._waiting.add(batch_id)
                continue
            self._waiting.discard(batch_id)
            announcement = results_announcement(batch, status, self.expected, SERVICE)
            if announcement is not None and not known & {announcement.event_id, pipeline_results_id(batch, status)}:
                fresh.append(announcement)
        for assessment in self.facts.assessments.values():
            if assessment.batch_id not in touched:
                continue
            announcement = assessment_announcement(self.batch(assessment.batch_id), assessment, SERVICE)
            if announcement is not None and announcement.event_id not in known:
                known.add(announcement.event_id)
                fresh.append(announcement)
        self.announced += fresh
        return fresh

    def assert_all_is_judged(self) -> None:
        """Every batch stands as it would if it were judged at this moment, whatever the last poll touched."""
        written, waiting = dict(self._statuses), set(self._waiting)
        assert self.settle(self.facts.batches) == []
        assert (self._statuses, self._waiting) == (written, waiting)

    @property
    def ledger(self) -> set[UUID]:
        """The identities announced so far."""
        return {announcement.event_id for announcement in self.announced}

    # What can be seen.

    def batch_of(self, essay_id: str) -> str | None:
        """The batch an essay is in: of its listing, if that is in force and later than its placement; else placed."""
        row = self.facts.essays[essay_id]
        placement, listing = _facet(row, Placement), _facet(row, Listing)
        if listing is not None:
            registration = _facet(self.facts.batches[listing.batch_id], Registration)
            in_force = registration is not None and registration.clock == listing.clock
            if in_force and (placement is None or placement.clock < listing.clock):
                return listing.batch_id
        return None if placement is None else placement.batch_id

    def essay(self, essay_id: str) -> EssayFacts:
        row = self.facts.essays[essay_id]
        assert row.heard_at is not None
        return EssayFacts(
            essay_id=essay_id,
            batch_id=self._places[essay_id],
            heard_at=row.heard_at,
            started_at=row.started_at,
            file=_facet(row, EssayFile),
            spellcheck=_facet(row, SpellcheckResult),
            spellcheck_metrics=_facet(row, SpellcheckMetrics),
            cj=_facet(row, CJResult),
            cj_grades=_facet(row, CJGrades),
            nlp=_facet(row, NlpResult),
            ai_feedback=_facet(row, AIFeedbackResult),
        )

    def batch(self, batch_id: str = "b") -> BatchFacts:
        """A batch with the essays that are in it."""
        if batch_id not in self._batches:
            self._batches[batch_id] = self._batch(batch_id)
        return self._batches[batch_id]

    def _batch(self, batch_id: str) -> BatchFacts:
        row = self.facts.batches[batch_id]
        assert row.heard_at is not None
        outcomes = {phase: outcome for (owner, phase), outcome in self.facts.outcomes.items() if owner == batch_id}
        ends = [end for end in self.facts.pipeline_ends.values() if end.batch_id == batch_id]
        essays = {e: self.essay(e) for e, place in self._places.items() if place == batch_id}
        return BatchFacts(
            batch_id=batch_id,
            heard_at=row.heard_at,
            created_at=row.created_at,
            started_at=row.started_at,
            registration=_facet(row, Registration),
            assignment=_facet(row, Assignment),
            cj_verdict=_facet(row, CJVerdict),
            grace_horizon=self.grace.get(batch_id),
            anchor_ids=frozenset(row.anchor_ids),
            outcomes=outcomes,
            pipeline_ends=sorted(ends, key=lambda end: end.clock),
            essays=dict(sorted(essays.items())),
        )

    def view(self, batch_id: str = "b") -> View:
        batch, status = self.batch(batch_id), self._statuses[batch_id]
        matter, tally = phases_that_matter(batch, self.expected), BatchTally.of(batch)
        return View(
            facts=batch,
            members=[essay.essay_id for essay in batch.members],
            status=status,
            finished_by=finished_by(batch, self.expected),
            matter=matter,
            counts=tally.counts(matter),
            error_count=error_count(batch, tally),
            current_phase=current_phase(batch, status, self.expected),
            started_at=processing_started_at(batch, tally),
            completed_at=processing_completed_at(batch),
            last_updated=last_updated(batch, tally),
            essays={
                essay.essay_id: {phase: essay_status(batch, essay, phase) for phase in Phase} for essay in batch.members
            },
        )

    def views(self) -> dict[str, View]:
        """All batches: the state, as far as anybody can see it."""
        return {batch_id: self.view(batch_id) for batch_id in sorted(self.facts.batches)}


def read_model(*events: Event, expected: Sequence[Phase] = EXPECTED) -> ReadModel:
    """A model that got these messages in one poll."""
    model = ReadModel(expected)
    model.poll(*events)
    return model


def after_polls(polls: Iterable[Sequence[Event]]) -> ReadModel:
    """A model that got these polls one after the other."""
    model = ReadModel()
    for events in polls:
        model.poll(*events)
    return model


def _facet(row: Row, facet: type[AnyFacet]) -> AnyFacet | None:
    stated = row.facets.get(facet)
    assert stated is None or isinstance(stated, facet)
    return stated


def _merge_row(known: Row, heard: Row) -> None:
    for facet in heard.facets.values():
        known.state(facet)
    if heard.heard_at is not None:
        known.heard(heard.heard_at)
    if heard.started_at is not None:
        known.started(heard.started_at)
