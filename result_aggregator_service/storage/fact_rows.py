"""What facts come to as rows: the parameters of the statements that write them. Nothing here needs a server.

So a poll's rows are made while the poll before it is still in PostgreSQL's hands.
"""

from collections.abc import AsyncIterator, Sequence
from functools import cached_property
from typing import Any

from result_aggregator_service.domain.facets import Listing, Placement, Registration
from result_aggregator_service.domain.fold import BatchRow, Facts, Row
from result_aggregator_service.storage.stored_facts import assessment_row, end_row, outcome_row
from result_aggregator_service.storage.upserts import rows_parameter
from result_aggregator_service.turns import Slices

Parameters = dict[str, Any]

_ESSAYS_OF_A_STATEMENT = 500
# The rows of more are made only as they are written: as text they take several times as much memory as their facts.
_ESSAYS_MADE_AHEAD = 5_000


class FactRows:
    """The rows of some facts, made ahead or when they are asked for; None where a table gets none."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self.batch_ids = facts.batches.keys()
        self.registered = [batch_id for batch_id, batch in facts.batches.items() if Registration in batch.facets]
        #: Essays that no message places.
        self.unplaced = sorted(e for e, row in facts.essays.items() if not row.facets.keys() & {Placement, Listing})
        self.essay_count = len(facts.essays)
        # In the order of the statement itself, by code point, so that several statements take their locks in it, too.
        ids = sorted(facts.essays)
        self._statements = [ids[at : at + _ESSAYS_OF_A_STATEMENT] for at in range(0, len(ids), _ESSAYS_OF_A_STATEMENT)]
        self._made: list[Parameters] = []

    @cached_property
    def heard(self) -> Parameters | None:
        """The batches that are spoken of, and when."""
        return _parameter([{"batch_id": b, "heard_at": row.heard_at} for b, row in self._facts.batches.items()])

    @cached_property
    def batches(self) -> Parameters | None:
        """Those of which more is said."""
        return _parameter([_batch_row(b, row) for b, row in self._facts.batches.items() if _says_more(row)])

    @cached_property
    def anchors(self) -> Parameters | None:
        """Their anchors."""
        with_anchors = ((b, sorted(row.anchor_ids)) for b, row in self._facts.batches.items() if row.anchor_ids)
        return joined([{"batch_id": b, "anchor_ids": anchor_ids} for b, anchor_ids in with_anchors])

    @cached_property
    def outcomes(self) -> Parameters | None:
        """How their phases ended."""
        return _parameter([outcome_row(outcome) for outcome in self._facts.outcomes.values()])

    @cached_property
    def pipeline_ends(self) -> Parameters | None:
        """How their pipelines ended."""
        return _parameter([end_row(end) for end in self._facts.pipeline_ends.values()])

    @cached_property
    def assessments(self) -> Parameters | None:
        """Their rankings, in the order of folding."""
        return _parameter([assessment_row(assessment) for assessment in self._facts.assessments.values()])

    async def make_ahead(self) -> None:
        """Make all rows but those of very many essays."""
        slices = Slices()
        for table in ("heard", "batches", "anchors", "outcomes", "pipeline_ends", "assessments"):
            getattr(self, table)
            if slices.is_over:
                await slices.give_way()
        for essay_ids in self._statements[: _ESSAYS_MADE_AHEAD // _ESSAYS_OF_A_STATEMENT]:
            self._made.append(await self._rows_of(essay_ids))

    async def essays(self) -> AsyncIterator[Parameters]:
        """The rows of essays, statement by statement; none if no essay is spoken of."""
        for place, essay_ids in enumerate(self._statements):
            yield self._made[place] if place < len(self._made) else await self._rows_of(essay_ids)

    async def _rows_of(self, essay_ids: Sequence[str]) -> Parameters:
        # A poll may speak of tens of thousands of essays: registrations do.
        rows, slices = [], Slices()
        for essay_id in essay_ids:
            rows.append(_essay_row(essay_id, self._facts.essays[essay_id]))
            if slices.is_over:
                await slices.give_way()
        return rows_parameter(rows)


def _says_more(batch: BatchRow) -> bool:
    """Whether more is said of a batch than that it was heard of."""
    return bool(batch.facets or batch.created_at or batch.started_at)


def _batch_row(batch_id: str, batch: BatchRow) -> Parameters:
    row = {"batch_id": batch_id, "heard_at": batch.heard_at}
    row |= {"created_at": batch.created_at, "started_at": batch.started_at}
    for facet in batch.facets.values():
        row.update(facet.to_row())
    return row


def _essay_row(essay_id: str, essay: Row) -> Parameters:
    row: Parameters = {"essay_id": essay_id, "heard_at": essay.heard_at, "started_at": essay.started_at}
    for facet in essay.facets.values():
        row.update(facet.to_row())
    row["batch_id"] = row.get("placed_batch_id") or row.get("listed_batch_id")
    return row


def _parameter(rows: Sequence[Parameters]) -> Parameters | None:
    return rows_parameter(rows) if rows else None


def joined(rows: Sequence[Parameters]) -> Parameters | None:
    """Rows to be joined with those of their batches."""
    return {**rows_parameter(rows), "batch_ids": [row["batch_id"] for row in rows]} if rows else None
