"""The servers of `embedded` themselves: what outage tests and the demo rely on when they stop, kill and start them."""

import asyncio
import os
import signal
import socket
import sys
import textwrap
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from redis.asyncio import Redis

from embedded import ApacheKafka, EmbeddedPostgres, EmbeddedValkey, MockKafka, ServerError
from embedded.process import free_port
from tests.servers import CHECKOUT, KafkaServer, create_topics, position_group_at_end
from tests.waiting import eventually

TOPIC = "embedded.servers.v1"


@asynccontextmanager
async def connected(server: EmbeddedPostgres) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(server.url.replace("+asyncpg", ""))
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


async def remember(server: EmbeddedPostgres, number: int) -> None:
    async with connected(server) as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS memory (number int)")
        await connection.execute("INSERT INTO memory VALUES ($1)", number)


async def remembered(server: EmbeddedPostgres) -> list[int]:
    async with connected(server) as connection:
        return [row["number"] for row in await connection.fetch("SELECT number FROM memory ORDER BY number")]


def port_is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_postgres_keeps_port_and_data_when_it_is_stopped_and_when_it_is_killed(
    own_postgres: EmbeddedPostgres,
) -> None:
    port = own_postgres.port
    await remember(own_postgres, 1)

    own_postgres.stop()
    assert not own_postgres.is_running
    assert not port_is_open(port)
    own_postgres.start()
    await remember(own_postgres, 2)

    own_postgres.kill()
    assert not port_is_open(port)
    own_postgres.start()

    assert own_postgres.port == port
    assert await remembered(own_postgres) == [1, 2]


async def test_a_later_postgres_on_the_same_folder_finds_the_same_data(own_postgres: EmbeddedPostgres) -> None:
    await remember(own_postgres, 7)
    own_postgres.stop()

    with EmbeddedPostgres(own_postgres.data_dir) as later:
        assert await remembered(later) == [7]


async def test_a_paused_postgres_holds_its_connections_without_an_answer(own_postgres: EmbeddedPostgres) -> None:
    async with connected(own_postgres) as connection:
        own_postgres.pause()
        query = asyncio.ensure_future(connection.fetchval("SELECT 1"))
        done, _ = await asyncio.wait([query], timeout=0.3)
        assert not done

        own_postgres.resume()
        assert await asyncio.wait_for(query, 10) == 1


async def test_a_paused_server_can_be_stopped_and_killed(own_folder: Path) -> None:
    for server in (EmbeddedPostgres(own_folder / "postgres"), EmbeddedValkey(own_folder / "valkey")):
        for end in (server.stop, server.kill):
            server.start()
            server.pause()
            end()
            assert not port_is_open(server.port)


async def test_valkey_comes_back_empty_on_its_port(own_valkey: EmbeddedValkey) -> None:
    port = own_valkey.port
    async with Redis.from_url(own_valkey.url) as client:
        await client.set("key", "value")

    own_valkey.kill()
    assert not port_is_open(port)
    own_valkey.start()

    assert own_valkey.port == port
    async with Redis.from_url(own_valkey.url) as client:
        assert await client.get("key") is None


def test_a_server_that_cannot_start_says_why(own_folder: Path) -> None:
    broken = EmbeddedPostgres(own_folder, settings={"shared_buffers": "none"})
    with pytest.raises(ServerError, match="shared_buffers"):
        broken.start()
    assert not broken.is_running


def test_a_port_that_is_taken_is_an_error_only_if_it_was_asked_for(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        taken = stranger.getsockname()[1]
        for kind in (EmbeddedPostgres, EmbeddedValkey):
            with pytest.raises(ServerError, match="Address already in use"):
                kind(own_folder / "asked", taken).start()

            offers = iter([taken, free_port()])
            monkeypatch.setattr("embedded.process.free_port", lambda offers=offers: next(offers))
            with kind(own_folder / kind.name) as server:
                assert server.port != taken
            monkeypatch.undo()


async def test_a_server_started_from_a_thread_outlives_the_thread(own_folder: Path) -> None:
    server = EmbeddedValkey(own_folder)
    # The loop's pool keeps its threads; this one ends with the call.
    process = await asyncio.to_thread(lambda: server.start().pid)
    await asyncio.get_running_loop().shutdown_default_executor()
    try:
        assert process is not None
        async with Redis.from_url(server.url) as client:
            assert await client.ping()
    finally:
        server.stop()


PARENT = """
    import sys
    from pathlib import Path
    from embedded import EmbeddedPostgres, EmbeddedValkey

    folder = Path(sys.argv[1])
    postgres = EmbeddedPostgres(folder / "postgres").start()
    paused = EmbeddedPostgres(folder / "paused").start()
    valkey = EmbeddedValkey(folder / "valkey").start()
    paused.pause()
    print(postgres.port, paused.port, valkey.port, flush=True)
    sys.stdin.read()
"""


async def test_servers_do_not_outlive_a_killed_parent_not_even_paused_ones(own_folder: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(PARENT),
        str(own_folder),
        cwd=CHECKOUT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    ports = [int(port) for port in (await parent.stdout.readline()).split()]
    assert [port_is_open(port) for port in ports] == [True, True, True]

    os.kill(parent.pid, signal.SIGKILL)
    await parent.wait()

    await eventually(lambda: not any(port_is_open(port) for port in ports), what="the ports are closed")
    await eventually(lambda: not processes_in(own_folder), what="no process works in the folder")


def processes_in(folder: Path) -> list[str]:
    """The command lines of the processes whose working folder lies in `folder`."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cwd").resolve(strict=True).is_relative_to(folder):
                found.append((entry / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


async def send(bootstrap_servers: str, values: list[bytes]) -> None:
    producer = AIOKafkaProducer(bootstrap_servers=bootstrap_servers, enable_idempotence=True)
    await producer.start()
    try:
        for number, value in enumerate(values):
            await producer.send_and_wait(TOPIC, value, partition=number % 4)
    finally:
        await producer.stop()


@asynccontextmanager
async def group_member(bootstrap_servers: str, group: str) -> AsyncIterator[AIOKafkaConsumer]:
    consumer = AIOKafkaConsumer(
        TOPIC,
        bootstrap_servers=bootstrap_servers,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=6000,
        heartbeat_interval_ms=500,
    )
    await consumer.start()
    try:
        yield consumer
    finally:
        await consumer.stop()


async def received(consumer: AIOKafkaConsumer) -> list[bytes]:
    records: dict[object, list[object]] = await consumer.getmany(timeout_ms=200)
    return [record.value for batch in records.values() for record in batch]  # type: ignore[attr-defined]


async def test_the_mock_of_kafka_carries_a_message_to_a_group_that_stood_at_the_end() -> None:
    with MockKafka() as mock:
        await send(mock.bootstrap_servers, [b"before"])
        await position_group_at_end(mock.bootstrap_servers, "group", [TOPIC], is_apache=False)
        await send(mock.bootstrap_servers, [b"after"])
        async with group_member(mock.bootstrap_servers, "group") as consumer:
            assert await eventually(lambda: received(consumer)) == [b"after"]


@pytest.mark.apache_kafka
async def test_apache_kafka_carries_a_message_to_a_group_that_stood_at_the_end(kafka_server: KafkaServer) -> None:
    servers = kafka_server.bootstrap_servers
    await create_topics(servers, [TOPIC])
    await send(servers, [b"before"])
    await position_group_at_end(servers, "embedded-servers-one", [TOPIC])
    await send(servers, [b"after"])
    async with group_member(servers, "embedded-servers-one") as consumer:
        assert await eventually(lambda: received(consumer)) == [b"after"]


@pytest.mark.apache_kafka
async def test_two_members_of_a_group_share_the_partitions_on_apache_kafka(kafka_server: KafkaServer) -> None:
    servers, group = kafka_server.bootstrap_servers, "embedded-servers-two"
    await position_group_at_end(servers, group, [TOPIC])
    async with group_member(servers, group) as one, group_member(servers, group) as two:

        async def shared() -> bool:
            await received(one)
            await received(two)
            return len(one.assignment()) == len(two.assignment()) == 2

        await eventually(shared, within=20)
        assert not one.assignment() & two.assignment()


async def test_apache_kafka_keeps_port_and_messages_when_it_is_stopped_and_when_it_is_killed(
    own_apache_kafka: ApacheKafka,
) -> None:
    port, servers = own_apache_kafka.port, own_apache_kafka.bootstrap_servers
    await create_topics(servers, [TOPIC])
    await send(servers, [b"one"])

    own_apache_kafka.stop()
    own_apache_kafka.start()
    await send(servers, [b"two"])
    own_apache_kafka.kill()
    assert not port_is_open(port)
    own_apache_kafka.start()

    assert own_apache_kafka.port == port
    async with group_member(servers, "group") as consumer:
        seen: list[bytes] = []

        async def both() -> bool:
            seen.extend(await received(consumer))
            return sorted(seen) == [b"one", b"two"]

        await eventually(both, within=20)


def test_a_port_is_given_out_once_and_a_server_may_listen_on_it() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == len(ports)
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(("127.0.0.1", ports[0]))
    for host in ("127.0.0.1", "0.0.0.0"):
        with socket.create_server((host, ports[0])) as server, socket.create_connection(("127.0.0.1", ports[0])):
            server.accept()[0].close()
