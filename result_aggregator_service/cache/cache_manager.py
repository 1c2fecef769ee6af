"""The finished answers in Redis. No read that begins after an invalidation succeeded gets an older answer.

An answer is stored together with the token ([places](places.py)) that its maker saw *before* reading the database, only
while that token is still there, and is a hit only under it. Nothing here looks at a clock: what is too old Redis says.
"""

import asyncio
import re
from collections.abc import Collection, Coroutine, Hashable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog

from result_aggregator_service.cache.background import Background
from result_aggregator_service.cache.compression import plain
from result_aggregator_service.cache.guarded_redis import GuardedRedis, RedisUnavailableError
from result_aggregator_service.cache.lookups import ANY_TAG, ETAG_LENGTH, Lookups, Stored
from result_aggregator_service.cache.places import Place, forget
from result_aggregator_service.cache.sampler import PATIENCE_SECONDS, Sampler
from result_aggregator_service.cache.single_flight import NextFlight, SingleFlight
from result_aggregator_service.cache.stores import Stores
from result_aggregator_service.observability.logging import first_line
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.storage.errors import is_trouble

#: So many tags of one request are looked at; the others count as not known.
MAX_KNOWN_TAGS = 20
#: An answer that is asked for in this last part of its life is made anew in the background.
LAST_PART = 0.1

_REFRESHES_AT_ONCE = 8
_SECONDS_BEFORE_ANOTHER_TRY = 1.0

_TAG = re.compile(rf"[0-9a-f]{{{ETAG_LENGTH}}}")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer: its JSON, or gzip of that, and the tag of what it says (32 hex characters, without quotes)."""

    body: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class Unchanged:
    """The client has the answer of this tag already."""

    etag: str


@dataclass(frozen=True, slots=True)
class KnownTags:
    """The answers that a client has, by their tags: what `If-None-Match` says. `any`: it has one, whatever its tag."""

    tags: frozenset[str] = frozenset()
    any: bool = False

    def __contains__(self, etag: str) -> bool:
        return self.any or etag in self.tags

    def __bool__(self) -> bool:
        return self.any or bool(self.tags)

    def few(self) -> "KnownTags":
        """Only such as can be a tag of this service's, at most `MAX_KNOWN_TAGS`."""
        if self.any or not self.tags:
            return KnownTags(any=self.any)
        return KnownTags(frozenset(sorted(filter(_TAG.fullmatch, self.tags))[:MAX_KNOWN_TAGS]))

    def words(self) -> tuple[str, ...]:
        """The same for a look-up in Redis, in one order."""
        return (ANY_TAG,) if self.any else tuple(sorted(self.tags))


AnswerT = TypeVar("AnswerT", bound=Answer | None)
AnswerT_co = TypeVar("AnswerT_co", bound=Answer | None, covariant=True)


class Source(Protocol[AnswerT_co]):
    """Where an answer comes from if the cache does not have it."""

    def etag(self) -> Coroutine[Any, Any, str | None]:
        """The tag of the present answer, without making it. None: there is no such thing."""
        ...

    def load(self) -> Coroutine[Any, Any, AnswerT_co]:
        """The present answer. None: there is no such thing."""
        ...


class CacheManager(Protocol):
    """Answers from the cache, else from their source; and what makes the cache forget."""

    async def batch_status(
        self, batch_id: str, known: KnownTags, source: Source[Answer | None]
    ) -> Answer | Unchanged | None:
        """The answer about a batch, if there is such a batch and the client does not have the answer already."""
        ...

    async def user_batches(
        self, user_id: str, question: str, known: KnownTags, source: Source[Answer]
    ) -> Answer | Unchanged:
        """The answer to a question about a user's batches, if the client does not have it already.

        Args:
            user_id: whose batches.
            question: what is asked of them, the same for all questions that mean the same.
            known: what the client has.
            source: where the answer comes from if the cache does not have it.
        """
        ...

    async def invalidate(self, batch_ids: Collection[str], user_ids: Collection[str]) -> bool:
        """Forget all answers about these batches and users. False: not all are forgotten, try again."""
        ...


class _SharedReads:
    """Reads without a cache. Readers share what begins after they came, so that it is as new as if each read alone."""

    def __init__(self) -> None:
        self._flights = NextFlight()

    async def read(self, question: Hashable, known: KnownTags, source: Source[AnswerT]) -> AnswerT | Unchanged:
        if known:
            etag = await self._flights.join((question, "etag"), source.etag)
            if etag is not None and etag in known:
                return Unchanged(etag)
        return await self._flights.join((question, "answer"), source.load)


class NoCache:
    """For `CACHE_ENABLED=false`: every answer comes from the database. Redis still forgets, for other replicas."""

    def __init__(self, redis: GuardedRedis) -> None:
        self._redis = redis
        self._reads = _SharedReads()

    async def batch_status(
        self, batch_id: str, known: KnownTags, source: Source[Answer | None]
    ) -> Answer | Unchanged | None:
        """What the source has now."""
        return await self._reads.read(("batch_status", batch_id), known.few(), source)

    async def user_batches(
        self, user_id: str, question: str, known: KnownTags, source: Source[Answer]
    ) -> Answer | Unchanged:
        """What the source has now."""
        return await self._reads.read(("user_batches", user_id, question), known.few(), source)

    async def invalidate(self, batch_ids: Collection[str], user_ids: Collection[str]) -> bool:
        """Forget all that other replicas keep about these batches and users. False: try again."""
        return await forget(self._redis, batch_ids, user_ids)


class RedisCacheManager:
    """The cache in Redis. While Redis is away reads go to the database, and wait for nothing else."""

    def __init__(
        self,
        redis: GuardedRedis,
        metrics: Metrics,
        *,
        ttl_seconds: int,
        representation: str,
        sample_rate: float = 0.0,
        sample_patience_seconds: float = PATIENCE_SECONDS,
    ) -> None:
        self._redis = redis
        self._metrics = metrics
        self._ttl_seconds = ttl_seconds
        self._lookups = Lookups(redis, representation=representation, token_ttl_seconds=2 * ttl_seconds)
        self._stores = Stores(
            redis, representation=representation, ttl_seconds=ttl_seconds, token_ttl_seconds=2 * ttl_seconds
        )
        self._flights = SingleFlight()
        self._reads = _SharedReads()
        self._refreshes = Background(at_once=_REFRESHES_AT_ONCE)
        self._sampler = Sampler(self._lookups, metrics, rate=sample_rate, patience_seconds=sample_patience_seconds)

    async def close(self) -> None:
        """End what runs in the background."""
        await self._refreshes.close()
        await self._sampler.close()

    async def batch_status(
        self, batch_id: str, known: KnownTags, source: Source[Answer | None]
    ) -> Answer | Unchanged | None:
        """The answer about a batch, if there is such a batch and the client does not have the answer already."""
        return await self._read(Place.of_batch(batch_id), known.few(), source)

    async def user_batches(
        self, user_id: str, question: str, known: KnownTags, source: Source[Answer]
    ) -> Answer | Unchanged:
        """The answer to a question about a user's batches, if the client does not have it already."""
        return await self._read(Place.of_page(user_id, question), known.few(), source)

    async def invalidate(self, batch_ids: Collection[str], user_ids: Collection[str]) -> bool:
        """Forget all answers about these batches and users. False: not all are forgotten, try again."""
        return await forget(self._redis, batch_ids, user_ids)

    async def _read(self, place: Place, known: KnownTags, source: Source[AnswerT]) -> AnswerT | Answer | Unchanged:
        try:
            token, stored = await self._lookups.look(place.token, place.key, known.words())
        except RedisUnavailableError:
            # Without a token nobody may join what has begun: an invalidation could have come in between.
            self._metrics.cache_misses.labels(place.cache_type).inc()
            return await self._reads.read(place, known, source)
        if stored is not None:
            self._metrics.cache_hits.labels(place.cache_type).inc()
            if stored.milliseconds_left < 1000 * self._ttl_seconds * LAST_PART:
                self._refreshes.start(place.key, lambda: self._refresh(place, token, source))
            self._sampler.consider(place, token, lambda: _is_present(stored, source))
            return _served(stored)
        self._metrics.cache_misses.labels(place.cache_type).inc()
        if known:
            etag = await self._flights.join((place.key, token, "etag"), source.etag)
            if etag is not None and etag in known:
                return Unchanged(etag)
        answer, _ = await self._flights.join((place.key, token), lambda: self._fill(place, token, source))
        return answer

    async def _refresh(self, place: Place, token: bytes, source: Source[AnswerT]) -> None:
        """Make the answer anew, as if it were missing already; who misses it meanwhile joins."""
        try:
            _, is_stored = await self._flights.join((place.key, token), lambda: self._fill(place, token, source))
            result = "stored" if is_stored else "not_stored"
        except Exception as error:
            told = {"cache_type": place.cache_type, "key": place.key, "error": first_line(error)}
            log.warning("answer_not_refreshed", **told, exc_info=not is_trouble(error))
            result = "failed"
        self._metrics.cache_refreshes.labels(place.cache_type, result).inc()
        if result != "stored":
            await asyncio.sleep(_SECONDS_BEFORE_ANOTHER_TRY)

    async def _fill(self, place: Place, token: bytes, source: Source[AnswerT]) -> tuple[AnswerT, bool]:
        """The present answer, and whether it could be stored."""
        answer = await source.load()
        if answer is None:
            return answer, False
        return answer, await self._stores.store(place, token, answer.etag, answer.body)


async def _is_present(stored: Stored, source: Source[Answer | None]) -> bool:
    """Whether the source has the same now: the whole body, or the tag where the body stayed in Redis."""
    answer = await source.load()
    if answer is None:
        return False
    if stored.body is None:
        return answer.etag == stored.etag
    return await plain(answer.body) == await plain(stored.body)


def _served(stored: Stored) -> Answer | Unchanged:
    return Unchanged(stored.etag) if stored.body is None else Answer(stored.body, stored.etag)
