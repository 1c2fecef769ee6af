"""Invalidations that Redis has still to take: written where nothing else would bring them back, deleted once taken."""

from collections.abc import Collection

from sqlalchemy import delete, func, insert, select

from result_aggregator_service.storage.engine import ReadSession, WriteSession
from result_aggregator_service.storage.tables import pending_invalidations


class PendingInvalidations:
    """The table of invalidations still to be made."""

    async def add(self, session: WriteSession, batch_ids: Collection[str], user_ids: Collection[str]) -> None:
        """Remember to invalidate some batches and users."""
        rows = [{"batch_id": batch_id, "user_id": None} for batch_id in sorted(batch_ids)]
        rows += [{"batch_id": None, "user_id": user_id} for user_id in sorted(user_ids)]
        if rows:
            await session.execute(insert(pending_invalidations), rows)

    async def oldest(self, session: ReadSession, limit: int) -> tuple[list[int], set[str], set[str]]:
        """Some that wait: their row ids, batches and users."""
        query = select(pending_invalidations).order_by(pending_invalidations.c.id).limit(limit)
        rows = (await session.execute(query)).all()
        return (
            [row.id for row in rows],
            {row.batch_id for row in rows if row.batch_id is not None},
            {row.user_id for row in rows if row.user_id is not None},
        )

    async def count(self, session: ReadSession) -> int:
        """How many wait."""
        return int((await session.scalars(select(func.count()).select_from(pending_invalidations))).one())

    async def remove(self, session: WriteSession, row_ids: Collection[int]) -> None:
        """Forget those that were made."""
        await session.execute(delete(pending_invalidations).where(pending_invalidations.c.id.in_(row_ids)))
