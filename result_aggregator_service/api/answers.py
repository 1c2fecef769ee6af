"""Makes the answers of the API: from the cache where it has them, else from one snapshot of the database."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from functools import partial

import orjson

from result_aggregator_service.api.presentation import JsonObject, present_batch
from result_aggregator_service.cache.cache_manager import Answer, CacheManager
from result_aggregator_service.contracts.enums import BatchStatus
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.batch_reader import BatchReader
from result_aggregator_service.storage.engine import Database, ReadSession
from result_aggregator_service.storage.projection_repository import StoredBatch

#: Answers over more essays are made in a thread: it takes some 50 to 100 microseconds for each, and all other requests,
#: and the consumer, would wait for as long.
MAX_ESSAYS_AT_ONCE = 200


class BatchAnswers:
    """The answers about batches."""

    def __init__(
        self, database: Database, reader: BatchReader, cache: CacheManager, settings: Settings, metrics: Metrics
    ) -> None:
        self._database = database
        self._reader = reader
        self._cache = cache
        self._settings = settings
        self._metrics = metrics

    async def batch_status(self, batch_id: str) -> Answer | None:
        """The batch with its essays; None if it is unknown or nobody's yet."""
        return await self._cache.batch_status(batch_id, partial(self._load_batch, batch_id))

    async def user_batches(
        self, user_id: str, *, limit: int, offset: int, status: str | None, statuses: Collection[BatchStatus] | None
    ) -> Answer:
        """A page of the user's batches. `statuses` is what the filter `status` stands for."""
        load = partial(self._load_page, user_id, limit, offset, statuses)
        return await self._cache.user_batches(user_id, limit, offset, status, load)

    async def _load_batch(self, batch_id: str) -> Answer | None:
        async with self._snapshot("read_batch") as session:
            stored = await self._reader.batch(session, batch_id)
        if stored is None:
            return None
        document = (await self._present([stored]))[0]
        return Answer.of(orjson.dumps(document))

    async def _load_page(
        self, user_id: str, limit: int, offset: int, statuses: Collection[BatchStatus] | None
    ) -> Answer:
        async with self._snapshot("read_user_batches") as session:
            page = await self._reader.page(session, user_id, limit=limit, offset=offset, statuses=statuses)
        document = {
            "batches": await self._present(page.batches),
            "pagination": {"limit": limit, "offset": offset, "total": page.total},
        }
        return Answer.of(orjson.dumps(document))

    async def _present(self, batches: Sequence[StoredBatch]) -> list[JsonObject]:
        def present() -> list[JsonObject]:
            return [present_batch(stored, self._settings.expected_phases) for stored in batches]

        if sum(len(stored.facts.essays) for stored in batches) <= MAX_ESSAYS_AT_ONCE:
            return present()
        return await asyncio.to_thread(present)

    @asynccontextmanager
    async def _snapshot(self, operation: str) -> AsyncIterator[ReadSession]:
        started, status = time.perf_counter(), "error"
        try:
            async with self._database.snapshot() as session:
                yield session
            status = "success"
        finally:
            self._metrics.db_operations.labels(operation, status).inc()
            self._metrics.db_operation_duration.labels(operation).observe(time.perf_counter() - started)
