"""The finished answers in Redis. No read that begins after an invalidation succeeded gets an older answer.

Each batch and each user has a random token, and an invalidation removes it: whoever looks next makes a new one, so that
it never comes back. An answer is stored together with the token that its maker saw *before* reading the database, only
while that token is still there, and is a hit only under it. Removing takes no memory, so it works in a full Redis too.
"""

import hashlib
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Literal, Protocol, Self, TypeVar

import structlog
from redis.asyncio import Redis

from result_aggregator_service.cache.guarded_redis import GuardedRedis, RedisUnavailableError
from result_aggregator_service.cache.lookups import TOKEN_LENGTH, Lookups
from result_aggregator_service.cache.single_flight import SingleFlight
from result_aggregator_service.observability.metrics import Metrics

#: Larger answers are not kept: writing one could take longer than a call to Redis may.
MAX_CACHED_BYTES = 4 * 1024 * 1024
#: So many pages of one user's list are kept at a time.
MAX_PAGES_OF_A_USER = 1000

_BATCHES_AT_ONCE = 500
_USERS_AT_ONCE = 100
_ETAG_LENGTH = 32

# Stores only under the token that was seen. A token lives longer than what is stored under it. What takes memory comes
# first: a full Redis refuses a script's first write only, rather than leave it half done.
_STORE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if KEYS[3] then
    if redis.call('SCARD', KEYS[3]) >= tonumber(ARGV[5]) then return 0 end
    redis.call('SADD', KEYS[3], KEYS[2])
    redis.call('EXPIRE', KEYS[3], ARGV[4])
end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
"""
# For each user: the token, and every page that is tracked.
_FORGET_USERS = """
for user = 1, #KEYS, 2 do
    local pages = redis.call('SMEMBERS', KEYS[user + 1])
    for first = 1, #pages, 1000 do
        redis.call('UNLINK', unpack(pages, first, math.min(first + 999, #pages)))
    end
    redis.call('UNLINK', KEYS[user], KEYS[user + 1])
end
return #KEYS / 2
"""

CacheType = Literal["batch_status", "user_batches"]
AnswerT = TypeVar("AnswerT")
log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer: the JSON as it is sent, and its strong entity tag (without quotes)."""

    body: bytes
    etag: str

    @classmethod
    def of(cls, body: bytes) -> Self:
        """The answer with this body."""
        return cls(body, hashlib.blake2b(body, digest_size=_ETAG_LENGTH // 2).hexdigest())


class CacheManager(Protocol):
    """Answers from the cache, else from `load`; and what makes the cache forget."""

    async def batch_status(self, batch_id: str, load: Callable[[], Awaitable[Answer | None]]) -> Answer | None:
        """The answer about a batch. A None of `load` is passed on and not kept."""
        ...

    async def user_batches(
        self, user_id: str, limit: int, offset: int, status: str | None, load: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """A page of a user's batches; `status` is the filter as it was asked for."""
        ...

    async def invalidate(self, batch_ids: Collection[str], user_ids: Collection[str]) -> bool:
        """Forget all answers about these batches and users. False: not all are forgotten, try again."""
        ...


class NoCache:
    """For `CACHE_ENABLED=false`: every answer comes from the database."""

    async def batch_status(self, batch_id: str, load: Callable[[], Awaitable[Answer | None]]) -> Answer | None:
        """What `load` makes."""
        return await load()

    async def user_batches(
        self, user_id: str, limit: int, offset: int, status: str | None, load: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """What `load` makes."""
        return await load()

    async def invalidate(self, batch_ids: Collection[str], user_ids: Collection[str]) -> bool:
        """Nothing is kept, so all is forgotten."""
        return True


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an answer is kept; `pages` tracks a user's."""

    cache_type: CacheType
    key: str
    token: str
    pages: str | None = None


class RedisCacheManager:
    """The cache in Redis. While Redis is away reads go to the database, each by itself, and wait for nothing."""

    def __init__(self, redis: GuardedRedis, metrics: Metrics, *, ttl_seconds: int) -> None:
        self._redis = redis
        self._metrics = metrics
        self._ttl_seconds = ttl_seconds
        self._token_ttl_seconds = 2 * ttl_seconds
        self._lookups = Lookups(redis, token_ttl_seconds=self._token_ttl_seconds)
        self._flights = SingleFlight()

    async def batch_status(self, batch_id: str, load: Callable[[], Awaitable[Answer | None]]) -> Answer | None:
        """The answer about a batch. A None of `load` is passed on and not kept."""
        return await self._read(_Place("batch_status", _batch_key(batch_id), _batch_token(batch_id)), load)

    async def user_batches(
        self, user_id: str, limit: int, offset: int, status: str | None, load: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """A page of a user's batches; `status` is the filter as it was asked for."""
        key = f"ras:user:{user_id}:batches:{limit}:{offset}:{status or ''}"
        return await self._read(_Place("user_batches", key, _user_token(user_id), _user_pages(user_id)), load)

    async def invalidate(self, batch_ids: Collection[str], user_ids: Collection[str]) -> bool:
        """Forget all answers about these batches and users. False: not all are forgotten, try again.

        Tried even while Redis is left alone otherwise: this replica may have lost it, and others not.
        """
        batches = list(chain.from_iterable((_batch_token(b), _batch_key(b)) for b in sorted(batch_ids)))
        users = list(chain.from_iterable((_user_token(u), _user_pages(u)) for u in sorted(user_ids)))
        try:
            for keys in _chunks(batches, 2 * _BATCHES_AT_ONCE):
                await self._redis.call("invalidate", partial(_forget_batches, keys), even_if_in_trouble=True)
            for keys in _chunks(users, 2 * _USERS_AT_ONCE):
                await self._redis.call("invalidate", partial(_forget_users, keys), even_if_in_trouble=True)
        except RedisUnavailableError as error:
            log.info("invalidation_not_taken", batches=len(batch_ids), users=len(user_ids), reason=str(error))
            return False
        return True

    async def _read(self, place: _Place, load: Callable[[], Awaitable[AnswerT]]) -> AnswerT | Answer:
        try:
            token, value = await self._lookups.look(place.token, place.key)
        except RedisUnavailableError:
            # Without a token nobody may be joined: an invalidation could have come in between.
            self._metrics.cache_misses.labels(place.cache_type).inc()
            return await load()
        if value is not None and value[:TOKEN_LENGTH] == token:
            self._metrics.cache_hits.labels(place.cache_type).inc()
            return _unpack(value)
        self._metrics.cache_misses.labels(place.cache_type).inc()
        return await self._flights.join((place.key, token), lambda: self._fill(place, token, load))

    async def _fill(self, place: _Place, token: bytes, load: Callable[[], Awaitable[AnswerT]]) -> AnswerT:
        answer = await load()
        if not isinstance(answer, Answer) or len(answer.body) > MAX_CACHED_BYTES:
            return answer
        keys = [place.token, place.key] if place.pages is None else [place.token, place.key, place.pages]
        arguments = (token, _pack(token, answer), self._ttl_seconds, self._token_ttl_seconds, MAX_PAGES_OF_A_USER)
        try:
            await self._redis.call("store", lambda redis: redis.eval(_STORE, len(keys), *keys, *arguments))
        except RedisUnavailableError as error:
            log.debug("answer_not_cached", reason=str(error))
        return answer


# Ids may hold any character, colons too; no key below can be read as one of another kind or of another id.


def _batch_key(batch_id: str) -> str:
    return f"ras:batch:{batch_id}"


def _batch_token(batch_id: str) -> str:
    return f"ras:batch-token:{batch_id}"


def _user_token(user_id: str) -> str:
    return f"ras:user-token:{user_id}"


def _user_pages(user_id: str) -> str:
    return f"ras:user-pages:{user_id}"


def _pack(token: bytes, answer: Answer) -> bytes:
    return b"".join((token, answer.etag.encode(), answer.body))


def _unpack(value: bytes) -> Answer:
    body_at = TOKEN_LENGTH + _ETAG_LENGTH
    return Answer(value[body_at:], value[TOKEN_LENGTH:body_at].decode())


async def _forget_batches(keys: Sequence[str], redis: Redis) -> None:
    await redis.unlink(*keys)


async def _forget_users(keys: Sequence[str], redis: Redis) -> None:
    await redis.eval(_FORGET_USERS, len(keys), *keys)


def _chunks(keys: list[str], size: int) -> list[list[str]]:
    return [keys[start : start + size] for start in range(0, len(keys), size)]
