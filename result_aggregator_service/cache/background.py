"""Work that no request waits for and none depends on: bounded in number, ended with the process."""

import asyncio
from collections.abc import Callable, Coroutine, Hashable
from typing import Any


class Background:
    """Tasks by key, one at a time for each, so many at once in all. What is too much is let go, not queued."""

    def __init__(self, *, at_once: int) -> None:
        self._at_once = at_once
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}

    def start(self, key: Hashable, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Begin, unless there is enough to do. `work` raises nothing: nobody would hear of it."""
        if key not in self._tasks and len(self._tasks) < self._at_once:
            task = self._tasks[key] = asyncio.create_task(work())
            task.add_done_callback(lambda _: self._tasks.pop(key))

    async def close(self) -> None:
        """Cancel what is under way, and begin nothing more."""
        self._at_once = 0
        for task in (tasks := list(self._tasks.values())):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
