"""A body that a replica has had already is not carried again; and it is served only while Redis says it is present."""

from redis.asyncio import Redis

from result_aggregator_service.cache.cache_manager import Answer, KnownTags, Unchanged
from tests.integration.cache.conftest import Replica
from tests.integration.cache.reading import BOTH, NOTHING, Read, invalidate
from tests.integration.cache.source import Given, Source


async def bytes_out(raw: Redis) -> int:
    return int((await raw.info("stats"))["total_net_output_bytes"])


async def test_a_body_is_carried_to_each_replica_once(replica: Replica, other_replica: Replica, raw: Redis) -> None:
    large = Given(b"x" * 1_000_000)

    async def carried(by: Replica, *known: str) -> int:
        before = await bytes_out(raw)
        answer = await by.cache.batch_status("b1", KnownTags(frozenset(known)), large)
        assert answer == (Unchanged(large.answer.etag) if known else large.answer)
        return (await bytes_out(raw) - before) // 1_000_000

    await replica.cache.batch_status("b1", NOTHING, large)  # it is made and stored
    assert [await carried(replica) for _ in range(3)] == [1, 0, 0]
    assert [await carried(other_replica) for _ in range(2)] == [1, 0]
    assert await carried(other_replica, large.answer.etag) == 0


@BOTH
async def test_what_another_replica_invalidates_is_not_served_from_here(
    read: Read, replica: Replica, other_replica: Replica
) -> None:
    source = Source()
    for version in range(1, 5):
        source.version = version
        for by in (replica, other_replica, replica, other_replica):
            assert await read(by.cache, source) == source.present
        await invalidate(other_replica.cache)
    assert source.queries == 4


@BOTH
async def test_an_answer_that_comes_back_under_another_token_is_served_from_here_again(
    read: Read, replica: Replica, raw: Redis
) -> None:
    source = Source()
    for _ in range(3):
        assert await read(replica.cache, source) == source.present
    await raw.flushdb()
    for _ in range(3):
        assert await read(replica.cache, source) == source.present
    assert source.queries == 2


async def test_a_body_of_another_tag_is_never_taken_for_the_present_one(replica: Replica, raw: Redis) -> None:
    old, new = Given(b"old"), Given(b"new")
    for source in (old, new):
        await replica.cache.batch_status("b1", NOTHING, source)
        assert await replica.cache.batch_status("b1", NOTHING, source) == source.answer
        await invalidate(replica.cache)
    # The client knows the old one, this process the new one, and Redis has neither's.
    third = Given(b"third")
    await replica.cache.batch_status("b1", NOTHING, third)
    known = KnownTags(frozenset({old.answer.etag}))
    answer = await replica.cache.batch_status("b1", known, third)
    assert answer == Answer(b"third", third.answer.etag)
