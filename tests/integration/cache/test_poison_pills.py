"""Copies of bad messages: whole where they are small, cut where not, and never a reason to fail."""

import base64
import dataclasses
from typing import Any

import orjson
import pytest
from redis.asyncio import Redis

from result_aggregator_service.cache.poison_pills import (
    MAX_COPIED_BYTES,
    NoPoisonPills,
    PoisonPills,
    RedisPoisonPills,
)
from result_aggregator_service.storage.quarantine import BadMessage
from tests.integration.cache.conftest import MakeReplica, Replica

KEY = "poison_pill:a.topic:3:42"


async def copied(pills: PoisonPills, raw: Redis, **changed: Any) -> dict[str, Any]:
    message = BadMessage(
        topic="a.topic",
        partition=3,
        offset=42,
        key=b"\xff\x00key",
        value=b"\x80 no JSON",
        headers=[("trace_id", b"\xfe"), ("empty", None)],
        produced_ms=None,
        error_type="not_json",
        error="expected value",
    )
    await pills.store(dataclasses.replace(message, **changed))
    copy: dict[str, Any] = orjson.loads(await raw.get(KEY) or b"{}")
    return copy


@pytest.fixture
def pills(replica: Replica) -> PoisonPills:
    return RedisPoisonPills(replica.redis, ttl_seconds=60)


async def test_a_bad_message_is_copied_with_its_bytes_and_its_error(pills: PoisonPills, raw: Redis) -> None:
    assert await copied(pills, raw) == {
        "topic": "a.topic",
        "partition": 3,
        "offset": 42,
        "error_type": "not_json",
        "error": "expected value",
        "key": base64.b64encode(b"\xff\x00key").decode(),
        "value": base64.b64encode(b"\x80 no JSON").decode(),
        "value_bytes": 9,
        "value_truncated": False,
        "headers": [["trace_id", "/g=="], ["empty", None]],
    }
    assert 50 < await raw.ttl(KEY) <= 60


async def test_a_message_without_key_and_value_is_copied_too(pills: PoisonPills, raw: Redis) -> None:
    copy = await copied(pills, raw, key=None, value=None, headers=[])
    assert (copy["key"], copy["value"], copy["value_bytes"], copy["value_truncated"]) == (None, None, None, False)


async def test_a_long_value_is_cut_and_marked_as_cut(pills: PoisonPills, raw: Redis) -> None:
    copy = await copied(pills, raw, value=b"x" * (MAX_COPIED_BYTES + 1))
    assert base64.b64decode(copy["value"]) == b"x" * MAX_COPIED_BYTES
    assert (copy["value_bytes"], copy["value_truncated"]) == (MAX_COPIED_BYTES + 1, True)


async def test_an_error_that_quotes_a_lone_surrogate_is_copied(pills: PoisonPills, raw: Redis) -> None:
    assert (await copied(pills, raw, error="bad \ud800 text"))["error"] == "bad ? text"


async def test_where_copies_are_not_wanted_none_is_made(raw: Redis) -> None:
    assert await copied(NoPoisonPills(), raw) == {}


async def test_a_copy_that_cannot_be_made_is_counted_and_fails_nothing(make_replica: MakeReplica, raw: Redis) -> None:
    replica = await make_replica("redis://127.0.0.1:1/0")
    assert await copied(RedisPoisonPills(replica.redis, ttl_seconds=60), raw) == {}
    assert replica.metric("ras_cache_errors_total", operation="poison_pill") == 1
