"""Replicas of the service, and what they do with messages that are produced to them, or that lay there before them.

Each deployment is a group of its own that begins where the topics end, so nothing of an earlier one reaches it, unless
it is told to begin elsewhere; it has an empty Redis, and a database of its own unless it is given one.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import astuple, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import uuid4

import asyncpg
import httpx
from confluent_kafka import Consumer, ConsumerGroupState, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient
from redis import Redis

from benchmarks.errors import BenchmarkError
from benchmarks.stage import Stage, cpu_seconds
from demo.player import Player
from demo.stage import ServiceProcess
from demo.wire import PAYLOADS, Message
from embedded import ApacheKafka

_JOIN_SECONDS = 60.0
_TAKE_IN_SECONDS = 900.0
_POLL_SECONDS = 0.1
_FIRST_POLL_SECONDS = 0.02  # of a backlog, of which the service takes in some hundred messages meanwhile
_KAFKA_SECONDS = 20.0
_WITHOUT_LEADER = (KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE)
_STATEMENT_SECONDS = 600.0
_EMPTY = "postgres"  # the database that the stage has migrated
_LAST = "SELECT extract(epoch FROM max(processed_at))::float8 FROM processed_events WHERE processed_at >= $1"
# The inbox holds each message once; of the messages some come twice.
_ENTERED = "SELECT count(*) AS events, extract(epoch FROM max(processed_at))::float8 AS at FROM processed_events"

#: Offsets by topic and partition.
Offsets = Mapping[tuple[str, int], int]


@dataclass(frozen=True, slots=True)
class Cpu:
    """CPU seconds: of all replicas together, of PostgreSQL with all its processes, of the broker, of Redis."""

    service: float
    postgres: float
    kafka: float
    redis: float

    def since(self, before: "Cpu") -> "Cpu":
        """What was used between two readings."""
        return Cpu(*(now - then for now, then in zip(astuple(self), astuple(before), strict=True)))

    def per_1000(self, messages: float) -> "Cpu":
        """For a thousand messages."""
        return Cpu(*(1000 * each / messages for each in astuple(self)))


@dataclass(frozen=True, slots=True)
class TakenIn:
    """Some messages, the seconds from the first to the last committed to the inbox, by PostgreSQL's clock, and the CPU
    time of all who took part.
    """

    messages: float
    seconds: float
    cpu: Cpu

    @property
    def messages_per_second(self) -> float:
        """How fast they were taken in."""
        return self.messages / self.seconds

    @property
    def cpu_per_1000(self) -> Cpu:
        """For a thousand messages."""
        return self.cpu.per_1000(self.messages)


class Deployment:
    """Replicas that share a group."""

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
        cpu_begun = self._cpu()
        play()
        messages = self.wait_until_taken_in(meanwhile) - before
        cpu = self._cpu().since(cpu_begun)
        return TakenIn(messages, ask(self.database_url, _LAST, begun) - begun.timestamp(), cpu)

    def take_in_backlog(self, messages: int) -> TakenIn:
        """Wait until so many messages are taken in that lay there before the replicas were started.

        Counted from the first look at the inbox that finds some: the start of a process takes time and CPU time, too.

        Raises:
            BenchmarkError: they were not taken in in time.
        """
        deadline = time.monotonic() + _JOIN_SECONDS
        while not (begun := ask_row(self.database_url, _ENTERED))["events"]:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"nothing of the backlog was taken in within {_JOIN_SECONDS:g} s")
            time.sleep(_FIRST_POLL_SECONDS)
        cpu_begun = self._cpu()
        self.wait_until_taken_in()
        cpu = self._cpu().since(cpu_begun)
        ended = ask_row(self.database_url, _ENTERED)
        share = 1 - begun["events"] / ended["events"]
        return TakenIn(messages * share, ended["at"] - begun["at"], cpu)

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

    def left(self) -> int:
        """How many messages the group has not committed."""
        return self._group.left(self._group.ends())

    def _cpu(self) -> Cpu:
        servers = self.servers
        assert isinstance(servers.kafka, ApacheKafka)  # the mock is no process
        others = (cpu_seconds(server) for server in (servers.postgres, servers.kafka, servers.valkey))
        return Cpu(sum(cpu_seconds(replica) for replica in self.replicas), *others)

    def metrics(self) -> dict[str, float]:
        """What the first replica's /metrics says, by name with labels."""
        text = httpx.get(f"{self.service.url}/metrics", timeout=_KAFKA_SECONDS, trust_env=False).raise_for_status().text
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines}


@contextmanager
def deployed(
    servers: Stage,
    *,
    replicas: int = 1,
    database: str | None = None,
    begin: Offsets | None = None,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Deployment]:
    """So many replicas, for a while, on a database that is there, or on a new one.

    They have joined their group, and no message has come to them yet; unless there is a `begin`, from where on they are
    given what lies in the topics, which they take in as soon as they can.

    Raises:
        ServerError: one of them did not start.
        BenchmarkError: they did not become a group.
    """
    with ExitStack() as running:
        group = running.enter_context(_Group(servers.kafka.bootstrap_servers).open(begin))
        name = running.enter_context(copied_database(servers) if database is None else nullcontext(database))
        with Redis.from_url(servers.valkey.url) as redis:
            redis.flushall()
        url = servers.postgres.url_for(name)
        own = {**servers.settings, "DATABASE_URL": url, "KAFKA_CONSUMER_GROUP_ID": group.name, **settings}
        processes = [
            running.enter_context(ServiceProcess(servers.folder / f"replica-{number}", own))
            for number in range(1, replicas + 1)
        ]
        if begin is None:
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
    def open(self, begin: Offsets | None) -> Iterator["_Group"]:
        """The group, to begin there; without, where the topics end now."""
        try:
            offsets = self.ends() if begin is None else begin
            at = [TopicPartition(*partition, offset) for partition, offset in offsets.items()]
            self._reader.commit(offsets=at, asynchronous=False)
            yield self
        finally:
            self._reader.close()

    def ends(self) -> Offsets:
        """Where the consumed topics end now."""
        return _ends(self._reader)

    def left(self, ends: Offsets) -> int:
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


def topic_ends(servers: Stage) -> Offsets:
    """Where the consumed topics end now."""
    reader = Consumer({"bootstrap.servers": servers.kafka.bootstrap_servers, "log_level": 3, "group.id": "ends"})
    try:
        return _ends(reader)
    finally:
        reader.close()


def _ends(reader: Consumer) -> Offsets:
    topics = reader.list_topics(timeout=_KAFKA_SECONDS).topics
    partitions = [TopicPartition(topic, number) for topic in PAYLOADS for number in topics[topic].partitions]
    return {(each.topic, each.partition): _end(reader, each) for each in partitions}


def _end(reader: Consumer, partition: TopicPartition) -> int:
    """The offset after a partition's last message; one that was just made may not have its leader yet."""
    deadline = time.monotonic() + _KAFKA_SECONDS
    while True:
        try:
            end: int = reader.get_watermark_offsets(partition, timeout=_KAFKA_SECONDS)[1]
        except KafkaException as error:
            if error.args[0].code() not in _WITHOUT_LEADER or time.monotonic() > deadline:
                raise
            time.sleep(_POLL_SECONDS)
        else:
            return end


def resident_mib(service: ServiceProcess, *, most: bool = False) -> float:
    """The resident size of a process now, or the most it ever was, in MiB."""
    name = "VmHWM:" if most else "VmRSS:"
    lines = Path("/proc", str(service.pid), "status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


def ask(database_url: str, query: str, *arguments: object) -> Any:
    """The one value of a query, on a connection of its own."""
    return asyncio.run(_on_connection(database_url, lambda connection: connection.fetchval(query, *arguments)))


def ask_row(database_url: str, query: str, *arguments: object) -> asyncpg.Record:
    """The one row of a query, on a connection of its own."""
    row: asyncpg.Record = asyncio.run(
        _on_connection(database_url, lambda connection: connection.fetchrow(query, *arguments))
    )
    return row


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
