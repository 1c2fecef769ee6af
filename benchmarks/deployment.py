"""Replicas of the service that have nothing to do yet, and what they do with the messages they are given then.

Each deployment is a group of its own that begins where the topics end, so nothing of an earlier one reaches it; it has
an empty Redis, and a database of its own unless it is given one.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
from confluent_kafka import Consumer, ConsumerGroupState, TopicPartition
from confluent_kafka.admin import AdminClient
from redis import Redis

from benchmarks.stage import Stage, cpu_seconds
from demo.player import Player
from demo.stage import ServiceProcess
from demo.wire import PAYLOADS, Message

_JOIN_SECONDS = 60.0
_TAKE_IN_SECONDS = 900.0
_POLL_SECONDS = 0.1
_KAFKA_SECONDS = 20.0
_STATEMENT_SECONDS = 600.0
_EMPTY = "postgres"  # the database that the stage has migrated
_LAST = "SELECT extract(epoch FROM max(processed_at))::float8 FROM processed_events WHERE processed_at >= $1"


class BenchmarkError(RuntimeError):
    """The service does not do what was to be measured."""


@dataclass(frozen=True, slots=True)
class TakenIn:
    """Some messages, the seconds from the first produced to the last committed to the inbox, by PostgreSQL's clock, and
    the CPU seconds of all replicas together.
    """

    messages: int
    seconds: float
    cpu_seconds: float

    @property
    def messages_per_second(self) -> float:
        """How fast they were taken in."""
        return self.messages / self.seconds

    @property
    def cpu_seconds_per_1000(self) -> float:
        """For a thousand messages."""
        return 1000 * self.cpu_seconds / self.messages


class Deployment:
    """Replicas that have joined their group, and to which no message has come yet."""

    def __init__(self, servers: Stage, database_url: str, group: "_Group", replicas: Sequence[ServiceProcess]) -> None:
        self.servers = servers
        self.database_url = database_url
        self.replicas = replicas
        self._group = group

    @property
    def service(self) -> ServiceProcess:
        """The first replica."""
        return self.replicas[0]

    def take_in(self, messages: Sequence[Message], meanwhile: Callable[[], object] = lambda: None) -> TakenIn:
        """Produce messages as fast as Kafka takes them, and wait until all are taken in.

        `meanwhile` is called again and again until then. Messages must be new ones: the inbox tells when the last came.

        Raises:
            BenchmarkError: they were not taken in in time.
        """
        with Player(self.servers.kafka.bootstrap_servers, self._group.name) as player:
            return self.take_in_all_of(lambda: player.play(messages, lambda _: None), meanwhile)

    def take_in_all_of(self, play: Callable[[], object], meanwhile: Callable[[], object] = lambda: None) -> TakenIn:
        """The same with whatever `play` produces."""
        before = sum(self._group.ends().values())
        begun = ask(self.database_url, "SELECT clock_timestamp()")
        cpu_begun = self._cpu_seconds()
        play()
        messages = self.wait_until_taken_in(meanwhile) - before
        cpu = self._cpu_seconds() - cpu_begun
        return TakenIn(messages, ask(self.database_url, _LAST, begun) - begun.timestamp(), cpu)

    def wait_until_taken_in(self, meanwhile: Callable[[], object] = lambda: None) -> int:
        """Wait until the group has committed what the topics hold now: so many messages, of all times.

        Raises:
            BenchmarkError: it did not in time.
        """
        ends, deadline = self._group.ends(), time.monotonic() + _TAKE_IN_SECONDS
        while left := self._group.left(ends):
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{left} messages were not taken in within {_TAKE_IN_SECONDS:g} s")
            meanwhile()
            time.sleep(_POLL_SECONDS)
        return sum(ends.values())

    def _cpu_seconds(self) -> float:
        return sum(cpu_seconds(replica) for replica in self.replicas)

    def metrics(self) -> dict[str, float]:
        """What the first replica's /metrics says, by name with labels."""
        text = httpx.get(f"{self.service.url}/metrics", timeout=_KAFKA_SECONDS, trust_env=False).raise_for_status().text
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}


@contextmanager
def deployed(
    servers: Stage, *, replicas: int = 1, database: str | None = None, **settings: str
) -> Iterator[Deployment]:
    """So many replicas, for a while, on a database that is there, or on a new one.

    Raises:
        ServerError: one of them did not start.
        BenchmarkError: they did not become a group.
    """
    with ExitStack() as running:
        group = running.enter_context(_Group(servers.kafka.bootstrap_servers).open())
        name = running.enter_context(copied_database(servers) if database is None else nullcontext(database))
        with Redis.from_url(servers.valkey.url) as redis:
            redis.flushall()
        url = servers.postgres.url_for(name)
        own = {**servers.settings, "DATABASE_URL": url, "KAFKA_CONSUMER_GROUP_ID": group.name, **settings}
        processes = [
            running.enter_context(ServiceProcess(servers.folder / f"replica-{number}", own))
            for number in range(1, replicas + 1)
        ]
        group.wait_until_joined(replicas)
        yield Deployment(servers, url, group, processes)


@contextmanager
def copied_database(servers: Stage, original: str = _EMPTY) -> Iterator[str]:
    """A copy of a database that nobody is connected to, for a while; its name."""
    name, maintenance = f"copy_{uuid4().hex[:12]}", servers.postgres.url_for("template1")
    execute(maintenance, f"CREATE DATABASE {name} TEMPLATE {original} STRATEGY file_copy")
    try:
        yield name
    finally:
        execute(maintenance, f"DROP DATABASE {name} WITH (FORCE)")


class _Group:
    """A consumer group of a name of its own, looked at from outside."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.name = f"benchmark-{uuid4().hex[:12]}"
        self._bootstrap_servers = bootstrap_servers
        # It never subscribes, so it is no member.
        self._reader = Consumer(
            {"bootstrap.servers": bootstrap_servers, "log_level": 3, "group.id": self.name, "enable.auto.commit": False}
        )

    @contextmanager
    def open(self) -> Iterator["_Group"]:
        """The group, with all that lies in the topics behind it."""
        try:
            ends = [TopicPartition(*partition, offset) for partition, offset in self.ends().items()]
            self._reader.commit(offsets=ends, asynchronous=False)
            yield self
        finally:
            self._reader.close()

    def ends(self) -> dict[tuple[str, int], int]:
        """Where the consumed topics end now."""
        topics = self._reader.list_topics(timeout=_KAFKA_SECONDS).topics
        partitions = [TopicPartition(topic, number) for topic in PAYLOADS for number in topics[topic].partitions]
        return {
            (each.topic, each.partition): self._reader.get_watermark_offsets(each, timeout=_KAFKA_SECONDS)[1]
            for each in partitions
        }

    def left(self, ends: dict[tuple[str, int], int]) -> int:
        """How many messages before these ends the group has not committed."""
        committed = self._reader.committed([TopicPartition(*each) for each in ends], timeout=_KAFKA_SECONDS)
        return sum(ends.values()) - sum(each.offset for each in committed)

    def wait_until_joined(self, members: int) -> None:
        """Wait until so many members share all partitions.

        Raises:
            BenchmarkError: they did not in time.
        """
        # Has no way to be closed, but goes with its last reference; one that stays goes on looking for the broker.
        admin = AdminClient({"bootstrap.servers": self._bootstrap_servers, "log_level": 3})
        deadline = time.monotonic() + _JOIN_SECONDS
        while True:
            group = admin.describe_consumer_groups([self.name])[self.name].result(_KAFKA_SECONDS)
            shares = [len(member.assignment.topic_partitions) for member in group.members]
            if group.state == ConsumerGroupState.STABLE and len(shares) == members and all(shares):
                return
            if time.monotonic() > deadline:
                raise BenchmarkError(f"the group did not become one of {members} in {_JOIN_SECONDS:g} s: {shares}")
            time.sleep(_POLL_SECONDS)


def resident_mib(service: ServiceProcess, *, most: bool = False) -> float:
    """The resident size of a process now, or the most it ever was, in MiB."""
    name = "VmHWM:" if most else "VmRSS:"
    lines = Path("/proc", str(service.pid), "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def ask(database_url: str, query: str, *arguments: object) -> Any:
    """The one value of a query, on a connection of its own."""
    return asyncio.run(_on_connection(database_url, lambda connection: connection.fetchval(query, *arguments)))


def execute(database_url: str, statement: str, *arguments: object) -> None:
    """A statement, on a connection of its own, outside a transaction."""
    asyncio.run(_on_connection(database_url, lambda connection: connection.execute(statement, *arguments)))


async def _on_connection(database_url: str, do: Callable[[asyncpg.Connection], Awaitable[Any]]) -> Any:
    url = database_url.replace("+asyncpg", "")
    connection = await asyncpg.connect(url, command_timeout=_STATEMENT_SECONDS)
    try:
        return await do(connection)
    finally:
        await connection.close()
