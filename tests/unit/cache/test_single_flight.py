"""Joining those who want the same at the same time."""

import asyncio

import pytest

from result_aggregator_service.cache.single_flight import NextFlight, SingleFlight
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


def joined(flights: SingleFlight | NextFlight, work: Work, count: int, key: str = "key") -> list[asyncio.Task[int]]:
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


async def test_who_comes_after_the_table_was_closed_gets_new_work_and_the_others_theirs() -> None:
    flights, work = SingleFlight(), Work()
    early = joined(flights, work, 2)
    await eventually(lambda: work.begun == 1)
    flights.close("key")
    late = joined(flights, work, 2)
    await eventually(lambda: work.begun == 2)
    work.may_end.set()
    assert await asyncio.gather(*early, *late) == [1, 1, 2, 2]


async def test_the_next_flight_takes_all_who_come_before_it_begins() -> None:
    flights, work = NextFlight(), Work()
    callers = joined(flights, work, 1000)
    await eventually(lambda: work.begun)
    work.may_end.set()
    assert await asyncio.gather(*callers) == [1] * 1000


async def test_while_one_is_under_way_however_many_come_wait_for_one_more_and_nobody_joins_the_first() -> None:
    flights, work = NextFlight(), Work()
    [first] = joined(flights, work, 1)
    await eventually(lambda: work.begun == 1)
    callers: list[asyncio.Task[int]] = []
    for _ in range(10):
        callers += joined(flights, work, 100)
        await asyncio.sleep(0)
    assert work.begun == 1
    work.may_end.set()
    assert await asyncio.gather(first, *callers) == [1] + [2] * 1000


async def test_the_next_flight_of_another_key_waits_for_nobody() -> None:
    flights, work = NextFlight(), Work()
    callers = joined(flights, work, 1) + joined(flights, work, 1, key="other")
    await eventually(lambda: work.begun == 2)
    work.may_end.set()
    assert sorted(await asyncio.gather(*callers)) == [1, 2]


async def test_a_flight_that_all_have_left_is_cancelled_and_the_next_begins() -> None:
    flights, work = NextFlight(), Work()
    first = joined(flights, work, 2)
    await eventually(lambda: work.begun == 1)
    second = joined(flights, work, 2)
    await asyncio.sleep(0)
    for caller in first:
        caller.cancel()
    await eventually(lambda: work.begun == 2)
    assert work.cancelled == 1
    work.may_end.set()
    assert await asyncio.gather(*second) == [2, 2]


async def test_a_flight_that_all_have_left_before_it_began_does_not_begin() -> None:
    flights, work = NextFlight(), Work()
    [first] = joined(flights, work, 1)
    await eventually(lambda: work.begun == 1)
    waiting = joined(flights, work, 2)
    await asyncio.sleep(0)
    for caller in waiting:
        caller.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    [newcomer] = joined(flights, work, 1)
    work.may_end.set()
    assert [await first, await newcomer] == [1, 2]
    assert (work.begun, work.cancelled) == (2, 0)


async def test_one_who_leaves_the_next_flight_does_not_disturb_the_others() -> None:
    flights, work = NextFlight(), Work()
    leaver, stayer = joined(flights, work, 2)
    await eventually(lambda: work.begun == 1)
    leaver.cancel()
    work.may_end.set()
    assert await stayer == 1


async def test_a_failure_of_one_flight_is_not_that_of_the_next() -> None:
    flights, failing, work = NextFlight(), Work(), Work()
    failing.failure = LookupError("broken")
    [first] = joined(flights, failing, 1)
    await eventually(lambda: failing.begun)
    [second] = joined(flights, work, 1)
    failing.may_end.set()
    work.may_end.set()
    with pytest.raises(LookupError):
        await first
    assert await second == 1
