"""Makes the answers of the API: from the cache where it has them, else from one snapshot of the database.

An answer's entity tag comes from the versions of the batches that it shows, which change with whatever they show: so
the tag of the present state is known without making the answer.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from hashlib import blake2b
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
from result_aggregator_service.cache.cache_manager import Answer, CacheManager, KnownTags, Unchanged
from result_aggregator_service.cache.compression import compressed
from result_aggregator_service.cache.gathering import Gathering
from result_aggregator_service.contracts.enums import Phase
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.batch_reader import FEW, BatchReader, BatchWithEssays, PageKeys, Position
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.session import ReadSession
from result_aggregator_service.storage.stored_facts import StoredBatch

USER_BATCHES_PATH = "/internal/v1/batches/user"
#: Answers over more essays, or more of which something is to be decided, are made in a thread: that takes some 60
#: microseconds for each of these, and all other requests, and the consumer, would wait for as long.
MAX_ESSAYS_AT_ONCE = 2_000
MAX_UNDECIDED_AT_ONCE = 200


def representation(settings: Settings) -> str:
    """What stands for the way in which facts are shown: 8 hex characters, of which every entity tag is made, too."""
    return _digest(4, str(REPRESENTATION), *settings.expected_phases)


class ReadModel:
    """Reads of the database, measured, and what becomes of what was read."""

    def __init__(self, database: Database, reader: BatchReader, settings: Settings, metrics: Metrics) -> None:
        self._database = database
        # To find a metric's child again takes ten times as long as to count with it.
        self._operations = cache(metrics.db_operations.labels)
        self._durations = cache(metrics.db_operation_duration.labels)
        self._gzip_min_bytes = settings.api_gzip_min_bytes
        self.reader = reader
        self.versions = Gathering(self._versions, at_once=FEW)
        self.batches = Gathering(self._batches, at_once=FEW)
        self.expected_phases: Sequence[Phase] = settings.expected_phases
        self.representation = representation(settings)

    @asynccontextmanager
    async def snapshot(self, operation: str, *, single_statement: bool = False) -> AsyncIterator[ReadSession]:
        """One moment of the database, for one statement only or for several; `operation` names it in the metrics."""
        started, status = time.perf_counter(), "error"
        try:
            async with self._database.single_statement() if single_statement else self._database.snapshot() as session:
                yield session
            status = "success"
        finally:
            self._operations(operation, status).inc()
            self._durations(operation).observe(time.perf_counter() - started)

    async def _versions(self, batch_ids: Sequence[str]) -> Mapping[str, UUID | Exception | None]:
        """The versions of the answers about some batches; None for one that is unknown or nobody's yet."""
        async with self.snapshot("read_batch_version", single_statement=True) as session:
            found = await self.reader.versions(session, batch_ids)
        return {batch_id: found.get(batch_id) for batch_id in batch_ids}

    async def _batches(self, batch_ids: Sequence[str]) -> Mapping[str, BatchWithEssays | Exception | None]:
        """Some batches with their essays; None for one that is unknown or nobody's yet."""
        async with self.snapshot("read_batch", single_statement=True) as session:
            found = await self.reader.few(session, batch_ids)
        return {batch_id: found.get(batch_id) for batch_id in batch_ids}

    async def answer(self, make: Callable[[], object], etag: str, read: Sequence[BatchWithEssays] = ()) -> Answer:
        """The answer that consists of what `make` makes of batches that were read, compressed if it is large."""
        essays, undecided = sum(len(batch.documents) for batch in read), sum(len(batch.undecided) for batch in read)
        if essays <= MAX_ESSAYS_AT_ONCE and undecided <= MAX_UNDECIDED_AT_ONCE:
            body = orjson.dumps(make())
        else:
            body = await asyncio.to_thread(lambda: orjson.dumps(make()))
        return Answer(body if len(body) < self._gzip_min_bytes else await compressed(body), etag)


class BatchAnswers:
    """The answers about batches."""

    def __init__(
        self, database: Database, reader: BatchReader, cache: CacheManager, settings: Settings, metrics: Metrics
    ) -> None:
        self._read_model = ReadModel(database, reader, settings, metrics)
        self._cache = cache

    async def about_batch(self, batch_id: str, known: KnownTags) -> Answer | Unchanged | None:
        """A batch with its essays; None if it is unknown or nobody's yet."""
        return await self._cache.batch_status(batch_id, known, BatchSource(self._read_model, batch_id))

    async def about_user(self, user_id: str, query: PageQuery, known: KnownTags) -> Answer | Unchanged:
        """A page of a user's batches."""
        source = PageSource(self._read_model, user_id, query)
        return await self._cache.user_batches(user_id, source.question, known, source)


class BatchSource:
    """Where the answer about a batch comes from, if the cache does not have it."""

    def __init__(self, read_model: ReadModel, batch_id: str) -> None:
        self._read_model = read_model
        self._batch_id = batch_id

    async def etag(self) -> str | None:
        """The tag of the present answer, without making it."""
        version = await self._read_model.versions.answer(self._batch_id)
        return None if version is None else self._etag(version)

    async def load(self) -> Answer | None:
        """The present answer; None if the batch is unknown or nobody's yet."""
        model = self._read_model
        batch = await model.batches.answer(self._batch_id)
        if batch is None:
            return None
        if batch.stored.tally is None:
            async with model.snapshot("read_batch") as session:
                read = await model.reader.batches(session, [self._batch_id])
            return await self._answer(read[0]) if read else None
        return await self._answer(batch)

    async def _answer(self, batch: BatchWithEssays) -> Answer:
        phases = self._read_model.expected_phases
        return await self._read_model.answer(
            lambda: present_batch(batch.stored, phases, batch.essays()), self._etag(batch.stored.version), [batch]
        )

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
        single = self._query.offset is None
        async with self._read_model.snapshot("read_user_batches_versions", single_statement=single) as session:
            return self._etag(await self._keys(session))

    async def load(self) -> Answer:
        """The present page."""
        model = self._read_model
        async with model.snapshot("read_user_batches") as session:
            keys = await self._keys(session)
            batch_ids = [key.batch_id for key in keys.keys]
            if self._query.view is View.FULL:
                batches = await model.reader.batches(session, batch_ids)
            else:
                summaries = await model.reader.summaries(session, batch_ids)
        if self._query.view is View.FULL:
            return await model.answer(lambda: self._batches(keys, batches), self._etag(keys), batches)
        return await model.answer(lambda: self._summaries(keys, summaries), self._etag(keys))

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

    def _summaries(self, keys: PageKeys, summaries: Sequence[StoredBatch]) -> BatchSummaryPageDocument:
        phases = self._read_model.expected_phases
        return {
            "batches": [present_summary(stored, phases) for stored in summaries],
            "pagination": self._pagination(keys),
        }

    def _batches(self, keys: PageKeys, batches: Sequence[BatchWithEssays]) -> BatchPageDocument:
        phases = self._read_model.expected_phases
        return {
            "batches": [present_batch(batch.stored, phases, batch.essays()) for batch in batches],
            "pagination": self._pagination(keys),
        }

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
