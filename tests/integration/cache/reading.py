"""How the tests read both kinds of answers, and what they look at in Redis."""

from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from redis.asyncio import Redis

from result_aggregator_service.cache.cache_manager import Answer, CacheManager, KnownTags, Unchanged
from tests.integration.cache.source import Source

Read = Callable[[CacheManager, Source], Coroutine[Any, Any, Answer | Unchanged | None]]
NOTHING = KnownTags()


async def read_batch(cache: CacheManager, source: Source) -> Answer | Unchanged | None:
    return await cache.batch_status("b1", NOTHING, source)


async def read_list(cache: CacheManager, source: Source) -> Answer | Unchanged | None:
    return await cache.user_batches("u1", "20:0:", NOTHING, source)


BOTH = pytest.mark.parametrize("read", [read_batch, read_list])


async def invalidate(cache: CacheManager) -> None:
    assert await cache.invalidate(["b1"], ["u1"])


async def keys(raw: Redis) -> set[str]:
    return {key if isinstance(key, str) else key.decode() for key in await raw.keys()}
