"""Real processes: one is killed between its commit and its invalidation, some have clocks that are wrong by an hour."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis.asyncio import Redis

from result_aggregator_service.contracts.topics import CONSUMED
from tests.integration.service.process import ServiceProcess
from tests.integration.service.wiring import Wire
from tests.servers import KafkaServer, leave_out_for
from tests.unit.domain import messages as say
from tests.waiting import eventually

pytestmark = pytest.mark.apache_kafka

Positioned = Callable[[Iterable[str]], Awaitable[str]]


@pytest.fixture
async def wire(kafka_server: KafkaServer) -> AsyncIterator[Wire]:
    async with Wire(kafka_server.bootstrap_servers) as wire:
        yield wire


@pytest.fixture
async def environment(
    database_url: str, redis_url: str, kafka_server: KafkaServer, kafka_group: Positioned
) -> dict[str, str]:
    """What all processes of a test share."""
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "KAFKA_BOOTSTRAP_SERVERS": kafka_server.bootstrap_servers,
        "KAFKA_CONSUMER_GROUP_ID": await kafka_group(CONSUMED),
        "KAFKA_SESSION_TIMEOUT_MS": "6000",
        "ENVIRONMENT": "test",
    }


def status(batch_id: str = "b") -> str:
    return f"/internal/v1/batches/{batch_id}/status"


def processed(result: str) -> str:
    """The sample that counts messages about spell checks."""
    return f'ras_messages_processed_total{{result="{result}",topic="{say.spellcheck("e", corrections=1).topic}"}}'


def corrections(document: dict[str, Any]) -> int | None:
    batch = document["batches"][0] if "batches" in document else document
    count: int | None = batch["essays"][0]["spellcheck_correction_count"]
    return count


async def test_a_crash_between_commit_and_invalidation_is_healed_by_the_redelivered_poll(
    client: httpx.AsyncClient, redis_url: str, own_folder: Path, wire: Wire, environment: dict[str, str]
) -> None:
    """`client` asks another replica, one that takes no part in the group and has long answered from Redis."""
    environment |= {"KAFKA_GROUP_INSTANCE_ID": "one"}  # so that its successor need not wait for its session to end
    paths = (status(), "/internal/v1/batches/user/teacher")

    async def shown() -> list[int | None]:
        answers = [await client.get(path) for path in paths]
        assert {answer.status_code for answer in answers} == {200}, answers[0].text
        return [corrections(answer.json()) for answer in answers]

    async def are_shown(count: int | None) -> bool:
        return await shown() == [count, count]

    async def are_in_redis() -> bool:
        await shown()
        async with Redis.from_url(redis_url) as raw:
            return all([await raw.keys(kept) for kept in ("ras:batch:b", "ras:user:teacher:batches:*")])

    with ServiceProcess(own_folder, **environment, FAILPOINTS="cache.invalidate.before=kill@3") as dying:
        await wire.say(say.registered(["e"], "b"))
        await eventually(lambda: are_shown(None), within=40)
        await wire.say(say.spellcheck("e", corrections=1, at=51))
        await eventually(lambda: are_shown(1))
        await eventually(are_in_redis)  # on a busy machine Redis may not have taken the first of them in time
        await wire.say(say.spellcheck("e", corrections=2, at=52))
        await dying.ended(within=30)
        assert "cache.invalidate.before" in dying.output()
    # Committed and not invalidated: what was in Redis is answered until the poll comes again, or its time is over.
    async with Redis.from_url(redis_url) as raw:
        assert await raw.ttl("ras:batch:b") > 200
    assert await shown() == [1, 1]
    with ServiceProcess(own_folder, **environment) as successor:
        await eventually(lambda: are_shown(2), within=40)
        assert await successor.metric(processed("duplicate")) == 1


def faked_clock(offset: str) -> dict[str, str]:
    """The environment in which a process takes the time to be another; time that only runs on stays as it is."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    leave_out_for(None if libraries else "libfaketime is not installed: `apt-get install faketime`")
    return {"LD_PRELOAD": str(libraries[0]), "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


async def test_replicas_whose_clocks_are_wrong_by_an_hour_read_and_write_nothing_stale(
    own_folder: Path, wire: Wire, environment: dict[str, str]
) -> None:
    """Three in one group, each writing some of the messages, each asked about all batches after every change."""
    clocks: list[dict[str, str]] = [{}, faked_clock("+1h"), faked_clock("-1h")]
    batch_ids = [f"b{number}" for number in range(4)]
    with ExitStack() as stack:
        replicas = [stack.enter_context(ServiceProcess(own_folder, **environment, **clock)) for clock in clocks]
        await asyncio.gather(*(replica.answers("/readyz", 200) for replica in replicas))
        for number, batch_id in enumerate(batch_ids):
            await wire.say(say.registered([f"e{number}"], batch_id), partition=number)
        group = environment["KAFKA_CONSUMER_GROUP_ID"]
        await wire.all_committed(group, within=60)
        for count in range(1, 3):
            for replica in replicas:  # so that every answer is in Redis
                for batch_id in batch_ids:
                    await replica.answers(status(batch_id), 200)
            for number, batch_id in enumerate(batch_ids):
                event = say.spellcheck(f"e{number}", batch_id, corrections=count, at=50 + count)
                await wire.say(event, partition=number)
            await wire.all_committed(group)  # and so invalidated
            for replica in replicas:
                shown = [corrections((await replica.get(status(batch_id))).json()) for batch_id in batch_ids]
                assert shown == [count] * 4
        for replica, hours in zip(replicas, (0, 1, -1), strict=True):
            told = datetime.fromisoformat(replica.logged("partitions_assigned")[0]["timestamp"])
            assert abs(told - datetime.now(UTC) - timedelta(hours=hours)) < timedelta(minutes=10)
            written = await replica.metric(processed("folded"))
            hits = await replica.metric('ras_cache_hits_total{cache_type="batch_status"}')
            assert written > 0
            assert hits > 0
