"""Whoever waits for a server goes on before work that nobody waits for does its next slice."""

import asyncio

from result_aggregator_service.turns import Slices


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
