"""Stands for the database: a value that changes, read by queries that a test can hold up after they have read."""

import asyncio
from itertools import count

from result_aggregator_service.cache.cache_manager import Answer


class Source:
    """`load` answers with the present version; `version` is bumped by a writer's commit."""

    def __init__(self) -> None:
        self.version: int | None = 1
        self.queries = 0
        self.read = asyncio.Event()
        self.may_return = asyncio.Event()
        self.may_return.set()

    async def load(self) -> Answer:
        """Read now, return when allowed to."""
        answer = await self.load_if_any()
        assert answer is not None
        return answer

    async def load_if_any(self) -> Answer | None:
        """The same; None while there is no version."""
        self.queries += 1
        answer = None if self.version is None else Answer.of(b'{"version":%d}' % self.version)
        self.read.set()
        await self.may_return.wait()
        return answer

    def commit(self) -> None:
        """A writer's transaction."""
        self.version = next(_versions)


_versions = count(2)
