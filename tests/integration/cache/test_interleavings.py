"""Every interleaving of readers and writers that could bring an old answer back, forced on a real Redis.

(a) A stale set: a reader misses, loads the old rows, is held up; the writer commits and invalidates; the reader stores.
(b) Two writers, each with a commit and an invalidation of its own.
(c) A crash between commit and invalidation: ../api/test_freshness_of_processes.py.
(d) Token or answer expire, or are evicted, between look-up and store.
(e) Redis loses everything in mid-flight; with a real restart: test_redis_outages.py.
(f) A replica whose clock is wrong: ../api/test_freshness_of_processes.py.
All of them in any order: test_any_interleaving.py.
"""

import asyncio

from redis.asyncio import Redis

from result_aggregator_service.cache.cache_manager import Answer, KnownTags, Unchanged
from tests.integration.cache.conftest import Replica
from tests.integration.cache.reading import BOTH, Read, invalidate
from tests.integration.cache.source import Source
from tests.waiting import eventually

TOKENS = ("ras:batch-token:b1", "ras:user-token:u1")
ANSWERS = ("ras:batch:b1", "ras:user:u1:batches:20:0:")


async def held_up(read: Read, replica: Replica, source: Source) -> asyncio.Task[Answer | Unchanged | None]:
    """A reader that has read the present rows, and returns them once `source.may_return` is set."""
    source.may_return.clear()
    source.read.clear()
    reader = asyncio.create_task(read(replica.cache, source))
    await eventually(source.read.is_set)
    return reader


# (a) A stale set.


@BOTH
async def test_a_slow_reader_does_not_put_the_old_answer_over_the_new_state(
    read: Read, replica: Replica, other_replica: Replica
) -> None:
    source = Source()
    source.may_return.clear()
    slow = asyncio.create_task(read(replica.cache, source))
    await eventually(source.read.is_set)  # the old rows are read, and the reader is held up
    source.commit()
    await invalidate(other_replica.cache)
    source.may_return.set()
    old = await slow
    assert await read(replica.cache, source) != old
    assert await read(other_replica.cache, source) != old


@BOTH
async def test_a_slow_reader_does_not_overwrite_what_a_later_reader_has_stored(
    read: Read, replica: Replica, other_replica: Replica
) -> None:
    source, later_source = Source(), Source()
    source.may_return.clear()
    slow = asyncio.create_task(read(replica.cache, source))
    await eventually(source.read.is_set)
    later_source.commit()
    await invalidate(other_replica.cache)
    new = await read(other_replica.cache, later_source)  # makes a new token and stores under it
    source.may_return.set()
    assert await slow != new
    assert await read(replica.cache, later_source) == new
    assert later_source.queries == 1


@BOTH
async def test_a_reader_that_comes_after_an_invalidation_is_not_joined_to_a_query_that_began_before(
    read: Read, replica: Replica
) -> None:
    source = Source()
    source.may_return.clear()
    before = asyncio.create_task(read(replica.cache, source))
    await eventually(lambda: source.queries == 1)
    source.commit()
    await invalidate(replica.cache)
    after = asyncio.create_task(read(replica.cache, source))
    await eventually(lambda: source.queries == 2)
    source.may_return.set()
    assert await before != await after
    assert await read(replica.cache, source) == await after


async def test_nor_to_a_query_for_a_tag_that_began_before(replica: Replica) -> None:
    source = Source()
    old = source.present
    assert old is not None
    has_old = KnownTags(frozenset({old.etag}))
    source.may_return.clear()
    before = asyncio.create_task(replica.cache.batch_status("b1", has_old, source))
    await eventually(lambda: source.tag_queries == 1)
    source.commit()
    await invalidate(replica.cache)
    after = asyncio.create_task(replica.cache.batch_status("b1", has_old, source))
    await eventually(lambda: source.tag_queries == 2)
    source.may_return.set()
    assert await before == Unchanged(old.etag)
    assert await after == source.present != old


# (b) Two writers.


@BOTH
async def test_two_writers_in_a_row_leave_only_the_newest_answer(read: Read, replica: Replica) -> None:
    sources = [Source(), Source(), Source()]
    for source in sources:
        source.may_return.clear()
        source.commit()
    first = asyncio.create_task(read(replica.cache, sources[0]))
    await eventually(sources[0].read.is_set)
    await invalidate(replica.cache)
    second = asyncio.create_task(read(replica.cache, sources[1]))
    await eventually(sources[1].read.is_set)
    await invalidate(replica.cache)
    third = asyncio.create_task(read(replica.cache, sources[2]))
    await eventually(sources[2].read.is_set)
    answers = []
    for source, reader in reversed(list(zip(sources, (first, second, third), strict=True))):
        source.may_return.set()
        answers.append(await reader)
    assert await read(replica.cache, sources[2]) == answers[0]
    assert sources[2].queries == 1


@BOTH
async def test_an_invalidation_between_the_other_writers_commit_and_its_own_leaves_nothing_older_than_either(
    read: Read, replica: Replica, other_replica: Replica
) -> None:
    """A commits; B commits; A invalidates; a reader comes; B invalidates; another comes."""
    source = Source()
    await read(replica.cache, source)
    source.commit()
    of_a = source.present
    source.commit()
    of_b = source.present
    await invalidate(replica.cache)
    assert await read(other_replica.cache, source) == of_b != of_a
    await invalidate(other_replica.cache)
    assert await read(replica.cache, source) == of_b
    assert source.queries == 3


@BOTH
async def test_a_reader_between_one_writers_invalidation_and_the_others_commit_keeps_nothing_for_those_after(
    read: Read, replica: Replica, other_replica: Replica
) -> None:
    """A commits and invalidates; a reader reads A's rows and is held up; B commits; it stores; B invalidates."""
    source = Source()
    await read(replica.cache, source)
    source.commit()
    of_a = source.present
    await invalidate(replica.cache)
    reader = await held_up(read, replica, source)
    source.commit()
    of_b = source.present
    source.may_return.set()
    assert await reader == of_a
    assert await read(other_replica.cache, source) == of_a  # B has not invalidated yet
    await invalidate(other_replica.cache)
    for each in (replica, other_replica):
        assert await read(each.cache, source) == of_b


@BOTH
async def test_two_invalidations_around_a_reader_that_holds_the_rows_before_the_second_commit(
    read: Read, replica: Replica, other_replica: Replica
) -> None:
    """B commits before A's invalidation and invalidates after a reader has stored A's rows, read before B committed."""
    source = Source()
    source.commit()
    of_a = source.present
    reader = await held_up(read, replica, source)
    source.commit()
    of_b = source.present
    await invalidate(other_replica.cache)  # A's; it covers B's commit, too
    source.may_return.set()
    assert await reader == of_a
    for each in (replica, other_replica):
        assert await read(each.cache, source) == of_b
    await invalidate(replica.cache)  # B's
    for each in (replica, other_replica):
        assert await read(each.cache, source) == of_b


# (d) Token or answer go away in mid-flight.


@BOTH
async def test_a_token_that_redis_evicted_is_not_taken_for_unchanged(read: Read, replica: Replica, raw: Redis) -> None:
    source = Source()
    await read(replica.cache, source)
    source.may_return.clear()
    source.read.clear()
    await raw.delete(*ANSWERS)
    slow = asyncio.create_task(read(replica.cache, source))
    await eventually(source.read.is_set)
    await raw.delete(*TOKENS)  # evicted while the reader is held up
    source.commit()
    source.may_return.set()
    old = await slow
    assert await read(replica.cache, source) != old


@BOTH
async def test_what_was_stored_under_a_token_that_is_gone_is_no_hit(read: Read, replica: Replica, raw: Redis) -> None:
    source = Source()
    old = await read(replica.cache, source)
    await raw.delete(*TOKENS)
    source.commit()
    assert await read(replica.cache, source) != old


@BOTH
async def test_nor_once_a_reader_has_made_a_new_token_and_stored_nothing_under_it(
    read: Read, replica: Replica, raw: Redis
) -> None:
    source = Source()
    old = await read(replica.cache, source)
    await raw.delete(*TOKENS)
    source.may_return.clear()
    source.read.clear()
    gave_up = asyncio.create_task(read(replica.cache, source))
    await eventually(source.read.is_set)
    gave_up.cancel()
    await asyncio.wait([gave_up])
    source.may_return.set()
    source.commit()
    assert await read(replica.cache, source) != old


@BOTH
async def test_an_answer_that_expires_in_mid_flight_is_stored_anew_only_if_nothing_was_invalidated(
    read: Read, replica: Replica, other_replica: Replica, raw: Redis
) -> None:
    source = Source()
    await read(replica.cache, source)
    await raw.delete(*ANSWERS)
    reader = await held_up(read, replica, source)
    source.may_return.set()
    first = await reader
    assert await read(other_replica.cache, source) == first
    assert source.queries == 2
    await raw.delete(*ANSWERS)
    reader = await held_up(read, replica, source)
    source.commit()
    await invalidate(other_replica.cache)
    source.may_return.set()
    assert await reader == first
    assert await read(other_replica.cache, source) == source.present != first


@BOTH
async def test_a_token_that_expires_in_mid_flight_and_is_made_anew_by_another_reader_keeps_the_slow_one_out(
    read: Read, replica: Replica, other_replica: Replica, raw: Redis
) -> None:
    source = Source()
    slow = await held_up(read, replica, source)
    await raw.delete(*TOKENS)
    source.commit()
    of_later = Source()
    of_later.version = source.version
    new = await read(other_replica.cache, of_later)
    source.may_return.set()
    assert await slow != new
    for each in (replica, other_replica):
        assert await read(each.cache, of_later) == new
    assert of_later.queries == 1


@BOTH
async def test_a_token_that_expires_by_itself_takes_its_answers_with_it(
    read: Read, replica: Replica, raw: Redis
) -> None:
    source = Source()
    old = await read(replica.cache, source)
    for token in TOKENS:
        await raw.pexpire(token, 1)

    async def are_gone() -> bool:
        return await raw.exists(*TOKENS) == 0

    await eventually(are_gone)
    source.commit()
    assert await read(replica.cache, source) == source.present != old


# (e) Redis loses everything.


@BOTH
async def test_a_redis_that_loses_everything_in_mid_flight_takes_nothing_from_readers_of_before(
    read: Read, replica: Replica, other_replica: Replica, raw: Redis
) -> None:
    """The commit's invalidation meets an empty Redis, and so does the reader who read before it."""
    source = Source()
    slow = await held_up(read, replica, source)
    await raw.flushdb()
    source.commit()
    await invalidate(other_replica.cache)
    source.may_return.set()
    old = await slow
    for each in (replica, other_replica):
        assert await read(each.cache, source) == source.present != old
