"""Replicas that crash, are rebalanced and replay: in memory, nothing is lost and nothing is announced twice."""

from collections.abc import Sequence
from uuid import UUID

from hypothesis import settings

from result_aggregator_service.domain.event import Event
from result_aggregator_service.domain.fold import Facts, Row, fold
from tests.hypothesis_profiles import examples
from tests.unit.domain.group import Group
from tests.unit.domain.model import ReadModel


def content(facts: Facts) -> dict[str, object]:
    """The facts as values that can be compared."""
    return {
        "batches": {batch_id: (_row(row), row.created_at, row.anchor_ids) for batch_id, row in facts.batches.items()},
        "essays": {essay_id: _row(row) for essay_id, row in facts.essays.items()},
        "outcomes": facts.outcomes,
        "pipeline_ends": facts.pipeline_ends,
        "assessments": facts.assessments,
    }


def _row(row: Row) -> object:
    return row.facets, row.heard_at, row.started_at


class InMemory(Group):
    """The group over the model, with an inbox like the database's."""

    def __init__(self) -> None:
        super().__init__()
        self.model = ReadModel()
        self.inbox: set[UUID] = set()

    def fold(self, events: Sequence[Event]) -> None:
        fresh = [event for event in events if event.clock.event_id not in self.inbox]
        self.inbox.update(event.clock.event_id for event in fresh)
        self.model.poll(*fresh)
        self.model.assert_all_is_judged()

    def fold_in_vain(self, events: Sequence[Event]) -> None:
        """Nothing of a transaction is left when it breaks."""

    def fold_again(self, events: Sequence[Event]) -> None:
        self.model.poll(*events)

    def forget_what_was_seen(self) -> None:
        self.inbox.clear()

    def run_grace(self) -> None:
        self.model.run_grace()

    def announced(self) -> list[UUID]:
        return [announcement.event_id for announcement in self.model.announced]

    def assert_holds(self, events: Sequence[Event], *, exactly: bool) -> None:
        with_them = ReadModel()
        if not exactly:
            with_them.merge(self.model.facts)
        with_them.merge(fold(events))
        assert content(with_them.facts) == content(self.model.facts)

    def assert_is(self, model: ReadModel) -> None:
        assert self.model.views() == model.views()


TestInMemory = InMemory.TestCase
TestInMemory.settings = settings(examples(1.6), stateful_step_count=25)
