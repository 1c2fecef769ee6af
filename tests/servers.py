"""The servers of a test run, each taken from the first place that has it: the environment, Docker, this machine.

Each starts at its first use and at most once, so that a run of unit tests starts none. Kafka may be a mock: then tests
that need the real one are left out, and what is lacking for it is known here.
"""

import asyncio
import os
import secrets
import struct
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import pytest
import redis
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError
from aiokafka.structs import TopicPartition
from sqlalchemy.engine import make_url

from embedded import ApacheKafka, EmbeddedPostgres, EmbeddedValkey, MockKafka, ServerError, server_folder
from embedded.apache_kafka import DEFAULT_SETTINGS
from embedded.process import free_port
from tests.containers import Container, container, docker_answers, engine_host
from tests.waiting import eventually

T = TypeVar("T")

CHECKOUT = Path(__file__).resolve().parent.parent
PARTITIONS = 4

POSTGRES_VARIABLE = "TEST_DATABASE_URL"
REDIS_VARIABLE = "TEST_REDIS_URL"
KAFKA_VARIABLE = "TEST_KAFKA_BOOTSTRAP_SERVERS"
GIVEN = {POSTGRES_VARIABLE, REDIS_VARIABLE, KAFKA_VARIABLE}
POSTGRES_IMAGE = "postgres:17"
REDIS_IMAGE = "redis:7"
KAFKA_IMAGE = "apache/kafka:4.1.0"

_CONTAINER_READY_SECONDS = 120.0
_PROBE_SECONDS = 5.0
_TOPIC_ALREADY_EXISTS = 36

LEFT_OUT = "cannot run here"


def leave_out_for(lack: str | None) -> None:
    """Skip the test if something is lacking; in CI, which sets REQUIRE_SERVERS, fail it."""
    if lack is not None:
        reason = f"{LEFT_OUT}: {lack}"
        if os.environ.get("REQUIRE_SERVERS"):
            pytest.fail(f"{reason} (REQUIRE_SERVERS is set)", pytrace=False)
        pytest.skip(reason)


@dataclass(frozen=True)
class PostgresServer:
    """A server on which `url`'s user may create databases."""

    url: str

    def url_for(self, database: str) -> str:
        """SQLAlchemy's URL of a database on it."""
        return make_url(self.url).set(database=database).render_as_string(hide_password=False)


@dataclass(frozen=True)
class RedisServer:
    url: str


@dataclass(frozen=True)
class KafkaServer:
    bootstrap_servers: str
    is_apache: bool


class Place(StrEnum):
    ENVIRONMENT = "given"
    DOCKER = "in Docker"
    NATIVE = "native"


class Servers:
    """The servers of one run. Its properties start what they return."""

    def __init__(self) -> None:
        self._running = ExitStack()
        self.notes: list[str] = []

    def close(self) -> None:
        """Stop and remove all that was started."""
        self._running.close()

    @cached_property
    def postgres(self) -> PostgresServer:
        return self._take(POSTGRES_VARIABLE, _given_postgres, self._docker_postgres, self._native_postgres)

    @cached_property
    def redis(self) -> RedisServer:
        return self._take(REDIS_VARIABLE, RedisServer, self._docker_redis, self._native_redis)

    @cached_property
    def kafka(self) -> KafkaServer:
        return self._take(KAFKA_VARIABLE, _given_kafka, self._docker_kafka, self._native_kafka)

    @cached_property
    def template_database(self) -> str:
        """The name of a database that was migrated to the newest schema once, to be cloned for each test."""
        name = f"template_{_run_id()}"
        in_thread(_execute(self.postgres.url, f'CREATE DATABASE "{name}"'))
        self._running.callback(lambda: in_thread(_drop_database(self.postgres.url, name)))
        migrate(self.postgres.url_for(name))
        return name

    @cached_property
    def why_no_native_kafka(self) -> str | None:
        """What keeps this machine from running Apache Kafka by itself, or None. Fetches it if need be."""
        lack = ApacheKafka.why_unavailable()
        if lack is None:
            try:
                ApacheKafka.install()
            except ServerError as error:
                lack = str(error)
        return lack

    @property
    def why_no_apache_kafka(self) -> str | None:
        """What keeps this run from Apache Kafka, or None where `kafka` is one."""
        place = _place(KAFKA_VARIABLE)
        if place is Place.ENVIRONMENT or (place is Place.DOCKER and self.kafka.is_apache):
            return None
        return self.why_no_native_kafka

    def line(self) -> str:
        """One line that names the servers of this run, without a start of any."""
        lack = ApacheKafka.why_unavailable()
        if lack is not None:
            kafka = f"librdkafka's mock of Kafka, {lack}"
        elif ApacheKafka.installed():
            kafka = f"Apache Kafka {ApacheKafka.version()}"
        else:
            kafka = f"Apache Kafka {ApacheKafka.version()}, which the first use fetches in a minute"
        choices = (
            (POSTGRES_VARIABLE, "PostgreSQL", POSTGRES_IMAGE, "PostgreSQL 18"),
            (REDIS_VARIABLE, "Redis", REDIS_IMAGE, "Valkey 9"),
            (KAFKA_VARIABLE, "Kafka", KAFKA_IMAGE, kafka),
        )
        named = []
        for variable, kind, image, native in choices:
            place = _place(variable)
            name = {Place.ENVIRONMENT: f"{kind} of {variable}", Place.DOCKER: image, Place.NATIVE: native}[place]
            named.append(f"{name} ({place})")
        return f"servers: {', '.join(named)}"

    def _take(self, variable: str, given: Callable[[str], T], in_docker: Callable[[], T], native: Callable[[], T]) -> T:
        place = _place(variable)
        if place is Place.ENVIRONMENT:
            return given(os.environ[variable])
        if place is Place.DOCKER:
            try:
                return in_docker()
            except ServerError as error:
                # An engine without a way to the image is as good as none.
                self.notes.append(f"native instead: {error}")
        return native()

    def _docker_postgres(self) -> PostgresServer:
        password = secrets.token_hex(16)
        command = ["postgres", "-c", "fsync=off", "-c", "max_connections=200"]
        running = self._running.enter_context(
            container(POSTGRES_IMAGE, 5432, environment={"POSTGRES_PASSWORD": password}, command=command)
        )
        url = f"postgresql+asyncpg://postgres:{password}@{running.address}/postgres"
        _await_answer(running, lambda: _postgres_answers(url))
        return PostgresServer(url)

    def _native_postgres(self) -> PostgresServer:
        folder = self._running.enter_context(server_folder())
        return PostgresServer(self._running.enter_context(EmbeddedPostgres(folder, durable=False)).url)

    def _docker_redis(self) -> RedisServer:
        running = self._running.enter_context(container(REDIS_IMAGE, 6379))
        url = f"redis://{running.address}/0"
        _await_answer(running, lambda: _redis_answers(url))
        return RedisServer(url)

    def _native_redis(self) -> RedisServer:
        folder = self._running.enter_context(server_folder())
        return RedisServer(self._running.enter_context(EmbeddedValkey(folder)).url)

    def _docker_kafka(self) -> KafkaServer:
        # The address that a broker advertises must hold outside as well as inside, so the port is the same in both.
        port = free_port()
        settings = {
            **DEFAULT_SETTINGS,
            "node.id": "1",
            "process.roles": "broker,controller",
            "controller.quorum.voters": "1@localhost:9093",
            "listeners": f"PLAINTEXT://:{port},CONTROLLER://:9093",
            "advertised.listeners": f"PLAINTEXT://{engine_host()}:{port}",
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT",
            "controller.listener.names": "CONTROLLER",
        }
        environment = {f"KAFKA_{name.upper().replace('.', '_')}": value for name, value in settings.items()}
        running = self._running.enter_context(container(KAFKA_IMAGE, port, environment=environment, host_port=port))
        _await_answer(running, lambda: _kafka_answers(running.address))
        return KafkaServer(running.address, is_apache=True)

    def _native_kafka(self) -> KafkaServer:
        if self.why_no_native_kafka is not None:
            return KafkaServer(self._running.enter_context(MockKafka()).bootstrap_servers, is_apache=False)
        folder = self._running.enter_context(server_folder())
        return KafkaServer(self._running.enter_context(ApacheKafka(folder)).bootstrap_servers, is_apache=True)


def _place(variable: str) -> Place:
    if os.environ.get(variable):
        return Place.ENVIRONMENT
    return Place.DOCKER if docker_answers() else Place.NATIVE


def _given_postgres(url: str) -> PostgresServer:
    return PostgresServer(make_url(url).set(drivername="postgresql+asyncpg").render_as_string(hide_password=False))


def _given_kafka(bootstrap_servers: str) -> KafkaServer:
    return KafkaServer(bootstrap_servers, is_apache=True)


def in_thread(work: Coroutine[Any, Any, T]) -> T:
    """Run async work to its end from plain code, whatever event loop the calling thread has."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def _await_answer(running: Container, answers: Callable[[], Coroutine[Any, Any, bool]]) -> None:
    async def answers_while_running() -> bool:
        running.require_running()
        return await answers()

    try:
        in_thread(eventually(answers_while_running, within=_CONTAINER_READY_SECONDS))
    except AssertionError as error:
        raise ServerError(f"what is in the container of {running.image} does not answer: {error}") from error


async def _postgres_answers(url: str) -> bool:
    try:
        await _execute(url, "SELECT 1")
    except (OSError, asyncpg.PostgresError):
        return False
    return True


async def _redis_answers(url: str) -> bool:
    try:
        with redis.Redis.from_url(url) as client:
            return bool(client.ping())
    except redis.ConnectionError:
        return False


async def _kafka_answers(bootstrap_servers: str) -> bool:
    # Asked by hand first (ApiVersions, version 0): aiokafka is loud about a broker that is not up yet.
    host, port = bootstrap_servers.rsplit(":", 1)
    try:
        reader, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return False
    try:
        writer.write(struct.pack(">ihhih", 10, 18, 0, 1, -1))
        await asyncio.wait_for(reader.readexactly(4), _PROBE_SECONDS)
    except (OSError, EOFError, TimeoutError):
        return False
    finally:
        writer.close()
    admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
    try:
        await admin.start()
    except KafkaConnectionError:
        return False
    finally:
        await admin.close()
    return True


# Databases.


@asynccontextmanager
async def fresh_database(server: PostgresServer, template: str | None = None) -> AsyncIterator[str]:
    """The URL of a database of its own, empty or cloned from `template`; dropped at the end, whoever is connected."""
    name = f"test_{_run_id()}"
    await _execute(server.url, f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else ""))
    try:
        yield server.url_for(name)
    finally:
        await _drop_database(server.url, name)


def migrate(url: str) -> None:
    """Bring a database to the newest schema, the way a deployment does."""
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    environment = {**os.environ, "DATABASE_URL": url}
    done = subprocess.run(command, cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ServerError(f"alembic upgrade head ended with status {done.returncode}\n{done.stdout}{done.stderr}")


async def _drop_database(url: str, name: str) -> None:
    await _execute(url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def _run_id() -> str:
    """A name of its own even on a server that other runs use too."""
    return f"{os.getpid()}_{secrets.token_hex(4)}"


# Kafka.


async def create_topics(bootstrap_servers: str, topics: Iterable[str], *, is_apache: bool = True) -> None:
    """Make sure that topics exist, new ones with 4 partitions; a mock makes them when they are asked about."""
    if is_apache:
        admin = AIOKafkaAdminClient(bootstrap_servers=bootstrap_servers)
        try:
            await admin.start()
            answer = await admin.create_topics([NewTopic(topic, PARTITIONS, 1) for topic in topics])
        finally:
            await admin.close()
        failed = [error for error in answer.topic_errors if error[1] not in (0, _TOPIC_ALREADY_EXISTS)]
        if failed:
            raise ServerError(f"Kafka did not create topics: {failed}")


async def position_group_at_end(
    bootstrap_servers: str, group: str, topics: Iterable[str], *, is_apache: bool = True
) -> None:
    """Commit the present end of every partition of `topics` for a group that has no members.

    What then joins the group with `auto_offset_reset=earliest` sees what is produced from now on, and all of it: on a
    broker that tests share, the topics hold what earlier tests produced. Topics that do not exist are created first.
    """
    names = sorted(set(topics))
    await create_topics(bootstrap_servers, names, is_apache=is_apache)
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers)
    consumer = AIOKafkaConsumer(bootstrap_servers=bootstrap_servers, group_id=group, enable_auto_commit=False)
    try:
        # The producer asks about single topics, and waits until they are there.
        await producer.start()
        partitions = [
            TopicPartition(name, number) for name in names for number in sorted(await producer.partitions_for(name))
        ]
        await consumer.start()
        consumer.assign(partitions)
        await consumer.commit(await consumer.end_offsets(partitions))
    finally:
        await consumer.stop()
        await producer.stop()
