"""Writes what a poll says into the read model, and reads back what decides. Takes a session; never commits.

Order of locks, the same for every replica: batches by id, then essays by id. Every batch whose answer may change is
locked by the time it is judged, and is named in what `store` returns.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

from sqlalchemy import any_, bindparam, select, text

from result_aggregator_service.domain.batch import BatchFacts, EssayFacts
from result_aggregator_service.domain.facets import BATCH_FACETS, ESSAY_FACETS, Assessment
from result_aggregator_service.domain.fold import Facts
from result_aggregator_service.domain.tally import BatchTally
from result_aggregator_service.failpoints import Failpoint, failpoint
from result_aggregator_service.storage.fact_rows import FactRows, joined
from result_aggregator_service.storage.session import ReadSession, WriteSession
from result_aggregator_service.storage.stored_facts import (
    ASSESSMENT_COLUMNS,
    Judgement,
    StoredBatch,
    assessment_of,
    batch_columns,
    batch_of,
    essay_of,
    judgement_row,
)
from result_aggregator_service.storage.tables import (
    batch_results,
    cj_assessments,
    essay_results,
    phase_outcomes,
    pipeline_ends,
)
from result_aggregator_service.storage.tallies import to_document
from result_aggregator_service.storage.upserts import recordset, replace_when_later, upsert
from result_aggregator_service.turns import InSlices

_BATCH_COLUMNS = (
    "batch_id",
    "heard_at",
    "created_at",
    "started_at",
    *(column for facet in BATCH_FACETS for column in facet.columns()),
)
# First every batch that is spoken of is locked, and made if need be; its owner is returned as it was before this poll.
_LOCK_OR_MAKE = upsert(
    batch_results,
    ("batch_id", "heard_at"),
    key=["batch_id"],
    assignments=["heard_at = greatest(t.heard_at, excluded.heard_at)"],
    returning="batch_id, user_id",
)
_LOCK = text(
    "SELECT batch_id, user_id FROM batch_results WHERE batch_id = ANY(:batch_ids) ORDER BY batch_id FOR UPDATE"
)
_UPSERT_BATCHES = upsert(
    batch_results,
    _BATCH_COLUMNS,
    key=["batch_id"],
    assignments=[
        "created_at = least(t.created_at, excluded.created_at)",
        "started_at = least(t.started_at, excluded.started_at)",
        *replace_when_later(BATCH_FACETS),
    ],
)
# Here and below: rows that are there are asked for by their keys (`:batch_ids`), besides being joined. Plans are kept,
# and one that was made while a table was empty would read all of it for a join.
_ADD_ANCHORS = text(
    "UPDATE batch_results b SET anchor_ids = (SELECT jsonb_agg(DISTINCT a ORDER BY a) FROM "
    "jsonb_array_elements(b.anchor_ids || r.anchor_ids) AS a) "
    f"FROM {recordset(batch_results, ('batch_id', 'anchor_ids'))} "
    "WHERE b.batch_id = r.batch_id AND b.batch_id = ANY(:batch_ids)"
)

_ESSAY_COLUMNS = (
    "essay_id",
    "batch_id",
    "heard_at",
    "started_at",
    *(column for facet in ESSAY_FACETS for column in facet.columns()),
)
# A new essay is in the batch that is first named. Whether one that is there moves is settled afterwards (`_SETTLE`).
_WRITE_ESSAYS = upsert(
    essay_results,
    _ESSAY_COLUMNS,
    key=["essay_id"],
    order='essay_id COLLATE "C"',
    assignments=[
        "heard_at = greatest(t.heard_at, excluded.heard_at)",
        "started_at = least(t.started_at, excluded.started_at)",
        *replace_when_later(ESSAY_FACETS),
    ],
    returning="essay_id, batch_id, placed_batch_id, listed_batch_id",
)
# The batches that they are in, each also with such of its essays as another batch is named for.
_UPSERT_ESSAYS = text(
    f"""
    WITH written AS ({_WRITE_ESSAYS.text})
    SELECT DISTINCT batch_id, CASE WHEN batch_id IS DISTINCT FROM coalesce(placed_batch_id, batch_id)
                                     OR batch_id IS DISTINCT FROM coalesce(listed_batch_id, batch_id) THEN essay_id END
    FROM written
    """
)
_SETTLE = text(
    """
    WITH settled AS (
        SELECT e.essay_id, e.batch_id AS left_batch_id,
               CASE WHEN b.batch_id IS NOT NULL
                         AND (e.placed_at IS NULL
                              OR (e.placed_at, e.placed_event_id) < (e.listed_at, e.listed_event_id))
                    THEN e.listed_batch_id ELSE e.placed_batch_id END AS batch_id
        FROM essay_results e
        LEFT JOIN batch_results b
               ON b.batch_id = e.listed_batch_id AND b.registration_event_id = e.listed_event_id
        WHERE e.essay_id = ANY(:essay_ids)
    )
    UPDATE essay_results e SET batch_id = s.batch_id FROM settled s
    WHERE e.essay_id = s.essay_id AND e.batch_id IS DISTINCT FROM s.batch_id
    RETURNING s.left_batch_id, s.batch_id
    """
)
_NO_LONGER_LISTED = text(
    """
    SELECT e.essay_id FROM essay_results e JOIN batch_results b ON b.batch_id = e.listed_batch_id
    WHERE b.batch_id = ANY(:batch_ids) AND e.listed_batch_id = ANY(:batch_ids)
      AND e.listed_event_id <> b.registration_event_id AND e.batch_id IS NOT NULL
    """
)

_OUTCOME_COLUMNS = tuple(column.name for column in phase_outcomes.columns)
_UPSERT_OUTCOMES = upsert(
    phase_outcomes,
    _OUTCOME_COLUMNS,
    key=["batch_id", "phase"],
    assignments=[f"{c} = excluded.{c}" for c in _OUTCOME_COLUMNS if c not in ("batch_id", "phase")],
    where="(t.outcome_at, t.outcome_event_id) < (excluded.outcome_at, excluded.outcome_event_id)",
)
_END_COLUMNS = tuple(column.name for column in pipeline_ends.columns)
_INSERT_ENDS = text(
    f"INSERT INTO pipeline_ends ({', '.join(_END_COLUMNS)}) SELECT * FROM {recordset(pipeline_ends, _END_COLUMNS)} "
    "ORDER BY event_id ON CONFLICT DO NOTHING"
)
_ASSESSMENT_COLUMNS = tuple(column.name for column in cj_assessments.columns if column.name != "place")
# In the order of folding, which the batches' locks make one order for all replicas.
_INSERT_ASSESSMENTS = text(
    f"INSERT INTO cj_assessments ({', '.join(_ASSESSMENT_COLUMNS)}) SELECT {', '.join(_ASSESSMENT_COLUMNS)} FROM "
    f"(SELECT row_number() OVER () AS place, r.* FROM {recordset(cj_assessments, _ASSESSMENT_COLUMNS)}) AS placed "
    "ORDER BY place ON CONFLICT DO NOTHING"
)
_JUDGED_COLUMNS = (
    "batch_id",
    "overall_status",
    "horizon_at",
    "horizon_event_id",
    "grace_horizon_at",
    "grace_horizon_event_id",
    "grace_due",
    "tally",
)
_SAVE_JUDGEMENTS = text(
    f"UPDATE batch_results b SET version = gen_random_uuid(), {', '.join(f'{c} = r.{c}' for c in _JUDGED_COLUMNS[1:])} "
    f"FROM {recordset(batch_results, _JUDGED_COLUMNS)} WHERE b.batch_id = r.batch_id AND b.batch_id = ANY(:batch_ids)"
)
_MEMBERS = text("SELECT essay_id, batch_id, heard_at FROM essay_results WHERE batch_id = ANY(:batch_ids)")
_ESSAYS_OF_BATCHES = select(essay_results).where(essay_results.c.batch_id == any_(bindparam("batch_ids")))
_LOAD = text(
    f"""
    SELECT {batch_columns()},
        ARRAY(
            SELECT ROW(place, {ASSESSMENT_COLUMNS}) FROM cj_assessments a
            WHERE batch_id = b.batch_id
                AND NOT EXISTS (SELECT FROM announcements WHERE event_id = a.announcement_id)
        ) AS unannounced,
        (SELECT caught_up_seconds FROM service_state) AS caught_up_seconds
    FROM batch_results b WHERE b.batch_id = ANY(:batch_ids)
    """
)
_CAUGHT_UP_SECONDS = text("SELECT caught_up_seconds FROM service_state")
_OWNERS = text(
    """
    SELECT batch_id, user_id FROM batch_results
    WHERE batch_id = ANY(CAST(:batch_ids AS text[]) || ARRAY(
        SELECT CAST(batch_id AS text) FROM essay_results WHERE essay_id = ANY(:essay_ids) AND batch_id IS NOT NULL))
    """
)
_BATCHES_OF_ESSAYS = text(
    "SELECT DISTINCT batch_id FROM essay_results WHERE essay_id = ANY(:essay_ids) AND batch_id IS NOT NULL"
)


@dataclass
class Touched:
    """Batches whose answers may have changed, and the users whose lists show them or showed them."""

    batch_ids: set[str] = field(default_factory=set)
    user_ids: set[str] = field(default_factory=set)

    def add(self, rows: Iterable[Iterable[Any]]) -> None:
        """Add rows of batch_id and user_id."""
        for batch_id, user_id in rows:
            self.batch_ids.add(batch_id)
            if user_id is not None:
                self.user_ids.add(user_id)

    def merge(self, other: "Touched") -> None:
        """Add all that another names."""
        self.batch_ids |= other.batch_ids
        self.user_ids |= other.user_ids


@dataclass(frozen=True, slots=True)
class Unsettled:
    """All that decides of some batches.

    The batches by id, their rankings that the ledger does not know yet in the order of folding, and the reading of the
    caught-up clock; 0 without a batch.
    """

    batches: dict[str, StoredBatch]
    unannounced: Sequence[Assessment]
    caught_up_seconds: float


class ProjectionRepository:
    """The read model's tables."""

    async def store(self, session: WriteSession, rows: FactRows) -> Touched:
        """Write facts; return the batches that they touch, each of which is locked until the transaction ends."""
        touched = Touched()
        await self._lock_batches_of_unplaced(session, rows, touched)
        await self._store_batches(session, rows, touched)
        batch_ids = await self._store_essays(session, rows)
        await self._lock_others(session, batch_ids, touched)
        failpoint(Failpoint.STATEMENTS_MEMBERSHIP_AFTER)
        return touched

    async def _lock_batches_of_unplaced(self, session: WriteSession, rows: FactRows, touched: Touched) -> None:
        """Lock in their turn, before any essay, the batches that are spoken of only through an essay."""
        if rows.unplaced:
            batch_ids = set(await session.scalars(_BATCHES_OF_ESSAYS, {"essay_ids": rows.unplaced}))
            if batch_ids - rows.batch_ids:
                touched.add(await session.execute(_LOCK, {"batch_ids": sorted(batch_ids | rows.batch_ids)}))

    async def _store_batches(self, session: WriteSession, rows: FactRows, touched: Touched) -> None:
        if rows.heard is None:
            return
        touched.add(await session.execute(_LOCK_OR_MAKE, rows.heard))
        failpoint(Failpoint.STATEMENTS_LOCKS_AFTER)
        if rows.batches is not None:
            await session.execute(_UPSERT_BATCHES, rows.batches)
            failpoint(Failpoint.STATEMENTS_BATCHES_AFTER)
        if rows.anchors is not None:
            await session.execute(_ADD_ANCHORS, rows.anchors)
        if rows.outcomes is not None:
            await session.execute(_UPSERT_OUTCOMES, rows.outcomes)
            failpoint(Failpoint.STATEMENTS_OUTCOMES_AFTER)
        if rows.pipeline_ends is not None:
            await session.execute(_INSERT_ENDS, rows.pipeline_ends)
            failpoint(Failpoint.STATEMENTS_ENDS_AFTER)
        if rows.assessments is not None:
            await session.execute(_INSERT_ASSESSMENTS, rows.assessments)
            failpoint(Failpoint.STATEMENTS_ASSESSMENTS_AFTER)

    async def _store_essays(self, session: WriteSession, rows: FactRows) -> set[str]:
        """Write the essays; return the batches that they are in and, where one moved, the one that it left."""
        batch_ids: set[str] = set()
        doubtful: set[str] = set()
        async for parameters in rows.essays():
            for batch_id, doubted in await session.execute(_UPSERT_ESSAYS, parameters):
                if batch_id is not None:
                    batch_ids.add(batch_id)
                if doubted is not None:
                    doubtful.add(doubted)
        if rows.essay_count:
            failpoint(Failpoint.STATEMENTS_ESSAYS_AFTER)
        if rows.registered:
            doubtful.update(await session.scalars(_NO_LONGER_LISTED, {"batch_ids": rows.registered}))
        if doubtful:
            for left, entered in await session.execute(_SETTLE, {"essay_ids": sorted(doubtful)}):
                batch_ids.update(batch_id for batch_id in (left, entered) if batch_id is not None)
        return batch_ids

    async def _lock_others(self, session: WriteSession, batch_ids: set[str], touched: Touched) -> None:
        """Lock batches that are touched only through an essay, or that an essay left."""
        others = batch_ids - touched.batch_ids
        if others:
            touched.add(await session.execute(_LOCK, {"batch_ids": sorted(others)}))

    async def lock(self, session: WriteSession, batch_ids: Collection[str]) -> Touched:
        """Lock some batches."""
        touched = Touched()
        await self._lock_others(session, set(batch_ids), touched)
        return touched

    async def touched_by(self, session: WriteSession, facts: Facts) -> Touched:
        """The batches that facts speak of, without writing or locking anything."""
        touched = Touched(batch_ids=set(facts.batches))
        touched.add(await session.execute(_OWNERS, {"batch_ids": list(facts.batches), "essay_ids": list(facts.essays)}))
        return touched

    async def load(self, session: WriteSession | ReadSession, batch_ids: Collection[str]) -> dict[str, StoredBatch]:
        """Some batches without their essays, by id; batches that are not there are left out."""
        return (await self.load_unsettled(session, batch_ids)).batches

    async def load_unsettled(self, session: WriteSession | ReadSession, batch_ids: Collection[str]) -> Unsettled:
        """The same with what else decides of them, by one statement."""
        batches: dict[str, StoredBatch] = {}
        unannounced: list[tuple[int, Assessment]] = []
        caught_up_seconds = 0.0
        async for row in InSlices(await session.execute(_LOAD, {"batch_ids": list(batch_ids)})):
            batch_id, caught_up_seconds = row["batch_id"], row["caught_up_seconds"]
            batches[batch_id] = batch_of(row)
            unannounced.extend((place, assessment_of(batch_id, *values)) for place, *values in row["unannounced"])
        unannounced.sort(key=itemgetter(0))
        return Unsettled(batches, [assessment for _, assessment in unannounced], caught_up_seconds)

    async def load_essays(
        self, session: WriteSession | ReadSession, batches: Collection[BatchFacts]
    ) -> dict[str, BatchFacts]:
        """The batches with the essays that are in them."""
        essays: dict[str, dict[str, EssayFacts]] = {batch.batch_id: {} for batch in batches}
        for row in (await session.execute(_ESSAYS_OF_BATCHES, {"batch_ids": sorted(essays)})).mappings():
            essays[row["batch_id"]][row["essay_id"]] = essay_of(row)
        return {batch.batch_id: replace(batch, essays=essays[batch.batch_id]) for batch in batches}

    async def load_members(self, session: WriteSession, batches: Collection[BatchFacts]) -> dict[str, BatchFacts]:
        """The batches with the essays that are in them; of an essay no more than that it is there."""
        if not batches:
            return {}
        essays: dict[str, dict[str, EssayFacts]] = {batch.batch_id: {} for batch in batches}
        for essay_id, batch_id, heard_at in await session.execute(_MEMBERS, {"batch_ids": sorted(essays)}):
            essays[batch_id][essay_id] = EssayFacts(essay_id, batch_id, heard_at)
        return {batch.batch_id: replace(batch, essays=essays[batch.batch_id]) for batch in batches}

    async def caught_up_seconds(self, session: WriteSession) -> float:
        """The reading of the caught-up clock."""
        return float((await session.scalars(_CAUGHT_UP_SECONDS)).one())

    async def save(
        self, session: WriteSession, judgements: Sequence[Judgement], tallies: Mapping[str, BatchTally]
    ) -> None:
        """Keep what was derived of some batches, and give each a new version."""
        rows = [
            judgement_row(judged) | {"tally": to_document(tallies[judged.batch_id])}
            async for judged in InSlices(judgements)
        ]
        await session.execute(_SAVE_JUDGEMENTS, joined(rows))
