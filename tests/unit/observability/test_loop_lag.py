"""How late the event loop is: what holds it is seen."""

import asyncio
import time
from collections.abc import AsyncIterator

import pytest

from result_aggregator_service.observability.loop_lag import SECONDS_BETWEEN_LOOKS, LoopLag
from result_aggregator_service.observability.metrics import Metrics
from tests.waiting import eventually

HELD_SECONDS = 0.3


@pytest.fixture
async def metrics() -> AsyncIterator[Metrics]:
    metrics = Metrics()
    looking = asyncio.create_task(LoopLag(metrics).run())
    await eventually(lambda: looks(metrics) > 0, within=30)
    yield metrics
    looking.cancel()
    await asyncio.wait({looking})


def samples(metrics: Metrics) -> dict[tuple[str, str], float]:
    """Of the histogram alone: to ask the whole registry is a scrape."""
    (family,) = metrics.event_loop_lag.collect()
    return {(each.name, each.labels.get("le", "")): each.value for each in family.samples}


def looks(metrics: Metrics) -> float:
    return samples(metrics)["ras_event_loop_lag_seconds_count", ""]


def late(metrics: Metrics) -> float:
    return looks(metrics) - samples(metrics)["ras_event_loop_lag_seconds_bucket", "0.2"]


def longest(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("ras_event_loop_lag_max_seconds")


def busiest(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("ras_event_loop_busy_max_seconds")


async def hold_the_loop(metrics: Metrics) -> None:
    """Hold it once, and wait until that can have been seen."""
    before = looks(metrics)
    time.sleep(HELD_SECONDS)  # noqa: ASYNC251 - this is what must not happen
    await eventually(lambda: looks(metrics) > before, within=30)


async def test_who_holds_the_loop_is_seen_in_the_histogram_and_in_the_maximum(metrics: Metrics) -> None:
    before = late(metrics)
    await hold_the_loop(metrics)
    assert late(metrics) > before
    assert (longest(metrics) or 0.0) >= HELD_SECONDS - SECONDS_BETWEEN_LOOKS


async def test_what_the_loop_computes_is_told_from_what_it_waits_for(metrics: Metrics) -> None:
    await hold_the_loop(metrics)
    assert (busiest(metrics) or 0.0) < HELD_SECONDS / 2, "it slept"
    before = looks(metrics)
    until = time.thread_time() + HELD_SECONDS
    while time.thread_time() < until:
        pass
    await eventually(lambda: looks(metrics) > before, within=30)
    assert (busiest(metrics) or 0.0) >= HELD_SECONDS - SECONDS_BETWEEN_LOOKS
    assert busiest(metrics) == 0.0, "it is that since the last scrape"


async def test_the_maximum_is_that_since_the_last_scrape(metrics: Metrics) -> None:
    await hold_the_loop(metrics)
    assert longest(metrics) is not None
    assert longest(metrics) == 0.0  # nothing has turned since
