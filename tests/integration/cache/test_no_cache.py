"""A replica with its cache off reads past Redis, shares what it reads, and still makes the others forget."""

import asyncio

import pytest

from embedded import EmbeddedValkey
from result_aggregator_service.cache.cache_manager import CacheManager, KnownTags, NoCache, Unchanged
from tests.integration.cache.conftest import MakeReplica, Replica
from tests.integration.cache.reading import BOTH, NOTHING, Read, invalidate, read_batch
from tests.integration.cache.source import BatchSource, Source
from tests.integration.service.wiring import container_of, settings_for
from tests.waiting import eventually


@pytest.fixture
def no_cache(replica: Replica) -> NoCache:
    return NoCache(replica.redis)


@BOTH
async def test_every_read_is_a_query(read: Read, no_cache: NoCache) -> None:
    source = Source()
    first = await read(no_cache, source)
    source.commit()
    assert await read(no_cache, source) == source.present != first
    assert source.queries == 2


async def test_what_is_not_there_is_not_there(no_cache: NoCache) -> None:
    source = BatchSource()
    source.version = None
    assert await no_cache.batch_status("b1", NOTHING, source) is None


async def test_who_has_the_answer_is_told_so_by_its_tag(no_cache: NoCache) -> None:
    source = Source()
    assert source.present is not None
    has_it = KnownTags(frozenset({source.present.etag}))
    assert await no_cache.batch_status("b1", has_it, source) == Unchanged(source.present.etag)
    assert await no_cache.user_batches("u1", "20:0:", has_it, source) == Unchanged(source.present.etag)
    assert source.queries == 0
    source.commit()
    assert await no_cache.batch_status("b1", has_it, source) == source.present


@BOTH
async def test_a_thousand_at_once_cost_two_queries_and_see_what_was_there_when_they_came(
    read: Read, no_cache: NoCache
) -> None:
    source = Source()
    source.may_return.clear()
    first = asyncio.create_task(read(no_cache, source))
    await eventually(lambda: source.queries == 1)
    source.commit()
    later = [asyncio.create_task(read(no_cache, source)) for _ in range(1000)]
    await asyncio.sleep(0)
    source.may_return.set()
    assert await first != source.present
    assert set(await asyncio.gather(*later)) == {source.present}
    assert source.queries == 2


@BOTH
async def test_what_it_writes_is_seen_by_replicas_that_have_a_cache(
    read: Read, no_cache: NoCache, other_replica: Replica
) -> None:
    source = Source()
    old = await read(other_replica.cache, source)
    source.commit()
    await invalidate(no_cache)
    assert await read(other_replica.cache, source) == source.present != old


async def test_what_redis_did_not_take_is_said(make_replica: MakeReplica, own_valkey: EmbeddedValkey) -> None:
    no_cache = NoCache((await make_replica(own_valkey.url)).redis)
    assert await no_cache.invalidate(["b1"], ["u1"])
    await asyncio.to_thread(own_valkey.kill)
    assert not await no_cache.invalidate(["b1"], ["u1"])
    assert await read_batch(no_cache, Source()) is not None


async def test_the_service_with_its_cache_off_makes_redis_forget(redis_url: str, other_replica: Replica) -> None:
    source = Source()
    old = await read_batch(other_replica.cache, source)
    settings = settings_for("postgresql://nowhere/none", redis_url=redis_url, cache_enabled=False)
    async with container_of(settings) as container:
        off = await container.get(CacheManager)
        assert await read_batch(off, source) == old
        source.commit()
        assert await read_batch(off, source) == source.present
        await invalidate(off)
    assert await read_batch(other_replica.cache, source) == source.present
    assert source.queries == 4
