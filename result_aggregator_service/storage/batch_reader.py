"""Reads what the API shows: a batch with its essays, a page of a user's batches. All of the session's one snapshot.

A batch that nobody has registered has no owner and is not there.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import ARRAY, Text, any_, func, literal, select

from result_aggregator_service.contracts.enums import BatchStatus
from result_aggregator_service.storage.engine import ReadSession
from result_aggregator_service.storage.projection_repository import ProjectionRepository, StoredBatch
from result_aggregator_service.storage.tables import batch_results

_TEXTS = ARRAY(Text())


@dataclass(frozen=True, slots=True)
class BatchPage:
    """Some of a user's batches with their essays, newest first, and how many there are of them in all."""

    batches: Sequence[StoredBatch]
    total: int


class BatchReader:
    """The read side of the read model."""

    def __init__(self, repository: ProjectionRepository) -> None:
        self._repository = repository

    async def batch(self, session: ReadSession, batch_id: str) -> StoredBatch | None:
        """A registered batch with its essays; None if there is none of this id."""
        stored = (await self._repository.load(session, [batch_id])).get(batch_id)
        if stored is None or stored.facts.registration is None:
            return None
        return (await self._with_essays(session, {batch_id: stored}))[batch_id]

    async def page(
        self,
        session: ReadSession,
        user_id: str,
        *,
        limit: int,
        offset: int,
        statuses: Collection[BatchStatus] | None = None,
    ) -> BatchPage:
        """A user's batches, newest first; only those of some statuses, if any are given."""
        mine = batch_results.c.user_id == user_id
        if statuses is not None:
            mine &= batch_results.c.overall_status == any_(literal(sorted(statuses), type_=_TEXTS))
        total = (await session.scalars(select(func.count()).select_from(batch_results).where(mine))).one()
        if offset >= total:
            return BatchPage([], total)
        newest = await session.scalars(
            select(batch_results.c.batch_id)
            .where(mine)
            .order_by(batch_results.c.created_at.desc(), batch_results.c.batch_id.desc())
            .limit(limit)
            .offset(offset)
        )
        batch_ids = newest.all()
        batches = await self._with_essays(session, await self._repository.load(session, batch_ids))
        return BatchPage([batches[batch_id] for batch_id in batch_ids], total)

    async def _with_essays(self, session: ReadSession, batches: Mapping[str, StoredBatch]) -> dict[str, StoredBatch]:
        complete = await self._repository.load_essays(session, [batch.facts for batch in batches.values()])
        return {batch_id: replace(batch, facts=complete[batch_id]) for batch_id, batch in batches.items()}
