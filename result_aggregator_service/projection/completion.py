"""Judges the batches that a transaction touched, while it holds their locks: status, grace, announcements.

Invariant: whatever order messages come in, the transaction that makes a batch finished is the one that announces it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from result_aggregator_service.contracts.enums import FINAL_STATUSES, Phase
from result_aggregator_service.domain.announcements import (
    Announcement,
    assessment_announcement,
    pipeline_results_id,
    results_announcement,
)
from result_aggregator_service.domain.batch import (
    BatchFacts,
    FinishedBy,
    finished_by,
    overall_status,
)
from result_aggregator_service.failpoints import Failpoint, failpoint
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.publishing.event_publisher import EventPublisher
from result_aggregator_service.storage.projection_repository import ProjectionRepository, Touched
from result_aggregator_service.storage.session import WriteSession
from result_aggregator_service.storage.stored_facts import Judgement, StoredBatch
from result_aggregator_service.storage.tallies import tallies_of
from result_aggregator_service.turns import InSlices


class Completion:
    """Decides what follows from the facts of some batches, and writes it down."""

    def __init__(
        self,
        repository: ProjectionRepository,
        publisher: EventPublisher,
        metrics: Metrics,
        *,
        expected_phases: Sequence[Phase],
        grace_seconds: float,
        service_name: str,
    ) -> None:
        self._repository = repository
        self._publisher = publisher
        self._metrics = metrics
        self._expected = expected_phases
        self._grace_seconds = grace_seconds
        self._service_name = service_name

    async def settle(
        self, session: WriteSession, touched: Touched, *, grant_grace_to: Collection[str] = frozenset()
    ) -> None:
        """Judge the touched batches, which are locked, and announce what is to be announced.

        Args:
            session: the transaction that holds the locks.
            touched: the batches; the present owners' ids are added to it.
            grant_grace_to: those of them whose missing results are no longer waited for.
        """
        unsettled = await self._repository.load_unsettled(session, touched.batch_ids)
        stored, assessments = unsettled.batches, unsettled.unannounced
        tallies = await tallies_of(session, touched.batch_ids)
        # Which essays are its students' matters only to rankings that do not say so themselves.
        ranked = {a.batch_id for a in assessments if not a.graded and stored[a.batch_id].facts.registration is not None}
        with_members = await self._repository.load_members(session, [stored[batch_id].facts for batch_id in ranked])
        failpoint(Failpoint.STATEMENTS_LOAD_AFTER)

        judgements: list[Judgement] = []
        results: list[_Results] = []
        async for batch_id, before in InSlices(stored.items()):
            tally = tallies[batch_id]
            batch = before.facts.with_(
                has_results=tally.started_at is not None,
                grace_horizon=before.facts.horizon() if batch_id in grant_grace_to else before.facts.grace_horizon,
                awaited=tally.awaited,
                failed=tally.failed(),
            )
            if batch.registration is not None:
                touched.user_ids.add(batch.registration.user_id)
            judgement = self._judge(batch, before, unsettled.caught_up_seconds)
            judgements.append(judgement)
            if judgement.overall_status in FINAL_STATUSES:
                if before.judgement.overall_status not in FINAL_STATUSES:
                    self._metrics.batches_aggregated.inc()
                announcement = results_announcement(batch, judgement.overall_status, self._expected, self._service_name)
                if announcement is not None:
                    identity = pipeline_results_id(batch, judgement.overall_status)
                    results.append(_Results(announcement, _class_of(batch), identity))
        if judgements:
            await self._repository.save(session, judgements, tallies)
            failpoint(Failpoint.STATEMENTS_JUDGEMENTS_AFTER)

        outgoing = await self._not_announced_otherwise(session, results)
        identities = {announcement.event_id for announcement, _ in outgoing}
        async for assessment in InSlices(assessments):
            batch = with_members.get(assessment.batch_id, stored[assessment.batch_id].facts)
            announcement = assessment_announcement(batch, assessment, self._service_name)
            if announcement is not None and announcement.event_id not in identities:
                identities.add(announcement.event_id)
                outgoing.append((announcement, _class_of(batch)))
        await self._publisher.announce(session, outgoing)

    def _judge(self, batch: BatchFacts, before: StoredBatch, caught_up_seconds: float) -> Judgement:
        horizon = batch.horizon()
        finished = finished_by(batch, self._expected)
        due = None
        if batch.pipeline_ends and finished is None:
            due = before.judgement.grace_due
            if due is None or before.judgement.horizon != horizon:
                due = caught_up_seconds + self._grace_seconds
        # A grace that nothing rests on is forgotten: whether one was ever given depends on the order of arrival.
        grace = batch.grace_horizon if finished is FinishedBy.GRACE else None
        return Judgement(batch.batch_id, overall_status(batch, self._expected), horizon, grace, due)

    async def _not_announced_otherwise(
        self, session: WriteSession, results: Sequence["_Results"]
    ) -> list[tuple[Announcement, str | None]]:
        """Leave out what was announced, under this identity or as finished by the pipeline's end that still rules."""
        identities = {i for r in results for i in (r.announcement.event_id, r.by_pipeline) if i is not None}
        known = await self._publisher.known(session, identities)
        return [
            (r.announcement, r.class_id)
            for r in results
            if r.announcement.event_id not in known and r.by_pipeline not in known
        ]


@dataclass(frozen=True, slots=True)
class _Results:
    """An announcement of results, and the identity it would have had as a finish by the pipeline's end alone."""

    announcement: Announcement
    class_id: str | None
    by_pipeline: UUID | None


def _class_of(batch: BatchFacts) -> str | None:
    return None if batch.registration is None else batch.registration.class_id
