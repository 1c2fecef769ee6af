"""Joining those who want the same at the same time."""

import asyncio

import pytest

from result_aggregator_service.cache.single_flight import SingleFlight
from tests.waiting import eventually


class Work:
    """Counts its beginnings and ends, and ends when it is told to."""

    def __init__(self) -> None:
        self.begun = 0
        self.cancelled = 0
        self.may_end = asyncio.Event()
        self.failure: Exception | None = None

    async def __call__(self) -> int:
        self.begun += 1
        number = self.begun
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.failure is not None:
            raise self.failure
        return number


def joined(flights: SingleFlight, work: Work, count: int, key: str = "key") -> list[asyncio.Task[int]]:
    return [asyncio.create_task(flights.join(key, work)) for _ in range(count)]


async def test_many_who_want_the_same_at_once_cost_one_piece_of_work() -> None:
    flights, work = SingleFlight(), Work()
    callers = joined(flights, work, 200)
    await eventually(lambda: work.begun)
    work.may_end.set()
    assert await asyncio.gather(*callers) == [1] * 200
    assert work.begun == 1


async def test_who_comes_after_the_work_has_ended_gets_new_work() -> None:
    flights, work = SingleFlight(), Work()
    work.may_end.set()
    assert [await flights.join("key", work), await flights.join("key", work)] == [1, 2]


async def test_different_keys_are_not_joined() -> None:
    flights, work = SingleFlight(), Work()
    work.may_end.set()
    assert set(await asyncio.gather(flights.join("one", work), flights.join("other", work))) == {1, 2}


async def test_one_who_gives_up_does_not_disturb_the_others() -> None:
    flights, work = SingleFlight(), Work()
    first, second, third = joined(flights, work, 3)
    await eventually(lambda: work.begun)
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    work.may_end.set()
    assert [await second, await third] == [1, 1]
    assert work.cancelled == 0


async def test_work_that_nobody_waits_for_any_more_is_cancelled_and_nobody_joins_it() -> None:
    flights, work = SingleFlight(), Work()
    callers = joined(flights, work, 2)
    await eventually(lambda: work.begun)
    for caller in callers:
        caller.cancel()
    await asyncio.gather(*callers, return_exceptions=True)
    newcomer = joined(flights, work, 1)[0]
    await eventually(lambda: work.cancelled == 1)
    work.may_end.set()
    assert await newcomer == 2


async def test_a_failure_reaches_all_and_is_not_kept() -> None:
    flights, work = SingleFlight(), Work()
    work.failure = LookupError("broken")
    callers = joined(flights, work, 3)
    await eventually(lambda: work.begun)
    work.may_end.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LookupError] * 3
    work.failure = None
    assert await flights.join("key", work) == 2
