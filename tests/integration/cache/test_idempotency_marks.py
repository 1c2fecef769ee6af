"""Marks of messages seen: kept by database, for a time, and done without while Redis is away."""

import asyncio
from uuid import uuid4

import pytest
from redis.asyncio import Redis

from embedded import EmbeddedValkey
from result_aggregator_service.cache.idempotency import IdempotencyMarks, RedisIdempotencyMarks
from tests.integration.cache.conftest import MakeReplica, Replica


@pytest.fixture
def marks(replica: Replica) -> IdempotencyMarks:
    return RedisIdempotencyMarks(replica.redis, ttl_seconds=60)


async def test_what_is_marked_has_been_seen_and_nothing_else(marks: IdempotencyMarks) -> None:
    marked, others = [uuid4() for _ in range(1000)], [uuid4() for _ in range(10)]
    await marks.mark("database", marked)
    assert await marks.seen("database", [*others, *marked]) == set(marked)


async def test_another_database_has_seen_nothing(marks: IdempotencyMarks) -> None:
    event_id = uuid4()
    await marks.mark("database", [event_id])
    assert await marks.seen("restored", [event_id]) == set()


async def test_marks_expire_and_a_second_mark_does_not_prolong_them(marks: IdempotencyMarks, raw: Redis) -> None:
    event_id = uuid4()
    await marks.mark("database", [event_id])
    key = f"ras:seen:database:{event_id.hex}"
    assert 50 < await raw.ttl(key) <= 60
    await raw.expire(key, 7)
    await marks.mark("database", [event_id])
    assert await raw.ttl(key) <= 7


async def test_nothing_to_ask_or_mark_asks_redis_nothing(make_replica: MakeReplica) -> None:
    replica = await make_replica("redis://127.0.0.1:1/0")
    marks = RedisIdempotencyMarks(replica.redis, ttl_seconds=60)
    assert await marks.seen("database", []) == set()
    await marks.mark("database", [])
    assert replica.metric("ras_cache_errors_total", operation="seen") == 0
    assert replica.metric("ras_cache_errors_total", operation="mark") == 0


async def test_while_redis_is_away_nothing_is_known_and_nothing_fails(
    make_replica: MakeReplica, own_valkey: EmbeddedValkey
) -> None:
    replica = await make_replica(own_valkey.url)
    marks = RedisIdempotencyMarks(replica.redis, ttl_seconds=60)
    event_id = uuid4()
    await marks.mark("database", [event_id])
    await asyncio.to_thread(own_valkey.kill)
    assert await marks.seen("database", [event_id]) == set()
    await marks.mark("database", [event_id])
    assert replica.metric("ras_cache_errors_total", operation="seen") == 1
    assert replica.metric("ras_cache_errors_total", operation="mark") == 1
