"""Copies of quarantined messages for a quick look. The quarantine table is what counts; a copy may fail to be made."""

from base64 import b64encode
from typing import Protocol

import orjson
import structlog

from result_aggregator_service.cache.guarded_redis import GuardedRedis, RedisUnavailableError
from result_aggregator_service.storage.quarantine import BadMessage

MAX_COPIED_BYTES = 64 * 1024

log = structlog.get_logger(__name__)


class PoisonPills(Protocol):
    """Where copies of bad messages go."""

    async def store(self, message: BadMessage) -> None:
        """Copy one bad message; never fails."""
        ...


class NoPoisonPills:
    """For `STORE_POISON_PILLS=false`."""

    async def store(self, message: BadMessage) -> None:
        """Nothing is copied."""


class RedisPoisonPills:
    """Copies as JSON under `poison_pill:{topic}:{partition}:{offset}`, bytes in base64, long ones cut."""

    def __init__(self, redis: GuardedRedis, *, ttl_seconds: int) -> None:
        self._redis = redis
        self._ttl_seconds = ttl_seconds

    async def store(self, message: BadMessage) -> None:
        """Copy one bad message; never fails."""
        value = message.value
        copy = orjson.dumps(
            {
                "topic": message.topic,
                "partition": message.partition,
                "offset": message.offset,
                "error_type": message.error_type,
                "error": _storable(message.error),
                "key": _base64(message.key),
                "value": _base64(value),
                "value_bytes": None if value is None else len(value),
                "value_truncated": value is not None and len(value) > MAX_COPIED_BYTES,
                "headers": [[_storable(name), _base64(header)] for name, header in message.headers],
            }
        )
        pill = f"poison_pill:{message.topic}:{message.partition}:{message.offset}"
        try:
            await self._redis.execute("poison_pill", "SET", pill, copy, "EX", self._ttl_seconds)
        except RedisUnavailableError as unavailable:
            log.debug("poison_pill_not_stored", pill=pill, reason=str(unavailable))


def _base64(content: bytes | None) -> str | None:
    return None if content is None else b64encode(content[:MAX_COPIED_BYTES]).decode()


def _storable(text: str) -> str:
    """Cut, and without lone surrogates, which are no UTF-8; a bad message's error may quote some."""
    return text[:MAX_COPIED_BYTES].encode("utf-8", errors="replace").decode()
