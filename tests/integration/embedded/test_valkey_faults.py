"""The fault that the embedded Valkey can be given beside a stop, a kill and a pause: it is full."""

from pathlib import Path

import pytest
from redis import exceptions as redis_errors
from redis.asyncio import Redis

from embedded import EmbeddedValkey


async def test_a_full_valkey_refuses_writes_and_still_reads(own_folder: Path) -> None:
    with EmbeddedValkey(own_folder, settings={"maxmemory": "4mb"}) as server:
        async with Redis.from_url(server.url) as client:
            await client.set("kept", "value")

            async def fill() -> None:
                for number in range(10_000):
                    await client.set(f"filler {number}", b"x" * 100_000)

            with pytest.raises(redis_errors.OutOfMemoryError):
                await fill()
            assert await client.get("kept") == b"value"
            # A test can also fill one that runs, and free it again.
            await client.config_set("maxmemory", "100mb")
            assert await client.set("more", "value")
