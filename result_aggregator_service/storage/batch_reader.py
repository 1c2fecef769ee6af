"""Reads what the API shows: batches with their essays or without, and which of them stand on a page of a user's list.

All of the session's one snapshot. A batch that nobody has registered has no owner and is not there.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import ARRAY, BigInteger, ColumnElement, Select, Text, any_, bindparam, func, select, tuple_

from result_aggregator_service.contracts.enums import BatchStatus
from result_aggregator_service.storage.projection_repository import ProjectionRepository, StoredBatch
from result_aggregator_service.storage.session import ReadSession
from result_aggregator_service.storage.tables import batch_results
from result_aggregator_service.storage.tallies import tallies_of

_TEXTS = ARRAY(Text())
_POSITION = (batch_results.c.created_at, batch_results.c.batch_id)
_VERSION = select(batch_results.c.version).where(
    batch_results.c.batch_id == bindparam("batch_id"), batch_results.c.registration_at.isnot(None)
)


@cache
def _count(of_statuses: bool) -> Select[int]:
    return select(func.count()).select_from(batch_results).where(_mine(of_statuses))


@cache
def _newest(of_statuses: bool, behind: bool) -> Select[str, datetime, UUID]:
    """A user's batches, newest first, perhaps only of some statuses, or behind a position."""
    found = select(batch_results.c.batch_id, batch_results.c.created_at, batch_results.c.version)
    found = found.where(_mine(of_statuses)).order_by(*(column.desc() for column in _POSITION))
    if behind:
        found = found.where(tuple_(*_POSITION) < tuple_(*(bindparam(c.name, type_=c.type) for c in _POSITION)))
    return found.limit(bindparam("limit", type_=BigInteger())).offset(bindparam("offset", type_=BigInteger()))


def _mine(of_statuses: bool) -> ColumnElement[bool]:
    mine = batch_results.c.user_id == bindparam("user_id")
    if of_statuses:
        mine &= batch_results.c.overall_status == any_(bindparam("statuses", type_=_TEXTS))
    return mine


@dataclass(frozen=True, slots=True)
class Position:
    """Where a batch stands in its owner's list, which goes from the newest to the oldest."""

    created_at: datetime
    batch_id: str


@dataclass(frozen=True, slots=True)
class BatchKey:
    """A batch on a page: where it stands, and the version of its answer."""

    batch_id: str
    created_at: datetime
    version: UUID


@dataclass(frozen=True, slots=True)
class PageKeys:
    """The batches of a page, newest first; how many the list has in all, if that was asked; whether more follow."""

    keys: Sequence[BatchKey]
    total: int | None
    more: bool


class BatchReader:
    """The read side of the read model."""

    def __init__(self, repository: ProjectionRepository) -> None:
        self._repository = repository

    async def version(self, session: ReadSession, batch_id: str) -> UUID | None:
        """The version of a registered batch's answer; None if there is no batch of this id."""
        version: UUID | None = (await session.scalars(_VERSION, {"batch_id": batch_id})).one_or_none()
        return version

    async def batch(self, session: ReadSession, batch_id: str) -> StoredBatch | None:
        """A registered batch with its essays; None if there is none of this id."""
        return next(iter(await self.batches(session, [batch_id])), None)

    async def batches(self, session: ReadSession, batch_ids: Sequence[str]) -> list[StoredBatch]:
        """Some registered batches with their essays, in this order; those that are not there are left out."""
        found = await self._registered(session, batch_ids, lists=True)
        if not found:
            return []
        complete = await self._repository.load_essays(session, [stored.facts for stored in found])
        return [replace(stored, facts=complete[stored.facts.batch_id]) for stored in found]

    async def summaries(self, session: ReadSession, batch_ids: Sequence[str]) -> list[StoredBatch]:
        """The same without essays and lists of them, but always with a tally.

        Reads no essay, but for batches that have not changed since there are tallies.
        """
        found = await self._registered(session, batch_ids, lists=False)
        missing = [stored.facts.batch_id for stored in found if stored.tally is None]
        if not missing:
            return found
        made = await tallies_of(session, missing)
        return [replace(stored, tally=stored.tally or made[stored.facts.batch_id]) for stored in found]

    async def page_of(
        self,
        session: ReadSession,
        user_id: str,
        *,
        limit: int,
        statuses: Collection[BatchStatus] | None = None,
        offset: int | None = None,
        after: Position | None = None,
    ) -> PageKeys:
        """Which of a user's batches stand on a page, newest first (`created_at`, then `batch_id`).

        Args:
            session: of whose snapshot.
            user_id: whose batches.
            limit: how many at most.
            statuses: only those of these statuses, if any are given.
            offset: pass over so many, and count the whole list; its cost grows with the offset.
            after: begin behind this position, whether a batch still stands there or not; costs the same everywhere.
        """
        mine: dict[str, Any] = {"user_id": user_id}
        if statuses is not None:
            mine["statuses"] = sorted(statuses)
        total = None
        if offset is not None:
            total = (await session.scalars(_count(statuses is not None), mine)).one()
            if offset >= total:
                return PageKeys([], total, more=False)
        place: dict[str, Any] = {"limit": limit + 1, "offset": offset or 0}
        if after is not None:
            place |= {"created_at": after.created_at, "batch_id": after.batch_id}
        newest = await session.execute(_newest(statuses is not None, after is not None), mine | place)
        keys = [BatchKey(*row) for row in newest]
        return PageKeys(keys[:limit], total, more=len(keys) > limit)

    async def _registered(self, session: ReadSession, batch_ids: Sequence[str], *, lists: bool) -> list[StoredBatch]:
        found = await self._repository.load(session, batch_ids, lists=lists)
        known = (found[batch_id] for batch_id in batch_ids if batch_id in found)
        return [stored for stored in known if stored.facts.registration is not None]
