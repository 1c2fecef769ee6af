"""What the fixtures of conftest promise: a test finds no traces of the one before it."""

from collections.abc import Awaitable, Callable, Iterable

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from redis.asyncio import Redis

from tests.servers import KafkaServer
from tests.waiting import eventually

TOPIC = "server.fixtures.v1"
TWICE = pytest.mark.parametrize("turn", [1, 2])


async def tables(url: str) -> set[str]:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        await connection.execute("CREATE TABLE left_behind (number int)")
    finally:
        await connection.close()
    return {row["tablename"] for row in rows}


@TWICE
async def test_each_database_is_migrated_and_new(turn: int, database_url: str) -> None:
    found = await tables(database_url)
    assert "alembic_version" in found
    assert "left_behind" not in found


@TWICE
async def test_each_empty_database_has_no_tables(turn: int, empty_database_url: str) -> None:
    assert await tables(empty_database_url) == set()


@TWICE
async def test_each_redis_database_is_empty(turn: int, redis_url: str) -> None:
    async with Redis.from_url(redis_url) as client:
        assert await client.dbsize() == 0
        await client.set("left behind", turn)


@TWICE
async def test_each_group_sees_only_what_its_test_produces(
    turn: int, kafka_server: KafkaServer, kafka_group: Callable[[Iterable[str]], Awaitable[str]]
) -> None:
    group = await kafka_group([TOPIC])
    producer = AIOKafkaProducer(bootstrap_servers=kafka_server.bootstrap_servers)
    consumer = AIOKafkaConsumer(
        TOPIC, bootstrap_servers=kafka_server.bootstrap_servers, group_id=group, auto_offset_reset="earliest"
    )
    try:
        await producer.start()
        await producer.send_and_wait(TOPIC, f"turn {turn}".encode())
        await consumer.start()
        polled = await eventually(lambda: consumer.getmany(timeout_ms=200))
    finally:
        await consumer.stop()
        await producer.stop()
    assert [record.value for records in polled.values() for record in records] == [f"turn {turn}".encode()]
