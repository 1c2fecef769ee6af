"""The faults of the TCP proxy, as raw sockets, a PostgreSQL client and a Redis client see them."""

import asyncio
import os
import random
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import asyncpg
import pytest
from redis import exceptions as redis_errors
from redis.asyncio import Redis

from embedded import EmbeddedPostgres, EmbeddedValkey, ServerError, TcpProxy, free_port
from tests.listening import listening
from tests.waiting import eventually

GENEROUS_SECONDS = 20


@dataclass
class EchoServer:
    """Sends back what it receives, and remembers it with how each connection ended."""

    port: int = 0
    received: bytearray = field(default_factory=bytearray)
    ends: list[str] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                self.received += data
                writer.write(data)
                await writer.drain()
            self.ends.append("closed")
        except ConnectionError:
            self.ends.append("reset")
        finally:
            writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[EchoServer]:
    server = EchoServer()
    async with listening(server.serve) as server.port:
        yield server


@pytest.fixture
def proxy(echo: EchoServer) -> Iterator[TcpProxy]:
    with TcpProxy(echo.port) as running:
        yield running


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()


async def echoed(port: int, data: bytes) -> bytes:
    """What comes back on a connection of its own on which the sending half is closed after `data`."""
    async with connected(port) as (reader, writer):
        writer.write(data)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), GENEROUS_SECONDS)


async def seconds_for(work: Awaitable[object]) -> float:
    loop = asyncio.get_running_loop()
    start = loop.time()
    await work
    return loop.time() - start


async def test_bytes_pass_whole_and_in_order_on_many_connections_while_delays_come_and_go(
    echo: EchoServer, proxy: TcpProxy
) -> None:
    sizes = [0, 1, 70_000, 3_000_000, 3_000_000]
    sent = [random.Random(f"echo {number}").randbytes(size) for number, size in enumerate(sizes)]
    answers = asyncio.gather(*(echoed(proxy.port, data) for data in sent))
    while not answers.done():
        for seconds in (0.02, 0.0):
            proxy.delay(seconds)
            await asyncio.sleep(0.01)

    # Not compared by pytest, which would explain a difference for minutes.
    assert [answer == data for answer, data in zip(await answers, sent, strict=True)] == [True] * len(sent)
    assert proxy.bytes_to_server == proxy.bytes_to_client == sum(sizes)
    assert proxy.connections_accepted == len(sent)
    await eventually(lambda: proxy.connections == 0)
    assert echo.ends == ["closed"] * len(sent)


async def test_a_delay_holds_up_both_directions_and_not_one_byte_after_the_other(proxy: TcpProxy) -> None:
    async with connected(proxy.port) as (reader, writer):

        async def answered(count: int) -> None:
            for _ in range(count):
                writer.write(b"ping")
                await asyncio.sleep(0)
            await asyncio.wait_for(reader.readexactly(4 * count), GENEROUS_SECONDS)

        proxy.delay(0.25)
        assert await seconds_for(answered(1)) >= 0.5
        assert 0.5 <= await seconds_for(answered(100)) < 5
        proxy.pass_on()
        assert await seconds_for(answered(1)) < 0.5


async def test_the_end_of_a_delay_lets_go_what_it_held(proxy: TcpProxy) -> None:
    async with connected(proxy.port) as (reader, writer):
        proxy.delay(3600)
        writer.write(b"ping")
        await eventually(lambda: proxy.connections == 1)
        proxy.pass_on()
        assert await asyncio.wait_for(reader.readexactly(4), GENEROUS_SECONDS) == b"ping"


async def test_while_it_hangs_connections_stay_and_are_accepted_and_nothing_passes(
    echo: EchoServer, proxy: TcpProxy
) -> None:
    async with connected(proxy.port) as (reader, writer):
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        proxy.hang()
        writer.write(b"during")
        async with connected(proxy.port) as (other_reader, other_writer):
            other_writer.write(b"new")
            other_writer.write_eof()
            answers = [asyncio.ensure_future(reader.readexactly(6)), asyncio.ensure_future(other_reader.read())]
            assert not (await asyncio.wait(answers, timeout=0.3))[0]
            assert proxy.connections == 2
            assert bytes(echo.received) == b"before"

            proxy.pass_on()
            assert await asyncio.wait_for(asyncio.gather(*answers), GENEROUS_SECONDS) == [b"during", b"new"]


async def test_a_cut_closes_connections_in_an_orderly_way_and_refuses_new_ones(
    echo: EchoServer, proxy: TcpProxy
) -> None:
    port = proxy.port
    async with connected(port) as (reader, writer):
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        proxy.cut()
        assert proxy.connections == 0
        # A reset would raise.
        assert await asyncio.wait_for(reader.read(), GENEROUS_SECONDS) == b""
        await eventually(lambda: echo.ends == ["closed"])
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", port)

    proxy.pass_on()
    assert proxy.port == port
    assert await echoed(port, b"after") == b"after"
    assert proxy.connections_reset == 0


async def test_a_cut_is_orderly_for_a_client_whose_bytes_were_not_read(proxy: TcpProxy) -> None:
    proxy.hang()
    async with connected(proxy.port) as (reader, writer):
        await eventually(lambda: proxy.connections == 1)
        writer.write(b"unread")
        proxy.cut()
        assert await asyncio.wait_for(reader.read(), GENEROUS_SECONDS) == b""


async def test_a_reset_reaches_both_ends_and_new_connections_pass(echo: EchoServer, proxy: TcpProxy) -> None:
    async with connected(proxy.port) as (reader, writer):
        writer.write(b"before")
        assert await reader.readexactly(6) == b"before"
        proxy.reset()
        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(reader.read(), GENEROUS_SECONDS)
        await eventually(lambda: echo.ends == ["reset"])
    assert await echoed(proxy.port, b"after") == b"after"
    assert proxy.connections_reset == 1


async def read_until_reset(reader: asyncio.StreamReader) -> bytes:
    seen = b""
    try:
        while data := await asyncio.wait_for(reader.read(100), GENEROUS_SECONDS):
            seen += data
    except ConnectionResetError:
        return seen
    pytest.fail(f"closed after {seen!r}, not reset")


async def test_an_answer_is_cut_after_so_many_bytes(proxy: TcpProxy) -> None:
    async with connected(proxy.port) as (reader, writer), connected(proxy.port) as (bystander, _):
        await eventually(lambda: proxy.connections == 2)
        proxy.cut_after(7)
        writer.write(b"12345")
        assert await reader.readexactly(5) == b"12345"
        writer.write(b"67890")
        assert await read_until_reset(reader) == b"67"
        assert await read_until_reset(bystander) == b""
    assert await echoed(proxy.port, b"a longer one") == b"a longer one"
    assert proxy.connections_reset == 2


async def test_a_request_is_cut_after_so_many_bytes(echo: EchoServer, proxy: TcpProxy) -> None:
    async with connected(proxy.port) as (reader, writer):
        proxy.cut_after(7, from_client=True)
        writer.write(b"1234567890")
        await read_until_reset(reader)
    await eventually(lambda: echo.ends == ["reset"])
    assert bytes(echo.received) == b"1234567"


async def test_pass_on_takes_a_cut_back_that_has_not_come_yet(proxy: TcpProxy) -> None:
    proxy.cut_after(0)
    proxy.pass_on()
    assert await echoed(proxy.port, b"whole") == b"whole"


async def test_a_target_that_does_not_run_is_met_as_a_reset_until_it_runs(echo: EchoServer) -> None:
    with TcpProxy(free_port()) as proxy:
        # The reset may come before the client has noticed that it is connected.
        with pytest.raises(ConnectionResetError):
            await echoed(proxy.port, b"before")
        proxy.target_port = echo.port
        assert await echoed(proxy.port, b"after") == b"after"


async def test_it_comes_back_on_its_port_and_leaves_no_thread_and_no_socket_behind(echo: EchoServer) -> None:
    def left() -> tuple[int, int]:
        return threading.active_count(), len(os.listdir("/proc/self/fd"))

    proxy = TcpProxy(echo.port)
    with proxy:
        ports = {proxy.port}  # which stays reserved
    before = left()
    for end in (proxy.hang, proxy.cut, proxy.reset, proxy.pass_on):
        with proxy:
            ports.add(proxy.port)
            async with connected(proxy.port) as (_, writer):
                writer.write(b"unanswered")
                end()
    assert len(ports) == 1
    await eventually(lambda: left() == before)
    with pytest.raises(ServerError, match="does not run"):
        proxy.reset()


async def test_a_port_that_is_taken_is_named(proxy: TcpProxy) -> None:
    with pytest.raises(ServerError, match=f"port {proxy.port}: Address already in use"):
        TcpProxy(1, proxy.port).start()


async def test_postgres_has_committed_what_was_cut_in_its_answer_and_not_what_was_cut_in_the_request(
    own_postgres: EmbeddedPostgres,
) -> None:
    direct = await asyncpg.connect(own_postgres.url.replace("+asyncpg", ""))
    try:
        await direct.execute("CREATE TABLE memory (fault text)")
        with TcpProxy(own_postgres.port) as proxy:
            url = own_postgres.url_for("postgres", port=proxy.port).replace("+asyncpg", "")

            async def remember(fault: str, happen: Callable[[], None]) -> None:
                connection = await asyncpg.connect(url)
                transaction = connection.transaction()
                await transaction.start()
                await connection.execute("INSERT INTO memory VALUES ($1)", fault)
                happen()
                try:
                    await asyncio.wait_for(transaction.commit(), GENEROUS_SECONDS)
                finally:
                    connection.terminate()

            await remember("none", lambda: None)
            for fault, happen in {
                "the request is cut": lambda: proxy.cut_after(3, from_client=True),
                "the answer is cut": lambda: proxy.cut_after(0),
            }.items():
                with pytest.raises((ConnectionError, asyncpg.PostgresConnectionError)):
                    await remember(fault, happen)

            async def remembered() -> bool:
                faults = [row["fault"] for row in await direct.fetch("SELECT fault FROM memory")]
                return faults == ["none", "the answer is cut"]

            await eventually(remembered)
    finally:
        await direct.close()


async def test_redis_clients_meet_silence_and_resets_and_recover(own_valkey: EmbeddedValkey) -> None:
    with TcpProxy(own_valkey.port) as proxy:
        url = own_valkey.url_for(0, port=proxy.port)
        async with Redis.from_url(url, socket_timeout=0.3, retry=None) as client:
            assert await client.set("key", "value")
            proxy.hang()
            with pytest.raises(redis_errors.TimeoutError):
                await client.get("key")
            proxy.pass_on()
            assert await client.get("key") == b"value"
            proxy.cut_after(2)
            with pytest.raises(redis_errors.ConnectionError):
                await client.get("key")
            assert await client.get("key") == b"value"
