"""Joins callers that want the same thing at the same time: the work is done once, and all get what came out of it.

A caller that gives up does not disturb the others; when the last one gives up, the work is cancelled.
"""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from typing import Any, TypeVar
from weakref import WeakValueDictionary

T = TypeVar("T")


class _Flight:
    __slots__ = ("passengers", "task")

    def __init__(self, task: asyncio.Task[Any]) -> None:
        self.task = task
        self.passengers = 0


class SingleFlight:
    """Work under way in this process, by key."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight] = {}
        self._ending: set[asyncio.Task[Any]] = set()

    async def join(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `work` returns or raises; if work under this key is under way already, what that does."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(work()))
            flight.task.add_done_callback(partial(self._landed, key, flight))
        flight.passengers += 1
        try:
            landed: T = await asyncio.shield(flight.task)
            return landed
        finally:
            flight.passengers -= 1
            if flight.passengers == 0 and not flight.task.done():
                # Out of the table first, so that nobody joins what is being cancelled.
                self._landed(key, flight, flight.task)
                self._ending.add(flight.task)
                flight.task.add_done_callback(self._ending.discard)
                flight.task.cancel()

    def close(self, key: Hashable) -> None:
        """Whoever comes from here on does not join the work under way under this key."""
        self._flights.pop(key, None)

    def _landed(self, key: Hashable, flight: _Flight, _task: asyncio.Task[Any]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]


class NextFlight:
    """For work whose outcome ages: callers join only work that begins after they came.

    While some is under way, all who come wait for one more. So however many they are, they cost two at most.
    """

    def __init__(self) -> None:
        self._boarding = SingleFlight()
        self._turns: WeakValueDictionary[Hashable, asyncio.Lock] = WeakValueDictionary()

    async def join(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """What `work` returns or raises, or that of another caller if it has not begun yet."""
        return await self._boarding.join(key, lambda: self._depart(key, work))

    async def _depart(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        async with self._turns.setdefault(key, asyncio.Lock()):
            self._boarding.close(key)
            return await work()
