"""Marks of messages whose effects are committed, to spare the look-up in the inbox. Nothing depends on them.

Marks are kept apart by the database they speak of, so that a new or restored database is not taken for one that has
seen a message.
"""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

import structlog

from result_aggregator_service.cache.guarded_redis import GuardedRedis, RedisUnavailableError

# All messages of a poll in one command, and their ids in one argument, 32 digits each: what takes this process time is
# the number of commands and of arguments.
_SEEN = """
local seen = {}
for place = 0, #ARGV[2] / 32 - 1 do
    if redis.call('EXISTS', ARGV[1] .. string.sub(ARGV[2], 32 * place + 1, 32 * place + 32)) == 1 then
        seen[#seen + 1] = place
    end
end
return seen
"""
_MARK = """
for place = 0, #ARGV[2] / 32 - 1 do
    redis.call('SET', ARGV[1] .. string.sub(ARGV[2], 32 * place + 1, 32 * place + 32), '1', 'NX', 'EX', ARGV[3])
end
"""

log = structlog.get_logger(__name__)


class IdempotencyMarks(Protocol):
    """Which messages a database has seen, as far as is remembered."""

    async def seen(self, database_id: str, event_ids: Sequence[UUID]) -> set[UUID]:
        """Those that are marked; a message that is not may have been seen all the same."""
        ...

    async def mark(self, database_id: str, event_ids: Sequence[UUID]) -> None:
        """Mark messages, after the transaction that holds their effects has committed."""
        ...


class RedisIdempotencyMarks:
    """The marks in Redis. While it is away nothing is marked and nothing is known."""

    def __init__(self, redis: GuardedRedis, *, ttl_seconds: int) -> None:
        self._redis = redis
        self._ttl_seconds = ttl_seconds

    async def seen(self, database_id: str, event_ids: Sequence[UUID]) -> set[UUID]:
        """Those that are marked; a message that is not may have been seen all the same."""
        if not event_ids:
            return set()
        prefix, ids = _prefix(database_id), _joined(event_ids)
        try:
            places = await self._redis.execute("seen", "EVAL", _SEEN, 0, prefix, ids)
        except RedisUnavailableError as error:
            log.debug("marks_not_read", reason=str(error))
            return set()
        return {event_ids[place] for place in places}

    async def mark(self, database_id: str, event_ids: Sequence[UUID]) -> None:
        """Mark messages, after the transaction that holds their effects has committed."""
        if not event_ids:
            return
        prefix, ids = _prefix(database_id), _joined(event_ids)
        try:
            await self._redis.execute("mark", "EVAL", _MARK, 0, prefix, ids, self._ttl_seconds)
        except RedisUnavailableError as error:
            log.debug("messages_not_marked", reason=str(error))


def _prefix(database_id: str) -> str:
    """What the key of each of a database's marks begins with; the id follows, without hyphens."""
    return f"ras:seen:{database_id}:"


def _joined(event_ids: Sequence[UUID]) -> str:
    return b"".join([event_id.int.to_bytes(16) for event_id in event_ids]).hex()
