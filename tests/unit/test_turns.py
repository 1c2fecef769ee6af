"""Whoever waits for a server goes on before work that nobody waits for does its next slice."""

import asyncio

from result_aggregator_service.turns import InSlices, Slices


async def test_who_got_an_answer_asks_the_next_thing_before_the_next_slice() -> None:
    loop, told, slices = asyncio.get_running_loop(), list[str](), Slices()
    answer: asyncio.Future[str] = loop.create_future()

    async def ask() -> str:
        return await answer

    async def wait_for_a_server() -> None:
        # As with every client: the answer is read, its future wakes whoever asked, and that one its own caller's task.
        told.append(await asyncio.create_task(ask()))

    waiting = asyncio.create_task(wait_for_a_server())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for number in (1, 2):
        told.append(f"slice {number}")
        if number == 1:
            loop.call_soon(answer.set_result, "asked the next thing")
        await slices.give_way()
    await waiting
    assert told == ["slice 1", "asked the next thing", "slice 2"]


async def test_between_the_slices_of_many_items_others_have_their_turns() -> None:
    # They take a hundred slices, on however fast a machine.
    async def listed() -> list[int]:
        return [item async for item in InSlices(range(200_000))]

    listing = asyncio.create_task(listed())
    turns = 0
    while not listing.done():
        await asyncio.sleep(0)
        turns += 1
    assert await listing == [*range(200_000)]
    assert turns > 10


async def test_there_may_be_no_item() -> None:
    nothing: tuple[int, ...] = ()
    assert [item async for item in InSlices(nothing)] == []
