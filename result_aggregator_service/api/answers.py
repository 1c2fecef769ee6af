"""Makes the answers of the API: from the cache where it has them, else from one snapshot of the database.

An answer's entity tag comes from the versions of the batches that it shows, which change with whatever they show: so
the tag of the present state is known without making the answer.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from hashlib import blake2b
from typing import Any, Generic, TypeVar
from urllib.parse import quote, urlencode
from uuid import UUID

import orjson

from result_aggregator_service.api.cursor import write_cursor
from result_aggregator_service.api.documents import (
    BatchPageDocument,
    BatchSummaryPageDocument,
    CursorPagination,
    OffsetPagination,
)
from result_aggregator_service.api.inputs import PageQuery, View
from result_aggregator_service.api.presentation import REPRESENTATION, present_batch, present_summary
from result_aggregator_service.cache.cache_manager import Answer, AnswerT_co, CacheManager, KnownTags, Unchanged
from result_aggregator_service.cache.lookups import Looked
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.batch_reader import BatchReader, PageKeys, Position
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.projection_repository import StoredBatch
from result_aggregator_service.storage.session import ReadSession

USER_BATCHES_PATH = "/internal/v1/batches/user"
#: Answers over more essays are made in a thread: it takes some 50 to 100 microseconds for each, and all other requests,
#: and the consumer, would wait for as long.
MAX_ESSAYS_AT_ONCE = 200

T = TypeVar("T")


def representation(settings: Settings) -> str:
    """What stands for the way in which facts are shown: 8 hex characters, of which every entity tag is made, too."""
    return _digest(4, str(REPRESENTATION), *settings.expected_phases)


class ReadModel:
    """Snapshots of the database, measured; and what each answer is read with."""

    def __init__(self, database: Database, reader: BatchReader, settings: Settings, metrics: Metrics) -> None:
        self._database = database
        self._metrics = metrics
        self.reader = reader
        self.expected_phases = settings.expected_phases
        self.representation = representation(settings)

    @asynccontextmanager
    async def snapshot(self, operation: str) -> AsyncIterator[ReadSession]:
        """One moment of the database; `operation` names it in the metrics."""
        started, status = time.perf_counter(), "error"
        try:
            async with self._database.snapshot() as session:
                yield session
            status = "success"
        finally:
            self._metrics.db_operations.labels(operation, status).inc()
            self._metrics.db_operation_duration.labels(operation).observe(time.perf_counter() - started)


class BatchAnswers:
    """The answers about batches."""

    def __init__(
        self, database: Database, reader: BatchReader, cache: CacheManager, settings: Settings, metrics: Metrics
    ) -> None:
        self._read_model = ReadModel(database, reader, settings, metrics)
        self._cache = cache

    def about_batch(self, batch_id: str, known: KnownTags) -> "Question[Answer | None]":
        """A batch with its essays; the answer is None if it is unknown or nobody's yet."""
        source = BatchSource(self._read_model, batch_id)
        return Question(
            partial(self._cache.look_for_batch, batch_id, known),
            partial(self._cache.batch_status, batch_id, known, source),
        )

    def about_user(self, user_id: str, query: PageQuery, known: KnownTags) -> "Question[Answer]":
        """A page of a user's batches."""
        source = PageSource(self._read_model, user_id, query)
        return Question(
            partial(self._cache.look_for_page, user_id, source.question, known),
            partial(self._cache.user_batches, user_id, source.question, known, source),
        )


class Question(Generic[AnswerT_co]):
    """What one request asks. The cache is looked into once, however it goes on."""

    def __init__(
        self,
        look: Callable[[], Coroutine[Any, Any, Looked]],
        answer: Callable[[Looked | None], Coroutine[Any, Any, AnswerT_co | Answer | Unchanged]],
    ) -> None:
        self._look = look
        self._answer = answer
        self._looked: Looked | None = None

    async def is_cached(self) -> bool:
        """Whether the answer takes no more than has been found in the cache."""
        self._looked = await self._look()
        return self._looked.stored is not None

    async def answer(self) -> AnswerT_co | Answer | Unchanged:
        """The answer."""
        return await self._answer(self._looked)


class BatchSource:
    """Where the answer about a batch comes from, if the cache does not have it."""

    def __init__(self, read_model: ReadModel, batch_id: str) -> None:
        self._read_model = read_model
        self._batch_id = batch_id

    async def etag(self) -> str | None:
        """The tag of the present answer, without making it."""
        async with self._read_model.snapshot("read_batch_version") as session:
            version = await self._read_model.reader.version(session, self._batch_id)
        return None if version is None else self._etag(version)

    async def load(self) -> Answer | None:
        """The present answer; None if the batch is unknown or nobody's yet."""
        async with self._read_model.snapshot("read_batch") as session:
            stored = await self._read_model.reader.batch(session, self._batch_id)
        if stored is None:
            return None
        phases = self._read_model.expected_phases
        body = await _make(len(stored.facts.essays), lambda: orjson.dumps(present_batch(stored, phases)))
        return Answer(body, self._etag(stored.version))

    def _etag(self, version: UUID) -> str:
        return _digest(16, self._read_model.representation, self._batch_id, version.hex)


class PageSource:
    """Where a page of a user's batches comes from, if the cache does not have it."""

    def __init__(self, read_model: ReadModel, user_id: str, query: PageQuery) -> None:
        self._read_model = read_model
        self._user_id = user_id
        self._query = query

    @property
    def question(self) -> str:
        """What is asked of the user's batches, in one form."""
        query = self._query
        start = f"after:{write_cursor(query.after) if query.after else ''}" if query.offset is None else query.offset
        return f"{query.limit}:{start}:{query.status or ''}:{query.view}"

    async def etag(self) -> str:
        """The tag of the present page, without making it."""
        async with self._read_model.snapshot("read_user_batches_versions") as session:
            return self._etag(await self._keys(session))

    async def load(self) -> Answer:
        """The present page."""
        reader = self._read_model.reader
        async with self._read_model.snapshot("read_user_batches") as session:
            keys = await self._keys(session)
            batch_ids = [key.batch_id for key in keys.keys]
            if self._query.view is View.SUMMARY:
                stored = await reader.summaries(session, batch_ids)
            else:
                stored = await reader.batches(session, batch_ids)
        essays = sum(len(batch.facts.essays) for batch in stored)
        return Answer(await _make(essays, lambda: orjson.dumps(self._document(keys, stored))), self._etag(keys))

    async def _keys(self, session: ReadSession) -> PageKeys:
        query = self._query
        return await self._read_model.reader.page_of(
            session,
            self._user_id,
            limit=query.limit,
            statuses=query.statuses,
            offset=query.offset,
            after=query.after,
        )

    def _document(self, keys: PageKeys, stored: Sequence[StoredBatch]) -> BatchPageDocument | BatchSummaryPageDocument:
        phases, pagination = self._read_model.expected_phases, self._pagination(keys)
        if self._query.view is View.SUMMARY:
            return {"batches": [present_summary(batch, phases) for batch in stored], "pagination": pagination}
        return {"batches": [present_batch(batch, phases) for batch in stored], "pagination": pagination}

    def _pagination(self, keys: PageKeys) -> OffsetPagination | CursorPagination:
        limit = self._query.limit
        if self._query.offset is not None and keys.total is not None:
            return {"limit": limit, "offset": self._query.offset, "total": keys.total}
        return {"limit": limit, "next": self._next(keys)}

    def _next(self, keys: PageKeys) -> str | None:
        """The URL of the next page, relative to the server's root."""
        if not keys.more:
            return None
        last, query = keys.keys[-1], self._query
        parameters = {"limit": str(query.limit), "view": query.view.value}
        if query.status is not None:
            parameters["status"] = query.status
        parameters["cursor"] = write_cursor(Position(last.created_at, last.batch_id))
        return f"{USER_BATCHES_PATH}/{quote(self._user_id, safe='')}?{urlencode(parameters)}"

    def _etag(self, keys: PageKeys) -> str:
        # The ids, too: batches that have not changed since there are versions all have the same one.
        shown = (part for key in keys.keys for part in (key.batch_id, key.version.hex))
        about = (self._user_id, self.question, str(keys.total), str(keys.more))
        return _digest(16, self._read_model.representation, *about, *shown)


def _digest(size: int, *parts: str) -> str:
    """A tag of `size` bytes in hex over some texts; each is told apart from the next, whatever it holds."""
    digest = blake2b(digest_size=size)
    for part in parts:
        raw = part.encode()
        digest.update(len(raw).to_bytes(4, "big") + raw)
    return digest.hexdigest()


async def _make(essays: int, make: Callable[[], T]) -> T:
    return make() if essays <= MAX_ESSAYS_AT_ONCE else await asyncio.to_thread(make)
