"""Through the real database, too: order, duplicates and grouping leave no trace in rows and final announcements."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from result_aggregator_service.settings import Settings
from tests.hypothesis_profiles import examples
from tests.integration.projection.projection import ReadModel
from tests.integration.service.wiring import container_of
from tests.unit.domain.histories import in_polls, orderly, soups


async def outcome_of(given_settings: Settings, polls: list[list[Any]]) -> tuple[object, list[str], list[object]]:
    """The rows, the ledger and the outbox, sorted, after these polls and the grace, in an empty database."""
    async with container_of(given_settings.model_copy(update={"results_grace_seconds": 1.0})) as container:
        read_model = await ReadModel.of(container)
        await read_model.clear()
        for events in polls:
            await read_model.poll(*events)
        await read_model.caught_up(2.0)
        outbox = await read_model.announced(None)
        return await read_model.state(), await read_model.ledger(), [message["event_id"] for message in outbox]


def run(given_settings: Settings, polls: list[list[Any]]) -> tuple[Any, list[str], list[Any]]:
    with ThreadPoolExecutor(1) as pool:  # Hypothesis is not asynchronous; the fixtures' loop is busy
        return pool.submit(asyncio.run, outcome_of(given_settings, polls)).result()


@settings(examples(0.25), suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_order_duplication_and_grouping_gives_the_same_rows(data: st.DataObject, settings: Settings) -> None:
    history = data.draw(soups(), label="history")
    expected, _, _ = run(settings, [history])
    state, ledger, outbox = run(settings, data.draw(in_polls(history), label="polls"))
    assert state == expected
    assert len(outbox) == len(set(outbox)) == 2 * len(ledger)


@settings(examples(0.2), suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_an_orderly_pipeline_gives_the_same_announcements_too(data: st.DataObject, settings: Settings) -> None:
    history = data.draw(orderly("b1")) + data.draw(orderly("b2"))
    expected = run(settings, [history])
    found = run(settings, data.draw(in_polls(history), label="polls"))
    assert found[:2] == expected[:2]
    assert sorted(found[2]) == sorted(expected[2])
