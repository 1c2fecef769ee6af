"""`doctor`: what is well, what is not, and what mends it. It changes nothing, and joins no group.

Invariant: whatever is away or hangs, every check gets its verdict, and all of them within 15 s.
"""

import asyncio
import re
import textwrap
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import asyncpg
import click
from aiokafka.admin import AIOKafkaAdminClient
from redis.asyncio import Redis
from redis.exceptions import RedisError

from result_aggregator_service.cache.guarded_redis import create_redis_client
from result_aggregator_service.commands.command import STATUS_CANNOT_RUN, STATUS_DONE, STATUS_NOT_DONE, command
from result_aggregator_service.commands.outbox import RELAY_IS_ELECTED
from result_aggregator_service.commands.terminal import json_option, printable, tell_json, terminal_width
from result_aggregator_service.consumer.group_lag import GroupLag
from result_aggregator_service.consumer.offsets import KafkaOffsets
from result_aggregator_service.contracts.topics import CONSUMED, PUBLISHED
from result_aggregator_service.observability.logging import configure_logging
from result_aggregator_service.settings import Settings, SettingsError
from result_aggregator_service.storage.engine import connect_through_proxy, is_pooled
from result_aggregator_service.storage.migrations import MEND, REQUIRED_REVISION

_SECONDS_FOR_A_SERVER = 9.0
_SECONDS_FOR_A_QUESTION = 4.0
_SECONDS_TO_LET_GO = 1.0
_PARTS = re.compile(r"; (?=[A-Z_]+: )")  # of a SettingsError: one for each setting
_CONNECTIONS_BESIDE_THE_POOL = 1  # of each replica: the relay's, elected or standing by


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    NOT_CHECKED = "not_checked"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check: what was seen or, where nothing could be, why; and what mends it."""

    check: str
    verdict: State
    told: str
    mend: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """From where on something is told of."""

    lag: int
    outbox_seconds: float
    clock_seconds: float
    replicas: int


Question = Callable[[], Awaitable[Verdict]]
Asking = Callable[[list[Verdict]], Awaitable[None]]
"""Asks a server, and adds its verdicts one by one."""


@click.command()
@click.option("--max-lag", default=10_000, show_default=True, type=click.IntRange(0), help="Messages of the group.")
@click.option(
    "--max-outbox-age", default=60.0, show_default=True, type=click.FloatRange(0), help="Seconds of the oldest row."
)
@click.option(
    "--max-clock-skew", default=2.0, show_default=True, type=click.FloatRange(0), help="Seconds between two clocks."
)
@click.option(
    "--replicas", default=1, show_default=True, type=click.IntRange(1), help="How many share PostgreSQL's connections."
)
@json_option
@command
async def doctor(max_lag: int, max_outbox_age: float, max_clock_skew: float, replicas: int, as_json: bool) -> int:
    """Check settings, servers, migrations, topics, lag, outbox, quarantine and clocks. It changes nothing."""
    try:
        settings = Settings.load().model_copy(update={"log_level": "CRITICAL"})
    except SettingsError as error:
        _tell(_of_wrong_settings(error), as_json=as_json)
        return STATUS_CANNOT_RUN
    configure_logging(settings)
    limits = Limits(max_lag, max_outbox_age, max_clock_skew, replicas)
    found = await asyncio.gather(
        _postgres(settings, limits), _direct(settings), _kafka(settings, limits), _redis(settings, limits)
    )
    verdicts = [Verdict("settings", State.OK, "all of them can be used"), *(one for some in found for one in some)]
    _tell(verdicts, as_json=as_json)
    return STATUS_DONE if all(verdict.verdict is State.OK for verdict in verdicts) else STATUS_NOT_DONE


def _of_wrong_settings(error: SettingsError) -> list[Verdict]:
    why = "the settings are wrong"
    servers = ((_POSTGRES, _ON_POSTGRES), ("direct_connection", ()), (_KAFKA, _ON_KAFKA), (_REDIS, _ON_REDIS))
    return [
        *(Verdict("settings", State.FAILED, part, "see docs/settings.md") for part in _PARTS.split(str(error))),
        *(Verdict(name, State.NOT_CHECKED, why) for server, rest in servers for name in (server, *rest)),
    ]


def _tell(verdicts: Iterable[Verdict], *, as_json: bool) -> None:
    """As JSON, an object a check; as text, lines that are broken at a terminal's width and never cut."""
    counts = dict.fromkeys(State, 0)
    width = terminal_width() or 1000
    for verdict in verdicts:
        counts[verdict.verdict] += 1
        if as_json:
            tell_json(asdict(verdict))
            continue
        head = f"{verdict.verdict.replace('_', ' ')}: {verdict.check.replace('_', ' ')}: "
        click.echo(textwrap.fill(head + printable(verdict.told), width, subsequent_indent="    "))
        if verdict.mend is not None:
            click.echo(
                textwrap.fill(
                    f"mend: {printable(verdict.mend)}", width, initial_indent="    ", subsequent_indent="    "
                )
            )
    if not as_json:
        click.echo(", ".join(f"{count} {state.replace('_', ' ')}" for state, count in counts.items() if count))


def _said(error: BaseException) -> str:
    """What went wrong, on one line; where the error has no words, its kind."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return (str(error) or type(error).__name__).splitlines()[0]


async def _answers(server: str, mend: str, rest: Iterable[str], questions: Asking) -> list[Verdict]:
    """The verdicts of one server; where it cannot be reached, or falls silent, that and what was not checked for it."""
    verdicts: list[Verdict] = []
    try:
        async with asyncio.timeout(_SECONDS_FOR_A_SERVER):
            await questions(verdicts)
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the verdict, and hides none of the others
        if not verdicts:
            verdicts.append(Verdict(server, State.FAILED, _said(error), mend))
        known = {verdict.check for verdict in verdicts}
        why = f"{server}: {_said(error)}"
        verdicts += [Verdict(name, State.NOT_CHECKED, why) for name in rest if name not in known]
    return verdicts


async def _asked(check: str, question: Question) -> Verdict:
    """A question's verdict; one that fails or is not answered hides none of the others."""
    try:
        async with asyncio.timeout(_SECONDS_FOR_A_QUESTION):
            return await question()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the verdict
        return Verdict(check, State.FAILED, _said(error), "mend what is said here, then ask again")


# PostgreSQL

_POSTGRES = "postgres"
_ON_POSTGRES = ("migrations", "outbox", "quarantine", "postgres_clock", "connections")


async def _postgres(settings: Settings, limits: Limits) -> list[Verdict]:
    async def questions(verdicts: list[Verdict]) -> None:
        async with _connection(settings) as (connection, seconds):
            version = connection.get_server_version()
            verdicts.append(
                Verdict(_POSTGRES, State.OK, f"PostgreSQL {version.major}.{version.minor}, {_took(seconds)}")
            )
            for name, question in zip(
                _ON_POSTGRES, (_migrations, _outbox, _quarantine, _clock, _connections), strict=True
            ):

                async def asked(question: _OnPostgres = question) -> Verdict:
                    async with connection.transaction(readonly=True):
                        return await question(connection, settings, limits)

                verdicts.append(await _asked(name, asked))

    return await _answers(_POSTGRES, "start PostgreSQL, or mend DATABASE_URL", _ON_POSTGRES, questions)


@asynccontextmanager
async def _connection(settings: Settings) -> AsyncIterator[tuple[asyncpg.Connection, float]]:
    """A connection, and how many seconds it took to get it."""
    began = time.monotonic()
    connection = await connect_through_proxy(settings)
    try:
        yield connection, time.monotonic() - began
    finally:
        connection.terminate()


def _took(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


_OnPostgres = Callable[[asyncpg.Connection, Settings, Limits], Awaitable[Verdict]]


async def _migrations(connection: asyncpg.Connection, _: Settings, __: Limits) -> Verdict:
    revision = None
    if await connection.fetchval("SELECT to_regclass('alembic_version')") is not None:
        revision = await connection.fetchval("SELECT max(version_num) FROM alembic_version")
    if revision is None:
        return Verdict("migrations", State.FAILED, "the database has not been migrated", MEND)
    told = f"at {revision}, this version needs {REQUIRED_REVISION}"
    if revision < REQUIRED_REVISION:
        return Verdict("migrations", State.FAILED, told, MEND)
    return Verdict("migrations", State.OK, told)


async def _outbox(connection: asyncpg.Connection, settings: Settings, limits: Limits) -> Verdict:
    row = await connection.fetchrow(
        "SELECT count(*) AS depth, count(parked_at) AS parked, "
        "coalesce(extract(epoch FROM clock_timestamp() - min(created_at)), 0)::float8 AS age, "
        f"({RELAY_IS_ELECTED}) AS relay_is_elected FROM event_outbox WHERE published_at IS NULL"
    )
    assert row is not None  # an aggregate always has its row
    told = f"{row['depth']:,} unpublished, the oldest {row['age']:.0f} s old, {row['parked']:,} parked"
    # Where relays take turns, none is elected between two of them.
    if settings.outbox_listen and row["depth"] > row["parked"] and not row["relay_is_elected"]:
        told += "; no relay is elected"
    if row["parked"]:
        return Verdict("outbox", State.WARNING, told, "see `outbox list --state parked`, then `outbox requeue`")
    if row["age"] > limits.outbox_seconds:
        return Verdict(
            "outbox", State.WARNING, told, "see that the service runs and Kafka takes messages: `outbox stats`"
        )
    return Verdict("outbox", State.OK, told)


async def _quarantine(connection: asyncpg.Connection, _: Settings, __: Limits) -> Verdict:
    rows = await connection.fetch(
        "SELECT error_type, count(*) AS messages FROM quarantined_messages GROUP BY error_type ORDER BY error_type"
    )
    if not rows:
        return Verdict("quarantine", State.OK, "empty")
    told = ", ".join(f"{row['messages']:,} {row['error_type']}" for row in rows)
    return Verdict("quarantine", State.WARNING, told, "see `quarantine list`; then `quarantine retry` or `drop`")


async def _clock(connection: asyncpg.Connection, _: Settings, limits: Limits) -> Verdict:
    before = time.time()
    there = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    return clock_verdict("postgres_clock", there, before, time.time(), limits)


def clock_verdict(check: str, there: float, before: float, after: float, limits: Limits) -> Verdict:
    """A server's clock (Unix seconds) against this machine's, read before and after it."""
    ahead = max(there - after, 0) or min(there - before, 0)
    if abs(ahead) <= limits.clock_seconds:
        return Verdict(
            check, State.OK, "as this machine's" if abs(ahead) < 0.01 else f"{ahead:+.2f} s to this machine's"
        )
    return Verdict(check, State.WARNING, f"{ahead:+.1f} s to this machine's", "have both machines keep time (NTP)")


async def _connections(connection: asyncpg.Connection, settings: Settings, limits: Limits) -> Verdict:
    most = await connection.fetchval(
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    )
    each, where = _CONNECTIONS_BESIDE_THE_POOL, "beside the pooler"
    if not await is_pooled(connection):
        each, where = each + settings.database_pool_size + settings.database_max_overflow, "at once"
    told = f"{limits.replicas} x {each} may be wanted {where}, PostgreSQL has {most}"
    if limits.replicas * each > most:
        mend = "lower DATABASE_POOL_SIZE and DATABASE_MAX_OVERFLOW, raise max_connections, or use a pooler"
        return Verdict("connections", State.WARNING, told, mend)
    return Verdict("connections", State.OK, told)


async def _direct(settings: Settings) -> list[Verdict]:
    """Whether a session is kept: where the relay listens, it has to be."""
    name = "direct_connection"
    if not settings.outbox_listen:
        return [Verdict(name, State.OK, "not needed: OUTBOX_LISTEN is false")]
    there = settings.model_copy(update={"database_url": settings.database_direct_url or settings.database_url})

    async def question(verdicts: list[Verdict]) -> None:
        async with _connection(there) as (connection, seconds):
            pooled = await is_pooled(connection)
        if pooled:
            told = "a pooler: if it lends sessions by the transaction, wake-ups are lost and two relays may publish"
            mend = "set DATABASE_DIRECT_URL to the database itself, or OUTBOX_LISTEN=false"
            verdicts.append(Verdict(name, State.WARNING, told, mend))
        else:
            verdicts.append(Verdict(name, State.OK, f"PostgreSQL itself, {_took(seconds)}"))

    return await _answers(name, "start PostgreSQL, or mend DATABASE_DIRECT_URL", (), question)


# Kafka

_KAFKA = "kafka"
_ON_KAFKA = ("topics", "lag", "members")


async def _kafka(settings: Settings, limits: Limits) -> list[Verdict]:
    async def questions(verdicts: list[Verdict]) -> None:
        began = time.monotonic()
        admin = AIOKafkaAdminClient(**settings.kafka_client_options(), client_id=f"{settings.service_name}-doctor")
        try:
            await admin.start()
            took = _took(time.monotonic() - began)
            verdicts.append(Verdict(_KAFKA, State.OK, f"{settings.kafka_bootstrap_servers}, {took}"))
            verdicts.append(await _asked("topics", lambda: _topics(admin)))
        finally:
            with suppress(TimeoutError):
                await asyncio.wait_for(admin.close(), _SECONDS_TO_LET_GO)
        verdicts += await asyncio.gather(
            _asked("lag", lambda: _lag(settings, limits)), _asked("members", lambda: _members(settings))
        )

    return await _answers(_KAFKA, "start Kafka, or mend KAFKA_BOOTSTRAP_SERVERS", _ON_KAFKA, questions)


async def _topics(admin: AIOKafkaAdminClient) -> Verdict:
    return topics_verdict({topic["topic"]: topic["partitions"] for topic in await admin.describe_topics()})


def topics_verdict(found: Mapping[str, list[dict[str, Any]]]) -> Verdict:
    """What is to be said of the topics there are, and the `leader` of each of their partitions, -1 for none."""
    wanted = {*CONSUMED, *PUBLISHED}
    if missing := sorted(wanted - found.keys()):
        mend = "create them, or start the service, which does so where it may"
        return Verdict("topics", State.FAILED, f"missing: {', '.join(missing)}", mend)
    if led_by_none := sorted(t for t in wanted if any(partition["leader"] < 0 for partition in found[t])):
        return Verdict("topics", State.FAILED, f"without a leader: {', '.join(led_by_none)}", "start Kafka's brokers")
    counts = {len(found[topic]) for topic in CONSUMED}
    return Verdict(
        "topics",
        State.OK,
        f"{len(CONSUMED)} consumed, {len(PUBLISHED)} published, all there; partitions "
        f"of the consumed ones: {' or '.join(map(str, sorted(counts)))}",
    )


async def _lag(settings: Settings, limits: Limits) -> Verdict:
    async with GroupLag(settings) as group:
        standings = await group.standings()
    lags = {partition: standing.lag for partition, standing in standings.items()}
    most = max(lags, key=lambda partition: lags[partition])
    total = sum(lags.values())
    told = f"{total:,} messages"
    if total > limits.lag:
        told += f", most in {most.topic}:{most.partition}: {lags[most]:,}"
        return Verdict("lag", State.WARNING, told, "wait, or see why the consumer is slow: docs/runbook.md")
    return Verdict("lag", State.OK, told)


async def _members(settings: Settings) -> Verdict:
    async with KafkaOffsets(settings) as offsets:
        members = await offsets.members()
    told = f"{members} in {settings.kafka_consumer_group_id}"
    if not members:
        return Verdict("members", State.WARNING, told, "start the service, or mend KAFKA_CONSUMER_GROUP_ID")
    return Verdict("members", State.OK, told)


# Redis

_REDIS = "redis"
_ON_REDIS = ("redis_clock", "redis_memory")


async def _redis(settings: Settings, limits: Limits) -> list[Verdict]:
    async def questions(verdicts: list[Verdict]) -> None:
        client = create_redis_client(settings)
        try:
            began = time.monotonic()
            async with asyncio.timeout(_SECONDS_FOR_A_QUESTION):
                await client.ping()
            verdicts.append(Verdict(_REDIS, State.OK, f"answers, {_took(time.monotonic() - began)}"))
            verdicts.append(await _asked("redis_clock", lambda: redis_clock(client, limits)))
            verdicts.append(await _asked("redis_memory", lambda: _redis_memory(client)))
        finally:
            with suppress(TimeoutError, RedisError):
                await asyncio.wait_for(client.aclose(), _SECONDS_TO_LET_GO)

    mend = "start Redis, or mend REDIS_URL; meanwhile the service works without it, slower"
    return await _answers(_REDIS, mend, _ON_REDIS, questions)


async def redis_clock(client: Redis, limits: Limits) -> Verdict:
    """Whether Redis has this machine's time."""
    before = time.time()
    seconds, microseconds = await client.time()
    return clock_verdict("redis_clock", seconds + microseconds / 1e6, before, time.time(), limits)


async def _redis_memory(client: Redis) -> Verdict:
    memory = await client.info("memory")
    policy = memory.get("maxmemory_policy")
    if memory.get("maxmemory") and policy == "noeviction":
        mend = "set maxmemory-policy allkeys-lru: all that is in it may be forgotten"
        return Verdict("redis_memory", State.WARNING, "refuses writes once it is full: noeviction", mend)
    return Verdict("redis_memory", State.OK, f"{policy}, {'limited' if memory.get('maxmemory') else 'no limit'}")
