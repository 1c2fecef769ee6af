"""Work beside the requests: one at a time for each key, a bounded number in all, none after the end."""

import asyncio

from result_aggregator_service.cache.background import Background
from tests.waiting import eventually


class Work:
    """Counts what begins and what is cancelled, and ends when it is told to."""

    def __init__(self) -> None:
        self.begun = 0
        self.ended = 0
        self.cancelled = 0
        self.may_end = asyncio.Event()

    async def __call__(self) -> None:
        self.begun += 1
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.ended += 1


async def test_one_key_has_one_task_at_a_time_and_another_after_that() -> None:
    background, work = Background(at_once=9), Work()
    for _ in range(3):
        background.start("key", work)
        await asyncio.sleep(0)
    assert work.begun == 1
    work.may_end.set()
    await eventually(lambda: work.ended == 1)
    background.start("key", work)
    await eventually(lambda: work.ended == 2)


async def test_what_is_too_much_is_let_go() -> None:
    background, work = Background(at_once=3), Work()
    for key in range(10):
        background.start(key, work)
    await eventually(lambda: work.begun == 3)
    work.may_end.set()
    await eventually(lambda: work.ended == 3)
    background.start(10, work)
    await eventually(lambda: work.ended == 4)
    assert work.begun == 4


async def test_the_end_cancels_what_is_under_way_and_nothing_begins_after_it() -> None:
    background, work = Background(at_once=3), Work()
    for key in range(3):
        background.start(key, work)
    await eventually(lambda: work.begun == 3)
    await background.close()
    assert work.cancelled == 3
    background.start("late", work)
    await asyncio.sleep(0)
    assert work.begun == 3
