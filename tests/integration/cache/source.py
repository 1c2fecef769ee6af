"""Stands for the database: a value that changes, read by queries that a test can hold up after they have read."""

import asyncio
from hashlib import blake2b
from itertools import count

from result_aggregator_service.cache.cache_manager import Answer


def answer_of(body: bytes) -> Answer:
    """An answer with this body, and a tag that belongs to it."""
    return Answer(body, blake2b(body, digest_size=16).hexdigest())


class BatchSource:
    """`load` answers with the present version, None while there is none; `version` is bumped by a writer's commit."""

    def __init__(self) -> None:
        self.version: int | None = 1
        self.queries = 0
        self.tag_queries = 0
        self.read = asyncio.Event()
        self.may_return = asyncio.Event()
        self.may_return.set()
        self.failure: Exception | None = None

    @property
    def present(self) -> Answer | None:
        """The answer as of now."""
        return None if self.version is None else answer_of(b'{"version":%d}' % self.version)

    async def etag(self) -> str | None:
        """Read the version now, return when allowed to."""
        self.tag_queries += 1
        present = self.present
        await self._returned()
        return present.etag if present else None

    async def load(self) -> Answer | None:
        """Read now, return when allowed to."""
        self.queries += 1
        present = self.present
        await self._returned()
        return present

    def commit(self) -> None:
        """A writer's transaction."""
        self.version = next(_versions)

    async def _returned(self) -> None:
        self.read.set()
        await self.may_return.wait()
        if self.failure is not None:
            raise self.failure


class Source(BatchSource):
    """The same of what is always there."""

    async def load(self) -> Answer:
        """Read now, return when allowed to."""
        answer = await super().load()
        assert answer is not None
        return answer


class Given:
    """A source of one answer."""

    def __init__(self, body: bytes) -> None:
        self.answer = answer_of(body)

    async def etag(self) -> str:
        """Its tag."""
        return self.answer.etag

    async def load(self) -> Answer:
        """Itself."""
        return self.answer


_versions = count(2)
