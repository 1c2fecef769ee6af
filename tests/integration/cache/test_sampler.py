"""The sampler tells an answer that stays stale from one that a writer was just about to remove."""

import asyncio
import gzip

import pytest
from redis.asyncio import Redis

from embedded import EmbeddedValkey
from result_aggregator_service.cache.cache_manager import Answer, CacheManager, KnownTags, Unchanged
from result_aggregator_service.cache.lookups import ETAG_LENGTH
from tests.integration.cache.conftest import MakeReplica, Replica
from tests.integration.cache.reading import BOTH, NOTHING, Read, invalidate, read_batch
from tests.integration.cache.source import Given, Source
from tests.integration.service.wiring import container_of, settings_for
from tests.waiting import eventually

RESULTS = ("match", "overtaken", "mismatch", "failed")


@pytest.fixture
async def sampling(make_replica: MakeReplica, redis_url: str) -> Replica:
    """A replica that compares every hit, and has little patience."""
    return await make_replica(redis_url, sample_rate=1.0, sample_patience_seconds=0.1)


def sampled(replica: Replica) -> dict[str, float]:
    """The comparisons so far, by result; none that did not happen."""
    counted = {
        result: sum(
            replica.metric("ras_cache_samples_total", cache_type=kind, result=result)
            for kind in ("batch_status", "user_batches")
        )
        for result in RESULTS
    }
    return {result: count for result, count in counted.items() if count}


async def comes_to(replica: Replica, **results: float) -> None:
    await eventually(lambda: sampled(replica) == results, what=f"{results}, not {sampled(replica)}")


@BOTH
async def test_a_hit_that_is_as_the_database_has_it_is_a_match(read: Read, sampling: Replica) -> None:
    source = Source()
    for hits in range(3):
        await read(sampling.cache, source)
        await comes_to(sampling, **({"match": hits} if hits else {}))
    assert source.queries == 3


async def test_a_large_answer_is_compared_by_what_it_says_and_not_by_how_well_it_was_compressed(
    sampling: Replica,
) -> None:
    etag = "e" * ETAG_LENGTH
    for says, level, expected in (
        (b"{}" * 99, 1, {}),
        (b"{}" * 99, 9, {"match": 1}),
        (b"{ }" * 99, 1, {"mismatch": 1}),
    ):
        source = Given(b"")
        source.answer = Answer(gzip.compress(says, level, mtime=0), etag)
        await sampling.cache.batch_status("b1", NOTHING, source)
        await comes_to(sampling, **({"match": 1} | expected if expected else {}))


async def test_a_planted_stale_answer_is_a_mismatch_and_is_told(
    sampling: Replica, raw: Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    source = Source()
    await read_batch(sampling.cache, source)
    stored = await raw.get("ras:batch:b1")
    assert isinstance(stored, bytes)
    await raw.set("ras:batch:b1", stored.replace(b'"version":1', b'"version":0'), ex=300)
    assert await read_batch(sampling.cache, source) != source.present
    await comes_to(sampling, mismatch=1)
    told = capsys.readouterr().out
    assert "cached_answer_was_stale" in told
    assert "ras:batch:b1" in told


async def test_a_stale_answer_whose_client_has_it_already_is_a_mismatch_too(sampling: Replica) -> None:
    source = Source()
    old = source.present
    assert old is not None
    await read_batch(sampling.cache, source)
    source.commit()  # and nobody invalidates
    assert await sampling.cache.batch_status("b1", KnownTags(any=True), source) == Unchanged(old.etag)
    await comes_to(sampling, mismatch=1)


@BOTH
async def test_a_hit_between_a_commit_and_its_invalidation_was_overtaken(
    read: Read, sampling: Replica, other_replica: Replica
) -> None:
    source = Source()
    old = await read(sampling.cache, source)
    source.commit()
    source.read.clear()
    assert await read(sampling.cache, source) == old
    await source.read.wait()  # it has been compared with what is newer
    await invalidate(other_replica.cache)
    await comes_to(sampling, overtaken=1)


async def test_one_at_a_time_is_compared_and_the_others_are_let_go(sampling: Replica) -> None:
    source = Source()
    await read_batch(sampling.cache, source)
    source.may_return.clear()
    for _ in range(10):
        await read_batch(sampling.cache, source)
    await eventually(lambda: source.queries == 2)
    source.may_return.set()
    await comes_to(sampling, match=1)


async def test_a_comparison_that_fails_is_counted_and_fails_nobody(sampling: Replica) -> None:
    source = Source()
    first = await read_batch(sampling.cache, source)
    source.failure = LookupError("no database")
    assert await read_batch(sampling.cache, source) == first
    await comes_to(sampling, failed=1)


async def test_where_redis_goes_away_before_it_can_be_judged_nothing_is_said_of_it(
    make_replica: MakeReplica, own_valkey: EmbeddedValkey
) -> None:
    replica, source = await make_replica(own_valkey.url, sample_rate=1.0, sample_patience_seconds=0.1), Source()
    await read_batch(replica.cache, source)
    source.commit()
    source.may_return.clear()
    await read_batch(replica.cache, source)
    await eventually(lambda: source.queries == 2)
    await asyncio.to_thread(own_valkey.kill)
    source.may_return.set()
    await comes_to(replica, failed=1)


async def test_at_rate_0_nothing_is_compared_and_in_between_about_that_share(
    make_replica: MakeReplica, redis_url: str, replica: Replica
) -> None:
    source = Source()
    for _ in range(50):
        await read_batch(replica.cache, source)
    assert source.queries == 1
    assert sampled(replica) == {}
    half = await make_replica(redis_url, sample_rate=0.5)
    hits = 0
    while not sampled(half) or hits < 100:  # the chance that all are let pass is 1 in 2^100
        await half.cache.batch_status("b1", NOTHING, source)
        await asyncio.sleep(0)
        hits += 1
    assert sampled(half)["match"] < hits


@pytest.mark.parametrize("rate", [0.0, 1.0])
async def test_the_service_compares_the_share_that_is_set(rate: float, redis_url: str) -> None:
    source = Source()
    settings = settings_for("postgresql://nowhere/none", redis_url=redis_url, cache_sample_rate=rate)
    async with container_of(settings) as container:
        cache = await container.get(CacheManager)
        for queries in (1, 1 + rate, 1 + 2 * rate):
            await read_batch(cache, source)
            await eventually(lambda queries=queries: source.queries == queries)  # type: ignore[misc]
    assert source.queries == 1 + 2 * rate
