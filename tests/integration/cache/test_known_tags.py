"""A client that has the answer already is told so: without the body leaving Redis, without the body being made."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from redis.asyncio import Redis

from embedded import EmbeddedValkey
from result_aggregator_service.cache.cache_manager import MAX_KNOWN_TAGS, Answer, CacheManager, KnownTags, Unchanged
from tests.integration.cache.conftest import MakeReplica, Replica
from tests.integration.cache.reading import NOTHING, invalidate, read_batch
from tests.integration.cache.source import BatchSource, Given, Source

Ask = Callable[[CacheManager, KnownTags, Source], Coroutine[Any, Any, Answer | Unchanged | None]]

FOREIGN = "f" * 32
ANY = KnownTags(any=True)


def known(*etags: str) -> KnownTags:
    return KnownTags(frozenset(etags))


def of(source: BatchSource) -> Answer:
    assert source.present is not None
    return source.present


async def batch(cache: CacheManager, tags: KnownTags, source: BatchSource) -> Answer | Unchanged | None:
    return await cache.batch_status("b1", tags, source)


async def page(cache: CacheManager, tags: KnownTags, source: Source) -> Answer | Unchanged | None:
    return await cache.user_batches("u1", "20:0:", tags, source)


@pytest.mark.parametrize(("ask", "kind"), [(batch, "batch_status"), (page, "user_batches")])
async def test_a_tag_that_is_stored_or_not_decides_whether_the_body_comes(
    ask: Ask, kind: str, replica: Replica
) -> None:
    source = Source()
    answer = of(source)
    assert await ask(replica.cache, known(FOREIGN), source) == answer
    for tags in (known(answer.etag), known(FOREIGN, answer.etag), ANY):
        assert await ask(replica.cache, tags, source) == Unchanged(answer.etag)
    for tags in (known(FOREIGN), NOTHING, known(answer.etag[:-1]), known("")):
        assert await ask(replica.cache, tags, source) == answer
    assert (source.queries, source.tag_queries) == (1, 1)
    assert replica.metric("ras_cache_hits_total", cache_type=kind) == 7


async def test_the_body_does_not_leave_redis_for_a_client_that_has_it(replica: Replica, raw: Redis) -> None:
    async def bytes_out() -> int:
        return int((await raw.info("stats"))["total_net_output_bytes"])

    large = Given(b"x" * 1_000_000)
    await replica.cache.batch_status("b1", NOTHING, large)
    before = await bytes_out()
    tag = await large.etag()
    for _ in range(20):
        assert await replica.cache.batch_status("b1", known(FOREIGN, tag), large) == Unchanged(tag)
    between = await bytes_out()
    assert between - before < 100_000
    await replica.cache.batch_status("b1", NOTHING, large)
    assert await bytes_out() - between > 1_000_000


async def test_a_client_that_has_it_and_one_that_has_not_ask_in_one_go_and_each_gets_its_own(replica: Replica) -> None:
    source = Source()
    await read_batch(replica.cache, source)
    answer = of(source)
    assert await asyncio.gather(
        *(batch(replica.cache, tags, source) for tags in (NOTHING, known(answer.etag), known(FOREIGN), ANY))
    ) == [answer, Unchanged(answer.etag), answer, Unchanged(answer.etag)]


async def test_a_miss_asks_for_the_tag_first_and_makes_no_body_if_the_client_has_it(
    replica: Replica, raw: Redis
) -> None:
    source = Source()
    answer = of(source)
    for tags in (known(answer.etag), ANY):
        assert await batch(replica.cache, tags, source) == Unchanged(answer.etag)
    assert (source.queries, source.tag_queries) == (0, 2)
    assert await raw.exists("ras:batch:b1") == 0
    source.commit()
    assert await batch(replica.cache, known(answer.etag), source) == of(source) != answer
    assert await batch(replica.cache, known(of(source).etag), source) == Unchanged(of(source).etag)
    assert (source.queries, source.tag_queries) == (1, 3)


async def test_many_who_miss_and_have_it_cost_one_query_for_the_tag(replica: Replica) -> None:
    source = Source()
    tags = known(of(source).etag)
    answers = await asyncio.gather(*(batch(replica.cache, tags, source) for _ in range(300)))
    assert set(answers) == {Unchanged(of(source).etag)}
    assert (source.queries, source.tag_queries) == (0, 1)


async def test_after_a_change_nobody_is_told_that_it_is_unchanged(replica: Replica, other_replica: Replica) -> None:
    source = Source()
    old = of(source)
    await read_batch(replica.cache, source)
    source.commit()
    await invalidate(other_replica.cache)
    assert await batch(replica.cache, known(old.etag), source) == of(source) != old
    assert await batch(other_replica.cache, known(old.etag), source) == of(source)


async def test_what_is_not_there_is_neither_changed_nor_unchanged(replica: Replica) -> None:
    source = BatchSource()
    source.version = None
    for tags in (known(FOREIGN), ANY):
        assert await batch(replica.cache, tags, source) is None


async def test_only_so_many_tags_of_a_request_are_looked_at(replica: Replica) -> None:
    source = Source()
    await read_batch(replica.cache, source)
    etag = of(source).etag
    smaller = [f"{number:032x}" for number in range(MAX_KNOWN_TAGS)]
    assert max(smaller) < etag, "the tag must be the last of them"
    assert await batch(replica.cache, known(etag, *smaller[1:]), source) == Unchanged(etag)
    assert await batch(replica.cache, known(etag, *smaller), source) == of(source)


async def test_tags_that_cannot_be_of_this_service_are_not_looked_at_at_all(replica: Replica) -> None:
    source = Source()
    odd = known("", "*", "\udcff", "Å" * 32, "F" * 32, FOREIGN + "0", *(f"\n{number}" for number in range(100)))
    assert await batch(replica.cache, odd, source) == of(source)
    assert await batch(replica.cache, odd, source) == of(source)
    assert (source.queries, source.tag_queries) == (1, 0)


async def test_what_another_representation_stored_is_a_miss_even_for_one_who_has_it(
    make_replica: MakeReplica, redis_url: str, replica: Replica
) -> None:
    later = await make_replica(redis_url, representation="00000002")
    source, shown_anew = Source(), Source()
    shown_anew.commit()
    old = of(source)
    await read_batch(replica.cache, source)
    assert await batch(later.cache, known(old.etag), shown_anew) == of(shown_anew) != old
    assert await batch(later.cache, NOTHING, shown_anew) == of(shown_anew)
    assert (shown_anew.queries, shown_anew.tag_queries) == (1, 1)
    assert await batch(replica.cache, NOTHING, source) == old
    assert source.queries == 2


async def test_while_redis_is_away_a_client_that_has_it_costs_one_cheap_query(
    make_replica: MakeReplica, own_valkey: EmbeddedValkey
) -> None:
    replica, source = await make_replica(own_valkey.url), Source()
    tags = known(of(source).etag)
    await asyncio.to_thread(own_valkey.kill)
    assert await batch(replica.cache, tags, source) == Unchanged(of(source).etag)
    source.commit()
    assert await batch(replica.cache, tags, source) == of(source)
    assert (source.queries, source.tag_queries) == (1, 2)
