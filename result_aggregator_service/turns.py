"""Long work on the event loop is done in slices, between which everything else has its turn.

Whoever waits for a server needs some turns of the loop before it can ask the next thing: one in which the answer is
read, one in which it wakes. If each of them came after a slice, work that nobody waits for would hold up work that
somebody waits for by several.
"""

import asyncio
from collections.abc import Iterable
from time import perf_counter
from typing import Generic, Self, TypeVar

#: About as long as a server takes to answer. Shorter ones would give way more often, which takes time, too.
SLICE_SECONDS = 0.0005

_TURNS = 3

Item = TypeVar("Item")


class Slices:
    """The slices of one piece of work, which asks between its steps whether the slice at hand is over."""

    def __init__(self) -> None:
        self._end = perf_counter() + SLICE_SECONDS

    @property
    def is_over(self) -> bool:
        """Whether it is time to give way."""
        return perf_counter() > self._end

    async def give_way(self) -> None:
        """Let whoever has got an answer go on and ask the next thing; then begin another slice."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        self._end = perf_counter() + SLICE_SECONDS


class InSlices(Generic[Item]):
    """Some items, each of which is some work (`async for`); when one is asked for after a slice, that gives way first.

    To ask for one takes a sixth of a microsecond: where an item is less work than ten of those, take several at once.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = iter(items)
        self._slices = Slices()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Item:
        if self._slices.is_over:
            await self._slices.give_way()
        for item in self._items:
            return item
        raise StopAsyncIteration
