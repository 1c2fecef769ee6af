"""Invalidations that Redis has still to take: written where nothing else would bring them back, deleted once taken."""

from collections.abc import Collection

from sqlalchemy import text

from result_aggregator_service.storage.session import ReadSession, WriteSession

_ADD = text(
    """
    INSERT INTO pending_invalidations (batch_id, user_id)
    SELECT batch_id, NULL FROM unnest(CAST(:batch_ids AS text[])) AS batch_id
    UNION ALL SELECT NULL, user_id FROM unnest(CAST(:user_ids AS text[])) AS user_id
    """
)
_OLDEST = text("SELECT id, batch_id, user_id FROM pending_invalidations ORDER BY id LIMIT :limit")
_COUNT = text("SELECT count(*) FROM pending_invalidations")
_REMOVE = text("DELETE FROM pending_invalidations WHERE id = ANY(:ids)")


class PendingInvalidations:
    """The table of invalidations still to be made."""

    async def add(self, session: WriteSession, batch_ids: Collection[str], user_ids: Collection[str]) -> None:
        """Remember to invalidate some batches and users."""
        if batch_ids or user_ids:
            await session.execute(_ADD, {"batch_ids": sorted(batch_ids), "user_ids": sorted(user_ids)})

    async def oldest(self, session: ReadSession, limit: int) -> tuple[list[int], set[str], set[str]]:
        """Some that wait: their row ids, batches and users."""
        rows = list(await session.execute(_OLDEST, {"limit": limit}))
        return (
            [row["id"] for row in rows],
            {row["batch_id"] for row in rows if row["batch_id"] is not None},
            {row["user_id"] for row in rows if row["user_id"] is not None},
        )

    async def count(self, session: ReadSession) -> int:
        """How many wait."""
        return int(await session.scalar(_COUNT))

    async def remove(self, session: WriteSession, row_ids: Collection[int]) -> None:
        """Forget those that were made."""
        await session.execute(_REMOVE, {"ids": sorted(row_ids)})
