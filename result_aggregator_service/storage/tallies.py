"""Tallies of batches, computed by PostgreSQL from their essays' clocks and statuses, and kept as JSON with the batch.

Says in SQL what `domain.batch.essay_status` and `BatchTally.of` say; a property compares the two.
"""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import JSONB

from result_aggregator_service.contracts.enums import Phase
from result_aggregator_service.contracts.fields import wire_time
from result_aggregator_service.domain.facets import AIFeedbackResult, CJResult, Columns, NlpResult, SpellcheckResult
from result_aggregator_service.domain.tally import UNKNOWN, BatchTally
from result_aggregator_service.storage.session import ReadSession, WriteSession
from result_aggregator_service.turns import InSlices

# The columns of an essay's own result in a phase begin with this.
_RESULTS = {
    Phase.SPELLCHECK: SpellcheckResult.PREFIX,
    Phase.CJ_ASSESSMENT: CJResult.PREFIX,
    Phase.NLP: NlpResult.PREFIX,
    Phase.AI_FEEDBACK: AIFeedbackResult.PREFIX,
}


def _stage(phase: Phase) -> str:
    """SQL for the letter of an essay's stage: `b` is its batch, the phase's name the batch's outcome there."""
    listed_as_failed = f"jsonb_exists({phase}.failed, e.essay_id)"
    if phase is Phase.STUDENT_MATCHING:
        matched = f"jsonb_exists({phase}.processed, e.essay_id)"
        return f"CASE WHEN {listed_as_failed} THEN 'f' WHEN {matched} THEN 'c' ELSE '{UNKNOWN}' END"
    own = _RESULTS[phase]
    later = f"(e.{own}_at, e.{own}_event_id) < ({phase}.outcome_at, {phase}.outcome_event_id)"
    unheard = f"CASE WHEN b.cj_failed THEN 'f' ELSE '{UNKNOWN}' END" if phase is Phase.CJ_ASSESSMENT else f"'{UNKNOWN}'"
    return (
        f"CASE WHEN {listed_as_failed} AND (e.{own}_at IS NULL OR {later}) THEN 'f' "
        f"WHEN e.{own}_at IS NOT NULL THEN left(e.{own}_status, 1) ELSE {unheard} END"
    )


def _quickly_searched(array: str) -> str:
    """SQL for what `jsonb_exists` finds an array's texts in: where there are many, an object that has them for keys.

    A key is found by halving, an element only one by one; but an object takes some microseconds a key to make.
    """
    keys = f"SELECT jsonb_object_agg(id, 0) FROM jsonb_array_elements_text({array}) AS id"
    return f"CASE WHEN jsonb_array_length({array}) > 50 THEN ({keys}) ELSE {array} END"


_TIMES = [f"{bound}({own}_at) AS {bound}_{own}_at" for own in _RESULTS.values() for bound in ("min", "max")]
_BOUNDS = [f"{bound}({bound}_{own}_at) AS {bound}_{own}_at" for own in _RESULTS.values() for bound in ("min", "max")]
# Whether an outcome lists an essay as processed that has no result of its own.
_AWAITED = {
    phase: f"(e.{own}_at IS NULL AND jsonb_exists({phase}.processed, e.essay_id))" for phase, own in _RESULTS.items()
}
# Batch by batch (LATERAL): however wrong PostgreSQL's statistics are, no plan can compare every essay with every list.
# What is searched is made once for each batch (MATERIALIZED).
_TALLIES = text(
    f"""
    WITH b AS MATERIALIZED (
        SELECT batch_id, cj_verdict_error IS NOT NULL AS cj_failed, {_quickly_searched("anchor_ids")} AS anchors
        FROM batch_results WHERE batch_id = ANY(:batch_ids)
    ), outcomes AS MATERIALIZED (
        SELECT batch_id, phase, outcome_at, outcome_event_id,
               {_quickly_searched("failed_essay_ids")} AS failed,
               {_quickly_searched("processed_essay_ids")} AS processed
        FROM phase_outcomes WHERE batch_id = ANY(:batch_ids)
    )
    SELECT b.batch_id, tally.*
    FROM b
    {" ".join(f"LEFT JOIN outcomes {p} ON {p}.batch_id = b.batch_id AND {p}.phase = '{p}'" for p in Phase)}
    CROSS JOIN LATERAL (
        SELECT coalesce(jsonb_object_agg(stages, essays), '{{}}') AS stages,
               min(started_at) AS started_at, max(heard_at) AS heard_at, {", ".join(_BOUNDS)},
               {", ".join(f"bool_or(awaited_{phase}) AS awaited_{phase}" for phase in _AWAITED)}
        FROM (
            SELECT concat({", ".join(_stage(phase) for phase in Phase)}) AS stages, count(*) AS essays,
                   min(started_at) AS started_at, max(heard_at) AS heard_at, {", ".join(_TIMES)},
                   {", ".join(f"bool_or{awaited} AS awaited_{phase}" for phase, awaited in _AWAITED.items())}
            FROM essay_results e
            WHERE e.batch_id = b.batch_id AND NOT jsonb_exists(b.anchors, e.essay_id)
            GROUP BY 1
        ) AS counted
    ) AS tally
    """
).columns(stages=JSONB())


async def tallies_of(session: WriteSession | ReadSession, batch_ids: Collection[str]) -> dict[str, BatchTally]:
    """Count the members of some batches, as the session sees them; batches that are not there are left out."""
    found = await session.execute(_TALLIES, {"batch_ids": sorted(batch_ids)})
    return {row["batch_id"]: _counted(row) async for row in InSlices(found)}


def _counted(row: Columns) -> BatchTally:
    first, last = (
        {phase: at for phase, own in _RESULTS.items() if (at := row[f"{bound}_{own}_at"]) is not None}
        for bound in ("min", "max")
    )
    awaited = frozenset(phase for phase in _RESULTS if row[f"awaited_{phase}"])
    return BatchTally(row["stages"], first, last, row["started_at"], row["heard_at"], awaited)


def to_document(tally: BatchTally) -> dict[str, Any]:
    """A tally as it is kept."""
    return {
        "stages": dict(tally.stages),
        "first_result_at": {phase.value: wire_time(at) for phase, at in tally.first_result_at.items()},
        "last_result_at": {phase.value: wire_time(at) for phase, at in tally.last_result_at.items()},
        "started_at": None if tally.started_at is None else wire_time(tally.started_at),
        "heard_at": None if tally.heard_at is None else wire_time(tally.heard_at),
        "awaited": sorted(tally.awaited),
    }


def from_document(document: Mapping[str, Any]) -> BatchTally:
    """A tally as it was kept."""
    started_at, heard_at = (
        document[name] and datetime.fromisoformat(document[name]) for name in ("started_at", "heard_at")
    )
    return BatchTally(
        document["stages"],
        {Phase(phase): datetime.fromisoformat(at) for phase, at in document["first_result_at"].items()},
        {Phase(phase): datetime.fromisoformat(at) for phase, at in document["last_result_at"].items()},
        started_at,
        heard_at,
        # One that an earlier version kept does not say. To decide by it is counted anew each time.
        frozenset(map(Phase, document.get("awaited", ()))),
    )
