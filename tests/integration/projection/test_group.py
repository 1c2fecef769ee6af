"""Replicas that crash, are rebalanced and replay, on the real database: nothing is lost, nothing is announced twice."""

import asyncio
from collections.abc import Sequence
from uuid import UUID

from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import run_state_machine_as_test

from result_aggregator_service.domain.event import Event
from result_aggregator_service.settings import Settings
from tests.hypothesis_profiles import examples
from tests.integration.projection.projection import ReadModel, at_hand
from tests.unit.domain.group import Group
from tests.unit.domain.model import ReadModel as InMemory

GRACE = 1.0


class InDatabase(Group):
    """The group over the projector and its tables."""

    def __init__(self, runner: asyncio.Runner, read_model: ReadModel) -> None:
        super().__init__()
        self.runner = runner
        self.read_model = read_model
        self.folded: set[UUID] = set()
        self.runner.run(read_model.clear())

    def fold(self, events: Sequence[Event]) -> None:
        self.runner.run(self.read_model.poll(*events))
        self.folded.update(event.clock.event_id for event in events)

    def fold_in_vain(self, events: Sequence[Event]) -> None:
        self.runner.run(self.read_model.poll_in_vain(*events))

    def fold_again(self, events: Sequence[Event]) -> None:
        self.runner.run(self.read_model.poll(*events, again=True))

    def forget_what_was_seen(self) -> None:
        self.runner.run(self.read_model.forget_what_was_seen())

    def run_grace(self) -> None:
        self.runner.run(self.read_model.caught_up(GRACE + 1))

    def announced(self) -> list[UUID]:
        return self.runner.run(self.read_model.announced_ids())

    def assert_holds(self, events: Sequence[Event], *, exactly: bool) -> None:
        told = {event.clock.event_id for event in events}
        assert told == self.folded if exactly else told <= self.folded

    def assert_is(self, model: InMemory) -> None:
        """Its statuses are the model's, and its rows those of one poll of everything."""
        views = model.views()
        assert {b: self.runner.run(self.read_model.status(b)) for b in views} == {b: v.status for b, v in views.items()}
        found = self.rows()
        self.runner.run(self.read_model.clear())
        self.fold(self.told())
        self.run_grace()
        assert found == self.rows()

    def rows(self) -> dict[str, list[object]]:
        """The read model's rows; of the inbox some may have been deleted."""
        rows = self.runner.run(self.read_model.state())
        del rows["processed_events"]
        return rows


def test_replicas_that_crash_and_replay_leave_the_rows_of_one_poll_and_announce_nothing_twice(
    settings: Settings,
) -> None:
    with at_hand(settings.model_copy(update={"results_grace_seconds": GRACE})) as (runner, read_model):
        runner.run(read_model.let_commits_be_refused())

        class OnThisDatabase(InDatabase):
            def __init__(self) -> None:
                super().__init__(runner, read_model)

        run_state_machine_as_test(
            OnThisDatabase,
            settings=hypothesis_settings(
                examples(0.2), stateful_step_count=12, suppress_health_check=list(HealthCheck)
            ),
        )
