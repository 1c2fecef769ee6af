"""Compares some of the answers from the cache with what the database gives now, beside the requests.

The database may be a moment ahead: a commit comes before its invalidation. So a difference counts only if the answer's
token is still there after a time in which any invalidation would have come.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from result_aggregator_service.cache.background import Background
from result_aggregator_service.cache.guarded_redis import RedisUnavailableError
from result_aggregator_service.cache.lookups import ANY_TAG, Lookups
from result_aggregator_service.cache.places import Place
from result_aggregator_service.observability.logging import first_line
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.storage.errors import is_trouble

#: A commit's invalidation comes within two calls to Redis, or is written down and made within about a second.
PATIENCE_SECONDS = 5.0

log = structlog.get_logger(__name__)


class Sampler:
    """Looks after a share of the hits, one at a time; those that come while it looks are let go."""

    def __init__(
        self, lookups: Lookups, metrics: Metrics, *, rate: float, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._lookups = lookups
        self._metrics = metrics
        self._rate = rate
        self._patience_seconds = patience_seconds
        self._background = Background(at_once=1)

    def consider(self, place: Place, token: bytes, is_present: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        """An answer was served from this place, under this token; `is_present` asks the database if it is still so."""
        if self._rate and random.random() < self._rate:
            self._background.start(place.key, lambda: self._compare(place, token, is_present))

    async def close(self) -> None:
        """Compare nothing more."""
        await self._background.close()

    async def _compare(self, place: Place, token: bytes, is_present: Callable[[], Coroutine[Any, Any, bool]]) -> None:
        try:
            result = await self._result(place, token, is_present)
        except Exception as error:
            is_known = isinstance(error, RedisUnavailableError) or is_trouble(error)
            told = {"cache_type": place.cache_type, "key": place.key, "error": first_line(error)}
            log.warning("sample_not_compared", **told, exc_info=not is_known)
            result = "failed"
        if result == "mismatch":
            log.error("cached_answer_was_stale", cache_type=place.cache_type, key=place.key)
        self._metrics.cache_samples.labels(place.cache_type, result).inc()

    async def _result(self, place: Place, token: bytes, is_present: Callable[[], Coroutine[Any, Any, bool]]) -> str:
        if await is_present():
            return "match"
        await asyncio.sleep(self._patience_seconds)
        now = await self._lookups.look(place.token, place.key, (ANY_TAG,))
        return "mismatch" if now.token == token else "overtaken"
