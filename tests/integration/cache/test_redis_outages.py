"""Redis stopped, paused, full and restarted: reads go on, in time, and nothing stale is ever read."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from redis.asyncio import Redis

from embedded import EmbeddedValkey
from result_aggregator_service.cache.cache_manager import Answer, KnownTags, Unchanged
from tests.integration.cache.conftest import MakeReplica, Replica
from tests.integration.cache.source import Source
from tests.waiting import eventually, kept_waiting

TIMEOUT_SECONDS = 0.5
#: What a read may wait for Redis in all: its look-up, or the storing of what it found.
PATIENCE_SECONDS = 1.5 * TIMEOUT_SECONDS
NOTHING = KnownTags()


@pytest.fixture
async def own_replica(make_replica: MakeReplica, own_valkey: EmbeddedValkey) -> Replica:
    return await make_replica(own_valkey.url)


@pytest.fixture
async def impatient_replica(make_replica: MakeReplica, own_valkey: EmbeddedValkey) -> Replica:
    """For a Redis that does not answer."""
    return await make_replica(own_valkey.url, timeout_seconds=TIMEOUT_SECONDS)


@pytest.fixture
async def own_raw(own_valkey: EmbeddedValkey) -> AsyncIterator[Redis]:
    client = Redis.from_url(own_valkey.url, protocol=2)
    yield client
    await client.aclose()


async def read_within_patience(replica: Replica, source: Source, batch_id: str = "b1") -> Answer | Unchanged | None:
    async with kept_waiting() as waited:
        answer = await replica.cache.batch_status(batch_id, NOTHING, source)
    assert waited.seconds < PATIENCE_SECONDS
    return answer


def breaker(replica: Replica) -> float:
    return replica.metric("ras_circuit_breaker_state", breaker="redis")


async def test_while_redis_is_away_every_read_is_answered_from_the_database(
    own_replica: Replica, own_valkey: EmbeddedValkey
) -> None:
    source = Source()
    old = await read_within_patience(own_replica, source)
    await asyncio.to_thread(own_valkey.kill)
    source.commit()
    for _ in range(20):
        assert await read_within_patience(own_replica, source) != old
    assert source.queries == 21
    assert own_replica.metric("ras_cache_errors_total", operation="read") == 5
    assert breaker(own_replica) == 2


async def test_while_redis_does_not_answer_a_read_waits_for_it_once_and_soon_not_at_all(
    impatient_replica: Replica, own_valkey: EmbeddedValkey
) -> None:
    replica, source = impatient_replica, Source()
    await read_within_patience(replica, source)
    await asyncio.to_thread(own_valkey.pause)
    for _ in range(5):
        await read_within_patience(replica, source)
    assert breaker(replica) == 2
    async with kept_waiting() as waited:
        await replica.cache.batch_status("b1", NOTHING, source)
    assert waited.seconds < 0.5 * TIMEOUT_SECONDS
    await asyncio.to_thread(own_valkey.resume)


async def test_a_crowd_of_readers_waits_no_longer_than_one_while_redis_does_not_answer(
    impatient_replica: Replica, own_valkey: EmbeddedValkey
) -> None:
    source = Source()
    await asyncio.to_thread(own_valkey.pause)
    async with kept_waiting() as waited:
        await asyncio.gather(*(impatient_replica.cache.batch_status(f"b{n}", NOTHING, source) for n in range(300)))
    assert waited.seconds < PATIENCE_SECONDS
    assert source.queries == 300
    await asyncio.to_thread(own_valkey.resume)


async def test_without_redis_a_thousand_readers_of_one_batch_cost_two_queries_and_none_gets_what_began_before_it_came(
    own_replica: Replica, own_valkey: EmbeddedValkey
) -> None:
    source = Source()
    await asyncio.to_thread(own_valkey.kill)
    for _ in range(5):  # from here on Redis is left alone, and nobody waits for it
        await own_replica.cache.batch_status("other", NOTHING, Source())
    assert breaker(own_replica) == 2
    source.may_return.clear()
    early = asyncio.create_task(own_replica.cache.batch_status("b1", NOTHING, source))
    await source.read.wait()
    source.commit()  # Redis cannot be told
    later = [asyncio.create_task(own_replica.cache.batch_status("b1", NOTHING, source)) for _ in range(1000)]
    await eventually(lambda: own_replica.metric("ras_cache_misses_total", cache_type="batch_status") == 5 + 1001)
    source.may_return.set()
    assert await early != source.present
    assert set(await asyncio.gather(*later)) == {source.present}
    assert source.queries == 2


async def test_without_redis_no_two_users_questions_are_taken_for_one(make_replica: MakeReplica) -> None:
    replica, sources = await make_replica("redis://127.0.0.1:1/0"), [Source(), Source()]
    sources[0].commit()
    answers = await asyncio.gather(
        replica.cache.user_batches("a", "b:batches:c", NOTHING, sources[0]),
        replica.cache.user_batches("a:batches:b", "c", NOTHING, sources[1]),
    )
    assert list(answers) == [source.present for source in sources]


async def test_a_reader_who_comes_when_redis_has_just_gone_is_not_joined_to_a_query_from_before(
    own_replica: Replica, own_valkey: EmbeddedValkey
) -> None:
    source = Source()
    source.may_return.clear()
    before = asyncio.create_task(own_replica.cache.batch_status("b1", NOTHING, source))
    await source.read.wait()
    await asyncio.to_thread(own_valkey.kill)
    source.commit()
    after = asyncio.create_task(own_replica.cache.batch_status("b1", NOTHING, source))
    await eventually(lambda: source.queries == 2)
    source.may_return.set()
    assert await before != source.present
    assert await after == source.present


async def test_redis_pausing_between_look_up_and_store_is_waited_for_once(
    impatient_replica: Replica, own_valkey: EmbeddedValkey
) -> None:
    source = Source()
    source.may_return.clear()
    reader = asyncio.create_task(impatient_replica.cache.batch_status("b1", NOTHING, source))
    await source.read.wait()
    await asyncio.to_thread(own_valkey.pause)
    async with kept_waiting() as waited:
        source.may_return.set()
        assert await reader == source.present
    assert waited.seconds < PATIENCE_SECONDS
    assert impatient_replica.metric("ras_cache_errors_total", operation="store") == 1
    await asyncio.to_thread(own_valkey.resume)


async def test_an_invalidation_that_redis_did_not_take_says_so_and_is_tried_each_time(
    impatient_replica: Replica, own_valkey: EmbeddedValkey
) -> None:
    source = Source()
    old = await read_within_patience(impatient_replica, source)
    await asyncio.to_thread(own_valkey.pause)
    source.commit()
    for _ in range(7):
        async with kept_waiting() as waited:
            assert not await impatient_replica.cache.invalidate(["b1"], ["u1"])
        assert waited.seconds < PATIENCE_SECONDS
    assert impatient_replica.metric("ras_cache_errors_total", operation="invalidate") == 7
    # This replica has lost Redis and does not use it, so it serves nothing stale either.
    assert await read_within_patience(impatient_replica, source) != old
    await asyncio.to_thread(own_valkey.resume)
    assert await impatient_replica.cache.invalidate(["b1"], ["u1"])
    assert breaker(impatient_replica) == 0
    assert await read_within_patience(impatient_replica, source) != old


async def test_an_invalidation_cut_short_half_way_is_made_good_by_the_next(
    own_replica: Replica, own_valkey: EmbeddedValkey
) -> None:
    source = Source()
    old = await read_within_patience(own_replica, source)
    await asyncio.to_thread(own_valkey.kill)
    source.commit()
    assert not await own_replica.cache.invalidate(["b1"], [])
    await asyncio.to_thread(own_valkey.start)
    assert await own_replica.cache.invalidate(["b1"], [])
    assert await read_within_patience(own_replica, source) != old


async def test_redis_is_used_again_once_it_is_back(make_replica: MakeReplica, own_valkey: EmbeddedValkey) -> None:
    replica, source = await make_replica(own_valkey.url, seconds_open=2.0), Source()
    await asyncio.to_thread(own_valkey.kill)
    for _ in range(5):
        await read_within_patience(replica, source)
    assert breaker(replica) == 2
    await asyncio.to_thread(own_valkey.start)

    async def a_hit() -> bool:
        await read_within_patience(replica, source)
        return replica.metric("ras_cache_hits_total", cache_type="batch_status") > 0

    await eventually(a_hit, within=30)
    assert breaker(replica) == 0


async def test_a_restart_that_loses_all_tokens_lets_no_held_up_reader_store_what_is_old(
    own_replica: Replica, own_valkey: EmbeddedValkey
) -> None:
    source = Source()
    source.may_return.clear()
    slow = asyncio.create_task(own_replica.cache.batch_status("b1", NOTHING, source))
    await source.read.wait()
    source.commit()
    assert await own_replica.cache.invalidate(["b1"], [])
    await asyncio.to_thread(own_valkey.kill)
    await asyncio.to_thread(own_valkey.start)
    source.may_return.set()
    old = await slow
    assert await read_within_patience(own_replica, source) != old
    assert await read_within_patience(own_replica, source) != old


async def fill_up(raw: Redis) -> None:
    """Redis holds as much as it may, and evicts nothing."""
    await raw.config_set("maxmemory-policy", "noeviction")
    await raw.config_set("maxmemory", "1mb")


async def test_a_full_redis_fails_no_read_and_is_not_given_up(own_replica: Replica, own_raw: Redis) -> None:
    source = Source()
    kept = await read_within_patience(own_replica, source, "kept")
    await fill_up(own_raw)
    for _ in range(10):
        assert await read_within_patience(own_replica, source, "new") is not None
    assert own_replica.metric("ras_cache_errors_total", operation="read") == 10
    assert breaker(own_replica) == 0
    queries = source.queries
    assert await read_within_patience(own_replica, source, "kept") == kept
    assert source.queries == queries


async def test_a_full_redis_that_cannot_store_is_counted(own_replica: Replica, own_raw: Redis) -> None:
    source = Source()
    source.may_return.clear()
    reader = asyncio.create_task(own_replica.cache.batch_status("b1", NOTHING, source))
    await source.read.wait()
    await fill_up(own_raw)
    source.may_return.set()
    assert await reader is not None
    assert own_replica.metric("ras_cache_errors_total", operation="store") == 1


async def test_a_full_redis_still_takes_invalidations(own_replica: Replica, own_raw: Redis) -> None:
    source = Source()
    old = await read_within_patience(own_replica, source)
    old_list = await own_replica.cache.user_batches("u1", "20:0:", NOTHING, source)
    await fill_up(own_raw)
    source.commit()
    assert await own_replica.cache.invalidate(["b1"], ["u1"])
    assert await read_within_patience(own_replica, source) != old
    assert await own_replica.cache.user_batches("u1", "20:0:", NOTHING, source) != old_list
