"""The cache's promises, on a real Redis, with replicas that share it."""

import asyncio
import time

import pytest
from redis.asyncio import Redis

from result_aggregator_service.cache.stores import MAX_CACHED_BYTES, MAX_PAGES_OF_A_USER
from tests.integration.cache.conftest import MakeReplica, Replica
from tests.integration.cache.reading import BOTH, NOTHING, Read, invalidate, keys, read_batch, read_list
from tests.integration.cache.source import BatchSource, Given, Source, answer_of
from tests.waiting import eventually


@BOTH
async def test_the_second_read_comes_from_redis_on_every_replica(
    read: Read, replica: Replica, other_replica: Replica
) -> None:
    source = Source()
    first = await read(replica.cache, source)
    assert [await read(replica.cache, source), await read(other_replica.cache, source)] == [first, first]
    assert source.queries == 1


async def test_hits_and_misses_are_counted_by_kind_of_answer(replica: Replica) -> None:
    source = Source()
    for _ in range(3):
        await read_batch(replica.cache, source)
    for _ in range(2):
        await read_list(replica.cache, source)
    counted = {
        (name, kind): replica.metric(f"ras_cache_{name}_total", cache_type=kind)
        for name in ("hits", "misses")
        for kind in ("batch_status", "user_batches")
    }
    assert counted == {
        ("hits", "batch_status"): 2,
        ("misses", "batch_status"): 1,
        ("hits", "user_batches"): 1,
        ("misses", "user_batches"): 1,
    }


async def test_an_answer_keeps_its_bytes_and_its_tag(replica: Replica, other_replica: Replica) -> None:
    body = bytes(range(256)) * 10

    for cache in (replica.cache, other_replica.cache):
        assert await cache.user_batches("u1", "20:0:", NOTHING, Given(body)) == answer_of(body)


async def test_nothing_is_kept_of_a_batch_that_is_not_there(replica: Replica) -> None:
    source = BatchSource()
    source.version = None
    assert await replica.cache.batch_status("b1", NOTHING, source) is None
    source.commit()
    assert await replica.cache.batch_status("b1", NOTHING, source) is not None


@BOTH
async def test_after_an_invalidation_every_replica_reads_anew(
    read: Read, replica: Replica, other_replica: Replica
) -> None:
    source = Source()
    old = await read(other_replica.cache, source)
    source.commit()
    await invalidate(replica.cache)
    new = await read(other_replica.cache, source)
    assert new != old
    assert await read(replica.cache, source) == new
    assert source.queries == 2


async def test_two_hundred_readers_at_once_ask_redis_once(replica: Replica, raw: Redis) -> None:
    async def scripts_run() -> int:
        statistics = await raw.info("commandstats")
        return int(statistics.get("cmdstat_eval", {"calls": 0})["calls"])

    source = Source()
    before = await scripts_run()
    await asyncio.gather(*(read_batch(replica.cache, source) for _ in range(200)))
    assert await scripts_run() - before == 2  # one look-up, one store


@BOTH
async def test_two_hundred_misses_at_once_cost_one_query(read: Read, replica: Replica) -> None:
    source = Source()
    source.may_return.clear()
    readers = [asyncio.create_task(read(replica.cache, source)) for _ in range(200)]
    await eventually(
        lambda: (
            replica.metric("ras_cache_misses_total", cache_type="batch_status")
            + replica.metric("ras_cache_misses_total", cache_type="user_batches")
            == 200
        )
    )
    source.may_return.set()
    assert len(set(await asyncio.gather(*readers))) == 1
    assert source.queries == 1


async def test_a_reader_that_gives_up_does_not_take_the_query_from_the_others(replica: Replica) -> None:
    source = Source()
    source.may_return.clear()
    first = asyncio.create_task(read_batch(replica.cache, source))
    await source.read.wait()
    second = asyncio.create_task(read_batch(replica.cache, source))
    await eventually(lambda: replica.metric("ras_cache_misses_total", cache_type="batch_status") == 2)
    first.cancel()
    await asyncio.wait([first])
    source.may_return.set()
    assert await second is not None
    assert (first.cancelled(), source.queries) == (True, 1)


async def test_a_failing_query_fails_its_readers_and_is_not_kept(replica: Replica) -> None:
    failing = Source()
    failing.failure = LookupError("no database")
    with pytest.raises(LookupError):
        await read_batch(replica.cache, failing)
    assert await read_batch(replica.cache, Source()) is not None


async def test_lists_are_kept_by_page_and_filter_and_all_forgotten_together(replica: Replica, raw: Redis) -> None:
    source = Source()
    pages = ["20:0:", "20:20:", "10:0:", "20:0:processing", "20:0:failed"]
    old = []
    for page in pages:
        source.commit()
        old.append(await replica.cache.user_batches("u1", page, NOTHING, source))
    assert len(set(old)) == len(pages) == source.queries
    assert {key for key in await keys(raw) if key.startswith("ras:user:")} == {
        f"ras:user:u1:batches:{page}" for page in pages
    }
    assert await replica.cache.invalidate([], ["u1"])
    assert await keys(raw) == set()


async def test_invalidating_one_leaves_the_others(replica: Replica) -> None:
    source = Source()
    for batch_id in ("b1", "b2"):
        await replica.cache.batch_status(batch_id, NOTHING, source)
    for user_id in ("u1", "u2"):
        await replica.cache.user_batches(user_id, "20:0:", NOTHING, source)
    assert await replica.cache.invalidate(["b1"], ["u1"])
    source.queries = 0
    await replica.cache.batch_status("b2", NOTHING, source)
    await replica.cache.user_batches("u2", "20:0:", NOTHING, source)
    assert source.queries == 0
    await replica.cache.batch_status("b1", NOTHING, source)
    await replica.cache.user_batches("u1", "20:0:", NOTHING, source)
    assert source.queries == 2


@pytest.mark.parametrize("one", ["x", "token:x", "x:batches:20:0:", "ras:batch:x", "x y\n{}*?[a]", "Å😀"])
async def test_ids_of_any_characters_do_not_meet_in_one_key(one: str, replica: Replica) -> None:
    others = [f"{one}:", f"{one}:batches:20:0:", f":{one}", f"{one}:token"]
    answers = {}
    for identifier in (one, *others):
        source = Source()
        source.commit()
        answers[identifier] = (
            await replica.cache.batch_status(identifier, NOTHING, source),
            await replica.cache.user_batches(identifier, "20:0:", NOTHING, source),
        )
    assert len(set(answers.values())) == len(answers)
    assert await replica.cache.invalidate([one], [one])
    unused = Source()
    for identifier in others:
        again = (
            await replica.cache.batch_status(identifier, NOTHING, unused),
            await replica.cache.user_batches(identifier, "20:0:", NOTHING, unused),
        )
        assert again == answers[identifier]


async def test_thousands_of_batches_and_users_are_forgotten_at_once(replica: Replica, raw: Redis) -> None:
    source = Source()
    batch_ids, user_ids = [f"b{n}" for n in range(1300)], [f"u{n}" for n in range(350)]
    for start in range(0, 1300, 50):
        await asyncio.gather(*(replica.cache.batch_status(b, NOTHING, source) for b in batch_ids[start : start + 50]))
    for start in range(0, 350, 50):
        users = user_ids[start : start + 50]
        await asyncio.gather(*(replica.cache.user_batches(u, "20:0:", NOTHING, source) for u in users))
    assert len(await keys(raw)) == 2 * 1300 + 3 * 350
    assert await replica.cache.invalidate(batch_ids, user_ids)
    assert await keys(raw) == set()


async def test_a_user_with_thousands_of_pages_is_forgotten_whole_and_keeps_a_bounded_number(
    replica: Replica, raw: Redis
) -> None:
    source = Source()
    for start in range(0, 2500, 50):
        pages = range(start, start + 50)
        await asyncio.gather(*(replica.cache.user_batches("u1", f"1:{page}:", NOTHING, source) for page in pages))
    assert len(await keys(raw)) == 1000 + 2
    assert await replica.cache.invalidate([], ["u1"])
    assert await keys(raw) == set()


async def test_pages_whose_time_is_over_make_room_for_new_ones(replica: Replica, raw: Redis) -> None:
    await read_list(replica.cache, Source())
    over = [f"ras:user:u1:batches:1:{number}:" for number in range(MAX_PAGES_OF_A_USER)]
    await raw.sadd("ras:user-pages:u1", *over)
    await replica.cache.user_batches("u1", "20:20:", NOTHING, Source())
    assert await raw.exists("ras:user:u1:batches:20:20:")
    assert await raw.scard("ras:user-pages:u1") <= MAX_PAGES_OF_A_USER


async def test_of_a_user_with_as_many_pages_as_are_kept_these_are_kept_and_no_other(
    replica: Replica, raw: Redis
) -> None:
    source = Source()
    await read_list(replica.cache, source)
    others = {f"ras:user:u1:batches:1:{number}:": b"" for number in range(MAX_PAGES_OF_A_USER - 1)}
    await raw.mset(dict(others))
    await raw.sadd("ras:user-pages:u1", *others)
    await replica.cache.user_batches("u1", "20:20:", NOTHING, Source())
    assert not await raw.exists("ras:user:u1:batches:20:20:")
    await raw.delete("ras:user:u1:batches:20:0:")
    for _ in range(2):
        await read_list(replica.cache, source)
    assert source.queries == 2


async def test_invalidating_nothing_succeeds_without_redis(make_replica: MakeReplica) -> None:
    replica = await make_replica("redis://127.0.0.1:1/0")
    assert await replica.cache.invalidate([], [])


async def test_everything_expires(make_replica: MakeReplica, redis_url: str, raw: Redis) -> None:
    replica = await make_replica(redis_url, ttl_seconds=77)
    source = Source()
    await read_batch(replica.cache, source)
    await read_list(replica.cache, source)
    left = {key: await raw.ttl(key) for key in await keys(raw)}
    values = ("ras:batch:b1", "ras:user:u1:batches:20:0:")
    assert all(70 <= left.pop(key) <= 77 for key in values)
    # Tokens and the list of pages outlive what depends on them.
    assert set(left) == {"ras:batch-token:b1", "ras:user-token:u1", "ras:user-pages:u1"}
    assert all(140 <= ttl <= 154 for ttl in left.values())


async def test_an_answer_whose_time_is_over_is_made_anew(make_replica: MakeReplica, redis_url: str) -> None:
    replica = await make_replica(redis_url, ttl_seconds=1)
    source = Source()
    begin = time.monotonic()
    old = await read_batch(replica.cache, source)
    source.commit()  # and nobody invalidates
    again = await read_batch(replica.cache, source)
    assert again == old or time.monotonic() - begin > 0.9

    async def is_new() -> bool:
        return await read_batch(replica.cache, source) != old

    await eventually(is_new, within=5)


async def test_an_answer_too_large_for_redis_is_given_and_not_kept(replica: Replica, raw: Redis) -> None:
    body = b"x" * (MAX_CACHED_BYTES + 1)
    assert await replica.cache.batch_status("b1", NOTHING, Given(body)) == answer_of(body)
    assert await raw.exists("ras:batch:b1") == 0


async def test_answers_that_are_missed_at_once_are_all_kept_the_large_ones_too(replica: Replica) -> None:
    bodies = {f"b{number}": bytes([97 + number % 26]) * (number * 5_000) for number in range(1, 31)}
    given = {batch_id: Given(body) for batch_id, body in bodies.items()}

    for hits in (0, len(bodies)):
        asked = (replica.cache.batch_status(batch_id, NOTHING, source) for batch_id, source in given.items())
        assert await asyncio.gather(*asked) == [answer_of(body) for body in bodies.values()]
        assert replica.metric("ras_cache_hits_total", cache_type="batch_status") == hits
