"""Marks of messages whose effects are committed, to spare the look-up in the inbox. Nothing depends on them.

Marks are kept apart by the database they speak of, so that a new or restored database is not taken for one that has
seen a message.
"""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

import structlog

from result_aggregator_service.cache.guarded_redis import GuardedRedis, RedisUnavailableError

# One command with one answer: a pipeline of as many SETs takes this process tens of milliseconds.
_MARK = "for each = 1, #KEYS do redis.call('SET', KEYS[each], '1', 'NX', 'EX', ARGV[1]) end"

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
        keys = [_key(database_id, event_id) for event_id in event_ids]
        try:
            marks = await self._redis.call("seen", lambda redis: redis.mget(keys))
        except RedisUnavailableError as error:
            log.debug("marks_not_read", reason=str(error))
            return set()
        return {event_id for event_id, mark in zip(event_ids, marks, strict=True) if mark is not None}

    async def mark(self, database_id: str, event_ids: Sequence[UUID]) -> None:
        """Mark messages, after the transaction that holds their effects has committed."""
        if not event_ids:
            return
        keys = [_key(database_id, event_id) for event_id in event_ids]
        try:
            await self._redis.call("mark", lambda redis: redis.eval(_MARK, len(keys), *keys, self._ttl_seconds))
        except RedisUnavailableError as error:
            log.debug("messages_not_marked", reason=str(error))


def _key(database_id: str, event_id: UUID) -> str:
    return f"ras:seen:{database_id}:{event_id}"
