"""Answers put into Redis, each only while the token is still there that its maker saw; small ones are gathered."""

from collections.abc import Sequence
from dataclasses import dataclass

import structlog

from result_aggregator_service.cache.gathering import Gathering
from result_aggregator_service.cache.guarded_redis import GuardedRedis, RedisUnavailableError
from result_aggregator_service.cache.kept_connections import Command
from result_aggregator_service.cache.places import Place

#: Larger answers are not kept: writing one could take longer than a call to Redis may.
MAX_CACHED_BYTES = 4 * 1024 * 1024
#: So many pages of one user's list are kept at a time.
MAX_PAGES_OF_A_USER = 1000

# So many answers, of so many bytes each, go together: they come well within the time that one of the largest may take.
_AT_ONCE = 16
_SMALL_BYTES = 64 * 1024

# KEYS: the token's, the answer's, that of a user's pages. ARGV: the token that was seen, the value, its life and the
# token's in seconds, how many pages are kept. Stores only under the token that was seen. A token lives longer than what
# is stored under it. Where a user has as many pages as are kept, some are looked at for whether they are still there.
# What takes memory comes first: a full Redis refuses a script's first write only, rather than leave it half done.
_STORE = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if KEYS[3] then
    if redis.call('SISMEMBER', KEYS[3], KEYS[2]) == 0 then
        if redis.call('SCARD', KEYS[3]) >= tonumber(ARGV[5]) then
            for _, page in ipairs(redis.call('SRANDMEMBER', KEYS[3], 20)) do
                if redis.call('EXISTS', page) == 0 then redis.call('SREM', KEYS[3], page) end
            end
            if redis.call('SCARD', KEYS[3]) >= tonumber(ARGV[5]) then return 0 end
        end
        redis.call('SADD', KEYS[3], KEYS[2])
    end
    redis.call('EXPIRE', KEYS[3], ARGV[4])
end
redis.call('SET', KEYS[2], ARGV[2], 'EX', ARGV[3])
redis.call('EXPIRE', KEYS[1], ARGV[4])
return 1
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class _Storing:
    """An answer on its way; `value` is token, representation, tag and body in one, as the look-up reads it."""

    place: Place
    token: bytes
    value: bytes


class Stores:
    """What one process stores; `representation`: that of its answers."""

    def __init__(self, redis: GuardedRedis, *, representation: str, ttl_seconds: int, token_ttl_seconds: int) -> None:
        self._redis = redis
        self._representation = representation.encode()
        self._limits = (ttl_seconds, token_ttl_seconds, MAX_PAGES_OF_A_USER)
        self._small = Gathering(self._store, at_once=_AT_ONCE)

    async def store(self, place: Place, token: bytes, etag: str, body: bytes) -> bool:
        """Keep an answer whose maker saw this token; whether it is kept."""
        if len(body) > MAX_CACHED_BYTES:
            return False
        storing = _Storing(place, token, b"".join((token, self._representation, etag.encode(), body)))
        try:
            if len(body) <= _SMALL_BYTES:
                return await self._small.answer(storing)
            (stored,) = (await self._store([storing])).values()
            if isinstance(stored, Exception):
                raise stored
        except RedisUnavailableError as error:
            log.debug("answer_not_cached", reason=str(error))
            return False
        return stored

    async def _store(self, all_of_them: Sequence[_Storing]) -> dict[_Storing, bool | Exception]:
        answers = await self._redis.exchange("store", [self._command(storing) for storing in all_of_them])
        return {
            storing: answer if isinstance(answer, RedisUnavailableError) else answer == 1
            for storing, answer in zip(all_of_them, answers, strict=True)
        }

    def _command(self, storing: _Storing) -> Command:
        place = storing.place
        keys = (place.token, place.key) if place.pages is None else (place.token, place.key, place.pages)
        return ("EVAL", _STORE, len(keys), *keys, storing.token, storing.value, *self._limits)
