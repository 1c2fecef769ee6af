"""An answer that is asked for near its end is made anew beside the readers: they neither wait nor miss."""

import asyncio
import time

from redis.asyncio import Redis

from embedded import EmbeddedValkey
from result_aggregator_service.cache.cache_manager import KnownTags, Unchanged
from tests.integration.cache.conftest import MakeReplica, Replica
from tests.integration.cache.reading import BOTH, NOTHING, Read, invalidate, read_batch
from tests.integration.cache.source import Source
from tests.waiting import eventually

KEYS = ("ras:batch:b1", "ras:user:u1:batches:20:0:")
NEAR_THE_END, NOT_YET = 29_000, 31_000  # ms, of 300 s


async def leave(raw: Redis, milliseconds: int) -> None:
    for key in KEYS:
        await raw.pexpire(key, milliseconds)


async def refreshed(raw: Redis) -> bool:
    """Whether an answer has its whole life before it."""
    return max([await raw.pttl(key) for key in KEYS]) > 200_000


def refreshes(replica: Replica, result: str) -> float:
    return sum(
        replica.metric("ras_cache_refreshes_total", cache_type=kind, result=result)
        for kind in ("batch_status", "user_batches")
    )


@BOTH
async def test_a_reader_near_the_end_gets_what_is_there_and_the_next_finds_it_new(
    read: Read, replica: Replica, raw: Redis
) -> None:
    source = Source()
    first = await read(replica.cache, source)
    for turn in range(1, 4):
        await leave(raw, NEAR_THE_END)
        source.may_return.clear()
        for _ in range(5):
            assert await read(replica.cache, source) == first  # nobody waits for the query
        source.may_return.set()
        await eventually(lambda: refreshed(raw))
        assert await read(replica.cache, source) == first
        assert source.queries == 1 + turn
    await eventually(lambda: refreshes(replica, "stored") == 3)


async def test_before_that_and_unasked_nothing_is_made_anew(replica: Replica, raw: Redis) -> None:
    source, unasked = Source(), Source()
    await read_batch(replica.cache, source)
    await replica.cache.batch_status("b2", NOTHING, unasked)
    await leave(raw, NOT_YET)
    await raw.pexpire("ras:batch:b2", NEAR_THE_END)
    for _ in range(5):
        await read_batch(replica.cache, source)
    assert source.queries == 1
    await leave(raw, NEAR_THE_END)
    await read_batch(replica.cache, source)
    await eventually(lambda: refreshed(raw))
    assert (source.queries, unasked.queries) == (2, 1)


async def test_one_who_has_the_answer_already_keeps_it_warm_too(replica: Replica, raw: Redis) -> None:
    source = Source()
    await read_batch(replica.cache, source)
    await leave(raw, NEAR_THE_END)
    assert source.present is not None
    tags = KnownTags(frozenset({source.present.etag}))
    assert await replica.cache.batch_status("b1", tags, source) == Unchanged(source.present.etag)
    await eventually(lambda: refreshed(raw))


@BOTH
async def test_an_invalidation_in_mid_refresh_is_not_undone(
    read: Read, replica: Replica, other_replica: Replica, raw: Redis
) -> None:
    source = Source()
    old = await read(replica.cache, source)
    await leave(raw, NEAR_THE_END)
    source.may_return.clear()
    await read(replica.cache, source)
    await eventually(lambda: source.queries == 2)  # the refresh has read the old rows, and is held up
    source.commit()
    await invalidate(other_replica.cache)
    source.may_return.set()
    await eventually(lambda: refreshes(replica, "not_stored") == 1)
    for each in (replica, other_replica):
        assert await read(each.cache, source) == source.present != old


@BOTH
async def test_who_misses_in_mid_refresh_joins_it(read: Read, replica: Replica, raw: Redis) -> None:
    source = Source()
    first = await read(replica.cache, source)
    await leave(raw, NEAR_THE_END)
    source.may_return.clear()
    await read(replica.cache, source)
    await eventually(lambda: source.queries == 2)
    await raw.delete(*KEYS)  # its time is over
    reader = asyncio.create_task(read(replica.cache, source))
    await eventually(
        lambda: (
            replica.metric("ras_cache_misses_total", cache_type="batch_status")
            + replica.metric("ras_cache_misses_total", cache_type="user_batches")
            == 2
        )
    )
    source.may_return.set()
    assert await reader == first
    assert source.queries == 2


async def test_a_refresh_that_fails_is_counted_fails_nobody_and_is_not_tried_again_at_once(
    replica: Replica, raw: Redis
) -> None:
    source = Source()
    first = await read_batch(replica.cache, source)
    await leave(raw, NEAR_THE_END)
    source.failure = LookupError("no database")
    assert await read_batch(replica.cache, source) == first
    await eventually(lambda: refreshes(replica, "failed") == 1)
    for _ in range(20):
        assert await read_batch(replica.cache, source) == first
    assert source.queries == 2
    source.failure = None

    async def is_refreshed() -> bool:
        assert await read_batch(replica.cache, source) == first
        return await refreshed(raw)

    await eventually(is_refreshed)


async def test_only_so_many_are_made_anew_at_once(replica: Replica, raw: Redis) -> None:
    source = Source()
    for number in range(20):
        await replica.cache.batch_status(f"b{number}", NOTHING, source)
        await raw.pexpire(f"ras:batch:b{number}", NEAR_THE_END)
    source.may_return.clear()
    for number in range(20):
        await replica.cache.batch_status(f"b{number}", NOTHING, source)
    await eventually(lambda: source.queries == 20 + 8)
    source.may_return.set()
    await eventually(lambda: refreshes(replica, "stored") == 8)


async def test_the_end_of_the_process_ends_a_refresh(replica: Replica, raw: Redis) -> None:
    source = Source()
    await read_batch(replica.cache, source)
    await leave(raw, NEAR_THE_END)
    source.may_return.clear()
    await read_batch(replica.cache, source)
    await eventually(lambda: source.queries == 2)
    await replica.cache.close()
    source.may_return.set()
    for _ in range(10):
        await read_batch(replica.cache, source)
    assert not await refreshed(raw)
    assert refreshes(replica, "stored") == 0


async def test_redis_going_away_in_mid_refresh_is_counted_and_fails_nobody(
    make_replica: MakeReplica, own_valkey: EmbeddedValkey
) -> None:
    replica, source = await make_replica(own_valkey.url), Source()
    client = Redis.from_url(own_valkey.url, protocol=2)
    first = await read_batch(replica.cache, source)
    await leave(client, NEAR_THE_END)
    await client.aclose()
    source.may_return.clear()
    await read_batch(replica.cache, source)
    await eventually(lambda: source.queries == 2)
    await asyncio.to_thread(own_valkey.kill)
    source.may_return.set()
    await eventually(lambda: refreshes(replica, "not_stored") == 1)
    assert await read_batch(replica.cache, source) == first


async def test_readers_who_ask_all_through_several_lives_never_miss_after_the_first(
    make_replica: MakeReplica, redis_url: str
) -> None:
    """In real time. Where this machine stood still for half of the last part of a life, a miss is excused."""
    replica = await make_replica(redis_url, ttl_seconds=1)
    source, excuses = Source(), 0
    first = await read_batch(replica.cache, source)
    begin = last = time.monotonic()
    while last - begin < 2.7 or not refreshes(replica, "stored"):
        await asyncio.sleep(0.01)
        assert await read_batch(replica.cache, source) == first
        now = time.monotonic()
        excuses += now - last > 0.05
        last = now
    assert replica.metric("ras_cache_misses_total", cache_type="batch_status") <= 1 + excuses
    assert refreshes(replica, "stored") >= (2 if not excuses else 1)
