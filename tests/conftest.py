"""The fixtures that give tests their servers; which ones a run uses is said at its start.

A test never sees the traces of another: its database is its own, its Redis database is empty, its consumer group stands
at the end of what others produced.
"""

import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from pathlib import Path

import pytest
import redis

from embedded import ApacheKafka, EmbeddedPgBouncer, EmbeddedPostgres, EmbeddedValkey, server_folder
from tests.servers import (
    GIVEN,
    LEFT_OUT,
    KafkaServer,
    PostgresServer,
    RedisServer,
    Servers,
    fresh_database,
    leave_out_for,
    position_group_at_end,
)

_SERVERS = pytest.StashKey[Servers]()


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    # Test processes beside each other have servers of their own; those that the environment names are there once.
    if GIVEN & os.environ.keys():
        config.option.numprocesses = 0


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "apache_kafka: needs Apache Kafka; left out where this machine has only a mock of it"
    )
    config.stash[_SERVERS] = Servers()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Those that take minutes come first: at the end one process would be at one of them, and the others at nothing.
    items.sort(key=lambda item: "integration/torture/" not in item.nodeid)


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[_SERVERS].close()


def pytest_report_header(config: pytest.Config) -> str:
    return config.stash[_SERVERS].line()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("apache_kafka") is not None:
        leave_out_for(item.config.stash[_SERVERS].why_no_apache_kafka)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if LEFT_OUT in str(report.longrepr)]
    notes = config.stash[_SERVERS].notes
    if skipped or notes:
        terminalreporter.section("servers")
    for note in notes:
        terminalreporter.line(note)
    for report in skipped:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        terminalreporter.line(f"left out: {report.nodeid}: {reason.removeprefix('Skipped: ')}")


# The servers that all tests share.


@pytest.fixture(scope="session")
def servers(pytestconfig: pytest.Config) -> Servers:
    return pytestconfig.stash[_SERVERS]


@pytest.fixture(scope="session")
def postgres_server(servers: Servers) -> PostgresServer:
    return servers.postgres


@pytest.fixture(scope="session")
def redis_server(servers: Servers) -> RedisServer:
    return servers.redis


@pytest.fixture(scope="session")
def kafka_server(servers: Servers) -> KafkaServer:
    return servers.kafka


# What a test has of them for itself.


@pytest.fixture
async def database_url(servers: Servers) -> AsyncIterator[str]:
    """SQLAlchemy's URL of a database with the newest schema and no rows."""
    async with fresh_database(servers.postgres, template=servers.template_database) as url:
        yield url


@pytest.fixture
async def empty_database_url(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """SQLAlchemy's URL of a database without any tables."""
    async with fresh_database(postgres_server) as url:
        yield url


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of a Redis database that is empty now."""
    with redis.Redis.from_url(redis_server.url) as client:
        client.flushdb()
    return redis_server.url


@pytest.fixture
def kafka_group(kafka_server: KafkaServer) -> Callable[[Iterable[str]], Awaitable[str]]:
    """`await kafka_group(topics)` gives a new consumer group at the present end of these topics, which then exist."""

    async def positioned(topics: Iterable[str]) -> str:
        group = f"test-{secrets.token_hex(6)}"
        await position_group_at_end(kafka_server.bootstrap_servers, group, topics, is_apache=kafka_server.is_apache)
        return group

    return positioned


# Servers of a test's own, to be stopped, killed and paused.


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """A folder for the data of a server; unlike `tmp_path` open to the user that PostgreSQL runs under as root."""
    with server_folder() as folder:
        yield folder


@pytest.fixture
def own_postgres(own_folder: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(own_folder / "postgres", durable=False) as server:
        yield server


@pytest.fixture
def own_valkey(own_folder: Path) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(own_folder / "valkey") as server:
        yield server


@pytest.fixture
def pgbouncer(postgres_server: PostgresServer, own_folder: Path) -> Iterator[EmbeddedPgBouncer]:
    """In transaction mode, with three sessions for each database of the PostgreSQL that all tests share."""
    leave_out_for(EmbeddedPgBouncer.why_unavailable())
    with EmbeddedPgBouncer(own_folder / "pgbouncer", postgres_server.url) as server:
        yield server


@pytest.fixture
def own_apache_kafka(servers: Servers, own_folder: Path) -> Iterator[ApacheKafka]:
    leave_out_for(servers.why_no_native_kafka)
    with ApacheKafka(own_folder / "kafka") as server:
        yield server
