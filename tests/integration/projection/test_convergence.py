"""Through the real database, too: order, duplicates and grouping leave no trace in rows and final announcements."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings

from result_aggregator_service.domain.announcements import pipeline_results_id, results_announcement
from result_aggregator_service.domain.event import Clock, Event
from result_aggregator_service.settings import Settings
from tests.hypothesis_profiles import examples
from tests.integration.projection.projection import ReadModel, at_hand
from tests.integration.service.wiring import rows
from tests.unit.domain.histories import arrival, graces, lives, orderly, seeds, soups
from tests.unit.domain.messages import EXPECTED, SERVICE
from tests.unit.domain.model import ReadModel as InMemory

GRACE = 1.0


@dataclass
class Outcome:
    """What some polls left in an empty database."""

    rows: dict[str, list[Any]]
    ledger: list[str]
    announced: list[UUID]
    judged: dict[str, tuple[str, Clock | None]]


async def outcome_of(
    read_model: ReadModel, history: list[Event], seed: int, *, early_grace: bool = True, ahead: bool = False
) -> Outcome:
    """After one arrival of a history and the grace; `early_grace`: which also runs out after some of the polls.

    Or else `ahead`: each poll prepared before the one before it is projected.
    """
    await read_model.clear()
    polls = arrival(history, seed)
    if ahead:
        await read_model.polls_ahead(*polls)
    for events, grace in () if ahead else zip(polls, graces(seed, polls), strict=True):
        await read_model.poll(*events)
        if grace and early_grace:
            await read_model.caught_up(GRACE + 1)
    await read_model.caught_up(GRACE + 1)
    judged = await rows(read_model.database, "SELECT * FROM batch_results")
    return Outcome(
        await read_model.state(),
        await read_model.ledger(),
        await read_model.announced_ids(),
        {
            row["batch_id"]: (
                row["overall_status"],
                row["grace_horizon_at"] and Clock(row["grace_horizon_at"], row["grace_horizon_event_id"]),
            )
            for row in judged
        },
    )


def model_of(history: list[Event]) -> InMemory:
    model = InMemory()
    model.poll(*history)
    model.run_grace()
    return model


def test_any_order_duplication_and_grouping_gives_the_same_rows_and_announces_the_end(settings: Settings) -> None:
    with at_hand(settings.model_copy(update={"results_grace_seconds": GRACE})) as (runner, read_model):

        @hypothesis_settings(examples(0.4), suppress_health_check=list(HealthCheck))
        @given(soups() | lives(), seeds)
        def in_any_order(history: list[Event], seed: int) -> None:
            expected = runner.run(outcome_of(read_model, history, seed=0))
            found = runner.run(outcome_of(read_model, history, seed))
            assert found.rows == expected.rows
            assert sorted(map(str, found.announced)) == found.ledger
            ahead = runner.run(outcome_of(read_model, history, seed, ahead=True))
            assert ahead.rows == expected.rows
            assert sorted(map(str, ahead.announced)) == ahead.ledger
            views = model_of(history).views()
            assert found.judged == {b: (view.status, view.facts.grace_horizon) for b, view in views.items()}
            for batch_id, view in views.items():
                if view.finished_by is not None and view.facts.registration is not None:
                    final = results_announcement(view.facts, view.status, EXPECTED, SERVICE)
                    assert final is not None
                    named = {final.event_id, pipeline_results_id(view.facts, view.status)}
                    assert named & set(found.announced), batch_id

        in_any_order()


def test_orderly_pipelines_give_the_same_announcements_too(settings: Settings) -> None:
    with at_hand(settings.model_copy(update={"results_grace_seconds": GRACE})) as (runner, read_model):

        @hypothesis_settings(examples(0.15), suppress_health_check=list(HealthCheck))
        @given(orderly("b1"), orderly("b2"), seeds)
        def in_any_order(one: list[Event], other: list[Event], seed: int) -> None:
            history = one + other
            found = runner.run(outcome_of(read_model, history, seed, early_grace=False))
            model = model_of(history)
            assert found.ledger == sorted(map(str, model.ledger))
            assert sorted(map(str, found.announced)) == found.ledger
            assert found.judged == {b: (view.status, None) for b, view in model.views().items()}

        in_any_order()
