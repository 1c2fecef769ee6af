"""Reads what the API shows: batches with their essays or without, and which of them stand on a page of a user's list.

All of the session's one snapshot. A batch that nobody has registered has no owner and is not there.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Select,
    Text,
    TextClause,
    any_,
    bindparam,
    func,
    select,
    text,
    tuple_,
)

from result_aggregator_service.contracts.enums import BatchStatus
from result_aggregator_service.domain.batch import EssayFacts
from result_aggregator_service.domain.facets import Columns
from result_aggregator_service.storage.essay_documents import JOIN_ESSAYS, facts_of
from result_aggregator_service.storage.session import ReadSession
from result_aggregator_service.storage.stored_facts import StoredBatch, batch_columns, batch_of
from result_aggregator_service.storage.tables import batch_results
from result_aggregator_service.storage.tallies import tallies_of

_TEXTS = ARRAY(Text())
_POSITION = (batch_results.c.created_at, batch_results.c.batch_id)

_BATCHES = """
SELECT {columns} FROM batch_results b {essays}
WHERE b.batch_id {these} AND b.registration_at IS NOT NULL
"""
_SEVERAL = "= ANY(:batch_ids)"
# The tally has what a summary needs of the essays.
_SUMMARIES = text(_BATCHES.format(columns=batch_columns(lists=()), essays="", these=_SEVERAL))


def _with_essays_of(these: str) -> str:
    columns = f"{batch_columns(lists=('failed_essay_ids',))}, essays.documents, essays.undecided"
    return _BATCHES.format(columns=columns, essays=JOIN_ESSAYS.format(these=these), these=these)


_SEVERAL_WITH_ESSAYS = text(_with_essays_of(_SEVERAL))

#: So many batches at most are read by one statement that is not to be planned each time.
FEW = 8
_IDS = [f"batch_id_{number}" for number in range(FEW)]
_VERSIONS = "SELECT batch_id, version FROM batch_results WHERE batch_id {these} AND registration_at IS NOT NULL"
# Of one by itself, and of few. PostgreSQL has one plan for all ids if it does not expect more of a new one for those at
# hand. So they are always as many, some of them null, and it does not see them where it plans what is done with them.
_ONE, _OF_FEW = "= :batch_id_0", "IN (SELECT id FROM wanted)"
_WANTED = f"WITH wanted (id) AS MATERIALIZED (VALUES {', '.join(f'(:{name})' for name in _IDS)}) "
_ONE_WITH_ESSAYS, _ONE_VERSION = text(_with_essays_of(_ONE)), text(_VERSIONS.format(these=_ONE))
_FEW_WITH_ESSAYS, _FEW_VERSIONS = (
    text(_WANTED + statement) for statement in (_with_essays_of(_OF_FEW), _VERSIONS.format(these=_OF_FEW))
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


@dataclass(frozen=True, slots=True)
class BatchWithEssays:
    """A batch with its members by id, as PostgreSQL gave them: `documents` as they are shown, None for the undecided.

    `undecided` are the rows of these.
    """

    stored: StoredBatch
    documents: Sequence[str | None]
    undecided: Sequence[str]

    def essays(self) -> Iterator[str | EssayFacts]:
        """Each member as the JSON in which it is shown, or the facts by which that is to be decided."""
        undecided = iter(self.undecided)
        return (facts_of(next(undecided)) if document is None else document for document in self.documents)


class BatchReader:
    """The read side of the read model."""

    async def versions(self, session: ReadSession, batch_ids: Sequence[str]) -> dict[str, UUID]:
        """The versions of the answers about a few batches, those that are there and registered."""
        rows = await session.execute(*_of_few(batch_ids, _ONE_VERSION, _FEW_VERSIONS))
        return {row["batch_id"]: row["version"] for row in rows}

    async def few(self, session: ReadSession, batch_ids: Sequence[str]) -> dict[str, BatchWithEssays]:
        """A few batches with their essays, those that are there and registered, by one statement.

        One has no tally if it has not changed since there are tallies.
        """
        rows = await session.execute(*_of_few(batch_ids, _ONE_WITH_ESSAYS, _FEW_WITH_ESSAYS))
        return {row["batch_id"]: _with_essays(row) for row in rows}

    async def batches(self, session: ReadSession, batch_ids: Sequence[str]) -> list[BatchWithEssays]:
        """Some registered batches with their essays, in this order; those that are not there are left out.

        Always with a tally: essays are read once more for one that has not changed since there are tallies.
        """
        found = [_with_essays(row) for row in await _rows(session, _SEVERAL_WITH_ESSAYS, batch_ids)]
        tallied = await _tallied(session, [batch.stored for batch in found])
        return [replace(batch, stored=stored) for batch, stored in zip(found, tallied, strict=True)]

    async def summaries(self, session: ReadSession, batch_ids: Sequence[str]) -> list[StoredBatch]:
        """The same without their essays, of which none is read but for such a tally."""
        return await _tallied(session, [batch_of(row) for row in await _rows(session, _SUMMARIES, batch_ids)])

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


def _of_few(batch_ids: Sequence[str], one: TextClause, few: TextClause) -> tuple[TextClause, dict[str, str | None]]:
    """The statement for so many ids, and its parameters.

    Raises:
        ValueError: there are more than `FEW`.
    """
    if len(batch_ids) == 1:
        return one, {_IDS[0]: batch_ids[0]}
    missing = [None] * (FEW - len(batch_ids))
    return few, dict(zip(_IDS, [*batch_ids, *missing], strict=True))


async def _rows(session: ReadSession, statement: TextClause, batch_ids: Sequence[str]) -> Iterator[Columns]:
    """A statement's rows about batches, in this order."""
    found = {row["batch_id"]: row for row in await session.execute(statement, {"batch_ids": batch_ids})}
    return (found[batch_id] for batch_id in batch_ids if batch_id in found)


async def _tallied(session: ReadSession, batches: list[StoredBatch]) -> list[StoredBatch]:
    missing = [stored.facts.batch_id for stored in batches if stored.tally is None]
    if not missing:
        return batches
    made = await tallies_of(session, missing)
    return [replace(stored, tally=stored.tally or made[stored.facts.batch_id]) for stored in batches]


def _with_essays(row: Columns) -> BatchWithEssays:
    return BatchWithEssays(batch_of(row), row["documents"] or (), row["undecided"] or ())
