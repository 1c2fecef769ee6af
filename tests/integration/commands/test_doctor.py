"""What the doctor says of real servers, well and in each kind of trouble, in a process of its own."""

import json
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer
from redis.asyncio import Redis
from sqlalchemy.engine import make_url

from embedded import EmbeddedPgBouncer, EmbeddedValkey, MockKafka, TcpProxy
from result_aggregator_service.commands.doctor import Limits, clock_verdict, redis_clock, topics_verdict
from result_aggregator_service.consumer.stopping import stop_consumer
from result_aggregator_service.contracts.topics import CONSUMED, PUBLISHED
from result_aggregator_service.publishing.election import ELECTION_LOCK
from tests.integration.commands.operator import Ended, Operator
from tests.integration.service.wiring import KEY, Wire
from tests.servers import KafkaServer, create_topics
from tests.waiting import eventually

SECRET = "secret-of-the-tests"
CHECKS = {
    *("settings", "postgres", "migrations", "outbox", "quarantine", "postgres_clock", "connections"),
    *("direct_connection", "kafka", "topics", "lag", "members", "redis", "redis_clock", "redis_memory"),
}


def verdicts_of(ended: Ended) -> dict[str, dict[str, Any]]:
    """What it said with --json, by the names of the checks."""
    assert ended.err == b""
    said = [json.loads(line) for line in ended.out.splitlines()]
    assert all(one.keys() == {"check", "verdict", "told", "mend"} for one in said)
    return {one["check"]: one for one in said}


def states_of(ended: Ended) -> dict[str, str]:
    """The verdicts that are not ok."""
    return {name: one["verdict"] for name, one in verdicts_of(ended).items() if one["verdict"] != "ok"}


@asynccontextmanager
async def connected(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(
        make_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)
    )
    try:
        yield connection
    finally:
        await connection.close()


async def run(database_url: str, *statements: str) -> None:
    async with connected(database_url) as connection:
        for statement in statements:
            await connection.execute(statement)


@pytest.fixture
def environment(database_url: str, redis_url: str, kafka_server: KafkaServer) -> dict[str, str]:
    return {
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "KAFKA_BOOTSTRAP_SERVERS": kafka_server.bootstrap_servers,
        "INTERNAL_API_KEY": KEY,
        "KAFKA_CONSUMER_GROUP_ID": f"doctor-{secrets.token_hex(4)}",
    }


@pytest.fixture
def operator(environment: dict[str, str]) -> Operator:
    return Operator("doctor", environment)


@pytest.fixture
def silent() -> Iterator[Callable[[], TcpProxy]]:
    """Makes servers that accept connections and say nothing."""
    with ExitStack() as stack:

        def made() -> TcpProxy:
            proxy = TcpProxy(1).start()
            stack.callback(proxy.stop)
            proxy.hang()
            return proxy

        yield made


@pytest.mark.apache_kafka
async def test_all_is_well_and_a_narrow_terminal_shows_it_on_more_lines(
    environment: dict[str, str], kafka_server: KafkaServer
) -> None:
    await create_topics(kafka_server.bootstrap_servers, [*CONSUMED, *PUBLISHED], is_apache=True)
    group = environment["KAFKA_CONSUMER_GROUP_ID"]
    operator = Operator("doctor", {**environment, "KAFKA_AUTO_OFFSET_RESET": "latest"})
    member = AIOKafkaConsumer(*CONSUMED, bootstrap_servers=kafka_server.bootstrap_servers, group_id=group)
    await member.start()
    try:
        await eventually(member.assignment, within=60)
        ended = await operator("--json")
        shown = await operator.on_terminal(columns=40)
    finally:
        await stop_consumer(member)
    assert states_of(ended) == {}
    said = verdicts_of(ended)
    assert said.keys() == CHECKS
    assert ended.status == 0
    assert said["members"]["told"] == f"1 in {group}"
    assert said["lag"]["told"] == "0 messages"
    assert said["topics"]["told"].startswith("11 consumed, 3 published, all there")
    lines = shown.decode().replace("\r", "").splitlines()
    assert max(map(len, lines)) <= 40
    assert "11 consumed, 3 published, all there" in " ".join(line.strip() for line in lines)
    assert lines[-1] == f"{len(CHECKS)} ok"


@pytest.mark.apache_kafka
async def test_each_kind_of_trouble_has_its_verdict_and_its_mend(
    environment: dict[str, str],
    database_url: str,
    kafka_server: KafkaServer,
    kafka_group: Callable[[Iterable[str]], Awaitable[str]],
) -> None:
    # A group that has committed: before the first one, a broker knows of no coordinator.
    operator = Operator("doctor", {**environment, "KAFKA_CONSUMER_GROUP_ID": await kafka_group(CONSUMED)})
    await run(
        database_url,
        "INSERT INTO event_outbox (event_id, aggregate_type, aggregate_id, event_type, event_data, event_key, topic, "
        "created_at) SELECT gen_random_uuid(), 'batch', 'b', 't', '{}', 'k', 't', now() - age "
        "FROM unnest(ARRAY['2 min', '1 min']::interval[]) AS age",
        'INSERT INTO quarantined_messages (topic, partition, "offset", digest, headers, error_type, error) '
        "VALUES ('t', 0, 0, '', '[]', 'NotJson', 'x'), ('t', 0, 1, '', '[]', 'NotJson', 'x')",
        "UPDATE alembic_version SET version_num = '0002'",
    )
    async with Wire(kafka_server.bootstrap_servers) as wire:
        unread = await wire.send(next(iter(CONSUMED)), b"x")
    ended = await operator("--json", "--max-lag", "0", "--replicas", "1000")
    assert states_of(ended) == {
        "migrations": "failed",
        "outbox": "warning",
        "quarantine": "warning",
        "connections": "warning",
        "lag": "warning",
        "members": "warning",
    }
    assert ended.status == 1
    said = verdicts_of(ended)
    assert all(said[name]["mend"] for name in states_of(ended))
    assert said["lag"]["told"] == f"1 messages, most in {unread.topic}:{unread.partition}: 1"
    assert said["quarantine"]["told"] == "2 NotJson"
    assert said["migrations"]["told"] == "at 0002, this version needs 0003"
    assert said["outbox"]["told"].startswith("2 unpublished, the oldest 12")
    assert said["outbox"]["told"].endswith(" s old, 0 parked; no relay is elected")
    async with connected(database_url) as relay:
        await relay.execute(f"SELECT pg_advisory_lock({ELECTION_LOCK})")
        waiting = verdicts_of(await operator("--json"))["outbox"]
        assert (waiting["verdict"], waiting["told"].split(", ")[-1]) == ("warning", "0 parked")
    await run(database_url, "UPDATE event_outbox SET parked_at = now()")
    parked = verdicts_of(await operator("--json", "--max-outbox-age", "1000"))["outbox"]
    assert (parked["verdict"], parked["told"].split(", ")[-1]) == ("warning", "2 parked")


async def test_a_pooler_is_told_of_where_the_relay_wants_a_session_of_its_own(
    operator: Operator, pgbouncer: EmbeddedPgBouncer, database_url: str
) -> None:
    pooled = {"DATABASE_URL": pgbouncer.url_for(database_url), "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    said = verdicts_of(await operator("--json", **pooled))
    assert {said[name]["verdict"] for name in ("postgres", "migrations", "outbox", "quarantine")} == {"ok"}
    assert said["direct_connection"]["verdict"] == "warning"
    assert said["direct_connection"]["told"].startswith("a pooler: ")
    assert "DATABASE_DIRECT_URL" in said["direct_connection"]["mend"]
    assert said["connections"]["told"].startswith("1 x 1 may be wanted beside the pooler, ")
    for mended in ({"DATABASE_DIRECT_URL": database_url}, {"OUTBOX_LISTEN": "false"}):
        assert verdicts_of(await operator("--json", **pooled, **mended))["direct_connection"]["verdict"] == "ok"
    swapped = {**pooled, "DATABASE_URL": database_url, "DATABASE_DIRECT_URL": pooled["DATABASE_URL"]}
    said = verdicts_of(await operator("--json", **swapped))
    assert said["direct_connection"]["verdict"] == "warning"
    assert said["connections"]["told"].startswith("1 x 31 may be wanted at once, ")


async def test_a_database_without_tables_is_told_to_be_migrated(operator: Operator, empty_database_url: str) -> None:
    changed = {"DATABASE_URL": empty_database_url, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    migrations = verdicts_of(await operator("--json", **changed))["migrations"]
    assert (migrations["verdict"], migrations["told"]) == ("failed", "the database has not been migrated")


async def test_topics_that_are_missing_are_named(operator: Operator) -> None:
    with MockKafka() as empty:
        said = verdicts_of(await operator("--json", KAFKA_BOOTSTRAP_SERVERS=empty.bootstrap_servers))
    assert said["topics"]["verdict"] == "failed"
    assert all(topic in said["topics"]["told"] for topic in (*CONSUMED, *PUBLISHED))


def test_a_partition_without_a_leader_fails() -> None:
    found = {topic: [{"leader": 1}, {"leader": 2}] for topic in (*CONSUMED, *PUBLISHED)}
    assert topics_verdict(found).verdict == "ok"
    [first, *_] = PUBLISHED
    said = topics_verdict({**found, first: [{"leader": 1}, {"leader": -1}]})
    assert (said.verdict, said.told) == ("failed", f"without a leader: {first}")


@pytest.mark.parametrize(
    ("ahead", "verdict", "told"),
    [
        (0.0, "ok", "as this machine's"),
        (0.5, "ok", "as this machine's"),
        (2.0, "ok", "+1.00 s to this machine's"),
        (3.0, "ok", "+2.00 s to this machine's"),
        (-2.0, "ok", "-2.00 s to this machine's"),
        (91.0, "warning", "+90.0 s to this machine's"),
        (-90.0, "warning", "-90.0 s to this machine's"),
    ],
)
def test_a_clock_that_is_off_is_told_of_in_its_direction_apart_from_the_second_that_the_question_took(
    ahead: float, verdict: str, told: str
) -> None:
    limits = Limits(0, 0.0, clock_seconds=2.0, replicas=1)
    said = clock_verdict("postgres_clock", 1000.0 + ahead, 1000.0, 1001.0, limits)
    assert (said.verdict, said.told) == (verdict, told)


async def test_the_clocks_of_both_servers_are_asked(operator: Operator, database_url: str, redis_url: str) -> None:
    database = make_url(database_url).database
    await run(
        database_url,
        "CREATE SCHEMA slow",
        "CREATE FUNCTION slow.clock_timestamp() RETURNS timestamptz RETURN pg_catalog.now() - interval '90 s'",
        f'ALTER DATABASE "{database}" SET search_path = slow, pg_catalog, public',
    )
    said = verdicts_of(await operator("--json", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1"))
    assert said["postgres_clock"]["verdict"] == "warning"
    assert said["redis_clock"]["verdict"] == "ok"

    class SlowRedis(Redis):
        async def time(self, **kwargs: Any) -> tuple[int, int]:
            seconds, microseconds = await super().time()
            return seconds - 90, microseconds

    async with SlowRedis.from_url(redis_url) as client:
        assert (await redis_clock(client, Limits(0, 0.0, clock_seconds=2.0, replicas=1))).verdict == "warning"


async def test_one_question_that_hangs_hides_none_of_the_others(operator: Operator, database_url: str) -> None:
    async with connected(database_url) as connection, connection.transaction():
        await connection.execute("LOCK TABLE event_outbox")
        states = states_of(await operator("--json", KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:1"))
    assert states == {
        "outbox": "failed",
        "kafka": "failed",
        "topics": "not_checked",
        "lag": "not_checked",
        "members": "not_checked",
    }


async def test_a_redis_that_refuses_writes_when_full_is_told_of(operator: Operator, own_valkey: EmbeddedValkey) -> None:
    async with Redis.from_url(own_valkey.url) as client:
        await client.config_set("maxmemory", "100mb")
        await client.config_set("maxmemory-policy", "noeviction")
    changed = {"REDIS_URL": own_valkey.url, "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1"}
    assert states_of(await operator("--json", **changed))["redis_memory"] == "warning"


async def test_with_all_servers_silent_everything_has_its_verdict_in_time(
    operator: Operator, silent: Callable[[], TcpProxy]
) -> None:
    postgres, kafka, redis = silent(), silent(), silent()
    began = time.monotonic()
    ended = await operator(
        "--json",
        DATABASE_URL=f"postgresql://somebody:{SECRET}@127.0.0.1:{postgres.port}/ras",
        KAFKA_BOOTSTRAP_SERVERS=f"127.0.0.1:{kafka.port}",
        REDIS_URL=f"redis://:{SECRET}@127.0.0.1:{redis.port}/0",
    )
    took = time.monotonic() - began
    states = states_of(ended)
    assert {name for name, state in states.items() if state == "failed"} == {
        *("postgres", "direct_connection", "kafka", "redis")
    }
    assert {*states, "settings"} == CHECKS
    assert ended.status == 1
    assert SECRET.encode() not in ended.out
    assert took < 25  # 15 s, and a process's start on a machine that is busy


async def test_wrong_usage_ends_with_2(operator: Operator) -> None:
    ended = await operator("--replicas", "0")
    assert (ended.status, ended.out) == (2, b"")
    assert b"--replicas" in ended.err


async def test_wrong_settings_are_verdicts_each_and_no_traceback(operator: Operator) -> None:
    ended = await operator("--json", PORT="many", DATABASE_URL=f"mysql://somebody:{SECRET}@nowhere/x")
    said = [json.loads(line) for line in ended.out.splitlines()]
    wrong = {(one["told"].split(":")[0], one["verdict"]) for one in said if one["check"] == "settings"}
    assert wrong == {("PORT", "failed"), ("DATABASE_URL", "failed")}
    assert {one["verdict"] for one in said if one["check"] != "settings"} == {"not_checked"}
    assert {one["check"] for one in said} == CHECKS
    assert (ended.status, ended.err) == (2, b"")
    assert SECRET.encode() not in ended.out
