"""Connections to Redis that are kept at hand: they may die with the server's last process, and nobody notices."""

import asyncio

from embedded import EmbeddedValkey
from result_aggregator_service.cache.cache_manager import KnownTags
from tests.integration.cache.conftest import MakeReplica
from tests.integration.cache.source import Source

NOTHING = KnownTags()
READERS = 12


async def test_after_a_restart_no_look_up_fails(make_replica: MakeReplica, own_valkey: EmbeddedValkey) -> None:
    replica, source = await make_replica(own_valkey.url), Source()

    async def read(number: int) -> None:
        for _ in range(number % 3):  # so that look-ups of several turns are under way at once
            await asyncio.sleep(0)
        assert await replica.cache.batch_status(f"b{number}", NOTHING, source) == source.present

    for _ in range(2):
        await asyncio.gather(*(read(number) for number in range(READERS)))
        await asyncio.to_thread(own_valkey.kill)
        await asyncio.to_thread(own_valkey.start)
    await read(0)
    assert replica.metric("ras_cache_errors_total", operation="read") == 0
    assert replica.metric("ras_cache_misses_total", cache_type="batch_status") == 2 * READERS + 1
