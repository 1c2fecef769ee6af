"""What a peer may take of the service: bytes, time and connections. A real process refuses the rest, and stays well."""

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import httpx
import orjson
import pytest

from embedded.process import LOOPBACK
from result_aggregator_service.contracts.topics import CONSUMED
from tests.integration.service.process import CREDENTIALS, ServiceProcess
from tests.integration.service.wiring import Wire, on_the_wire
from tests.servers import KafkaServer
from tests.unit.domain import messages as say
from tests.waiting import eventually

Positioned = Callable[[Iterable[str]], Awaitable[str]]
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: ras\r\n\r\n"
KEYED = b"".join(f"{name}: {value}\r\n".encode() for name, value in CREDENTIALS.items())
CONNECTIONS = 40
SECONDS_TO_LINGER = 1.0
SECONDS_TO_SEND = 1.0
SECONDS_TO_TAKE = 1.5
MIB = 1024 * 1024


class Peer:
    """A client that sends bytes, whole requests or not, and reads what comes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def rest(self) -> bytes:
        """All that comes until the other side hangs up."""
        async with asyncio.timeout(30):
            try:
                return await self.reader.read()
            except ConnectionError:
                return b""

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of one answer."""
        async with asyncio.timeout(30):
            head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            status_line, *lines = head.rstrip().split("\r\n")
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            return int(status_line.split()[1]), headers, await self.reader.readexactly(int(headers["content-length"]))


@asynccontextmanager
async def connected(service: ServiceProcess) -> AsyncIterator[Peer]:
    reader, writer = await asyncio.open_connection(LOOPBACK, service.port)
    try:
        yield Peer(reader, writer)
    finally:
        writer.transport.abort()


@pytest.fixture
async def service(
    own_folder: Path, database_url: str, redis_url: str, kafka_server: KafkaServer, kafka_group: Positioned
) -> AsyncIterator[ServiceProcess]:
    with ServiceProcess(
        own_folder / "service",
        DATABASE_URL=database_url,
        REDIS_URL=redis_url,
        KAFKA_BOOTSTRAP_SERVERS=kafka_server.bootstrap_servers,
        KAFKA_CONSUMER_GROUP_ID=await kafka_group(CONSUMED),
        API_MAX_CONNECTIONS=str(CONNECTIONS),
        API_RECEIVE_TIMEOUT_SECONDS=str(SECONDS_TO_SEND),
        API_SEND_TIMEOUT_SECONDS=str(SECONDS_TO_TAKE),
        MAX_MESSAGE_BYTES="100000",
    ) as running:
        await running.answers("/readyz", 200)
        yield running


TOO_MUCH = [
    (b"GET /livez?" + b"q" * 9_000 + b" HTTP/1.1\r\n\r\n", 414, "uri_too_long"),
    (b"GET /livez HTTP/1.1\r\nX-Long: " + b"x" * 33_000 + b"\r\n\r\n", 431, "headers_too_large"),
    (b"GET /livez HTTP/1.1\r\n" + b"X-Many: 1\r\n" * 5_000 + b"\r\n", 431, "headers_too_large"),
    (b"GET /livez HTTP/1.1\r\nX-Endless: " + b"x" * 2 * MIB, 431, "headers_too_large"),
    (b"GET /livez HTTP/1.1\r\n" + b"x" * 2 * MIB, 431, "headers_too_large"),
    (b"G" * 2 * MIB, 400, "malformed_request"),
    (b"GET /" + b"x" * 2 * MIB, 431, "headers_too_large"),
    (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 500, 400, "malformed_request"),  # TLS
    (b"POST /livez HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n" + b"x" * 2 * MIB, 413, "content_too_large"),
    (b"POST /livez HTTP/1.1\r\nContent-Length: 16385\r\n\r\n", 413, "content_too_large"),
    (b"GET /livez HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n", 400, "malformed_request"),
    (
        b"GET /livez HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
        "malformed_request",
    ),
]


async def test_limits(service: ServiceProcess) -> None:
    """One process for all of it: it is the starting that takes time."""
    await _refuses_what_is_too_large(service)
    await _reads_on_for_a_while_after_it_refused(service)
    await _bounds_how_long_a_request_may_take(service)
    await _bounds_how_many_may_be_connected(service)
    await _bounds_how_long_an_answer_may_take(service)
    _, headers, _ = await _ask(service, LIVEZ)
    assert headers["x-content-type-options"] == "nosniff"
    assert "server" not in headers
    assert "Traceback" not in service.output()
    assert await service.terminated(within=35) == 0


async def _ask(service: ServiceProcess, request: bytes) -> tuple[int, dict[str, str], bytes]:
    async with connected(service) as peer:
        peer.writer.write(request)
        return await peer.answer()


async def _refuses_what_is_too_large(service: ServiceProcess) -> None:
    for request, status, error in TOO_MUCH:
        got, headers, body = await _ask(service, request)
        problem = orjson.loads(body)
        assert (got, problem["error"]) == (status, error), request[:80]
        assert headers["content-type"] == "application/problem+json"
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
        assert headers["x-correlation-id"] == problem["correlation_id"]
        assert problem["correlation_id"] in service.output()
        # Nothing of what is inside is told, nor what was sent.
        assert not any(word in body for word in (b"uvicorn", b"python", b"Traceback", b"xxxx", b"qqqq")), body
    just_fits = b"GET /livez?" + b"q" * 8_000 + b" HTTP/1.1\r\nX-Long: " + b"x" * 24_000 + b"\r\n\r\n"
    assert (await _ask(service, just_fits))[0] == 200
    body_fits = b"POST /livez HTTP/1.1\r\nContent-Length: 16384\r\n\r\n" + b"x" * 16_384
    assert (await _ask(service, body_fits))[0] == 405
    for error, times in Counter(error for _, _, error in TOO_MUCH).items():
        endpoint = "unmatched" if error == "content_too_large" else "unread"
        counted = await service.metric(f'ras_api_errors_total{{endpoint="{endpoint}",error_type="{error}"}}')
        assert counted == times, error


async def _reads_on_for_a_while_after_it_refused(service: ServiceProcess) -> None:
    """A client that still sends gets the answer, and is not told besides that it is slow; then it is hung up on."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with connected(service) as peer:
        peer.writer.write(b"GET /livez HTTP/1.1\r\n" + b"x" * 33_000)
        assert (await peer.answer())[0] == 431
        assert await peer.rest() == b""
        async with asyncio.timeout(30):
            with pytest.raises(ConnectionError):
                await _send_on(peer)
    assert loop.time() - begun >= SECONDS_TO_LINGER


async def _send_on(peer: Peer) -> None:
    while True:
        peer.writer.write(b"x")
        await peer.writer.drain()
        await asyncio.sleep(0.02)


async def _bounds_how_long_a_request_may_take(service: ServiceProcess) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with (
        connected(service) as silent,
        connected(service) as half,
        connected(service) as dripping,
        connected(service) as no_body,
        connected(service) as second,
    ):
        half.writer.write(LIVEZ[:-2])
        no_body.writer.write(b"POST /livez HTTP/1.1\r\nContent-Length: 10\r\n\r\n12345")
        second.writer.write(LIVEZ)
        assert (await second.answer())[0] == 200
        second.writer.write(LIVEZ[:10])
        dripping.writer.write(b"GET /livez HTTP/1.1\r\n")
        dripped = asyncio.create_task(_answer_while_dripping(dripping))
        assert await silent.rest() == b""
        for peer, answer in ((dripping, dripped), (half, half.answer()), (second, second.answer())):
            status, headers, body = await answer
            problem = orjson.loads(body)
            assert (status, problem["error"]) == (408, "request_timeout")
            assert problem["detail"] == f"a request has to come within {SECONDS_TO_SEND:g} seconds"
            assert headers["connection"] == "close"
            assert await peer.rest() == b""
        assert (await no_body.answer())[0] == 405
        assert await no_body.rest() == b""
    assert loop.time() - begun >= SECONDS_TO_SEND
    assert await service.metric('ras_api_errors_total{endpoint="unread",error_type="request_timeout"}') == 3


async def _answer_while_dripping(peer: Peer) -> tuple[int, dict[str, str], bytes]:
    """Send a header's byte now and then: each arrives in good time, and the request never does."""
    answer = asyncio.create_task(peer.answer())
    while not answer.done():
        peer.writer.write(b"X")
        await asyncio.wait([answer], timeout=0.05)
    return await answer


async def _bounds_how_many_may_be_connected(service: ServiceProcess) -> None:
    async with AsyncExitStack() as stack:
        allowed = [await stack.enter_async_context(connected(service)) for _ in range(CONNECTIONS)]
        for peer in allowed:
            peer.writer.write(LIVEZ)
        for peer in allowed:
            assert (await peer.answer())[0] == 200
        one_more = await stack.enter_async_context(connected(service))
        status, headers, body = await one_more.answer()
        assert (status, orjson.loads(body)["error"]) == (503, "too_many_connections")
        assert int(headers["retry-after"]) > 0
        assert await one_more.rest() == b""
        # Who is connected is still served, and the metrics have connections of their own.
        allowed[0].writer.write(LIVEZ)
        assert (await allowed[0].answer())[0] == 200
        async with httpx.AsyncClient(timeout=30) as client:
            metrics = f"http://{LOOPBACK}:{service.environment['METRICS_PORT']}/metrics"
            assert (await client.get(metrics)).status_code == 200
    await service.answers("/livez", 200)


async def _bounds_how_long_an_answer_may_take(service: ServiceProcess) -> None:
    """A client asks again and again and reads nothing: what is made for it does not pile up for ever."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with socket.create_connection((LOOPBACK, service.port)) as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        plain.setblocking(False)
        script = b"GET /docs/assets/swagger-ui.js HTTP/1.1\r\nHost: ras\r\n\r\n"
        await loop.sock_sendall(plain, script * 20)
        [logged] = await eventually(lambda: service.logged("response_not_taken"), within=30)
    assert logged["seconds"] == SECONDS_TO_TAKE
    assert loop.time() - begun >= SECONDS_TO_TAKE
    await service.answers("/livez", 200)


async def test_a_message_may_be_large_in_any_of_its_parts(
    service: ServiceProcess, kafka_server: KafkaServer, database_url: str
) -> None:
    """Too large a value is set aside; many headers and a long key are only carried."""
    async with Wire(kafka_server.bootstrap_servers, is_apache=kafka_server.is_apache) as wire:
        many = [(f"header-{number}", b"x" * 20) for number in range(5_000)]
        good, topic = say.registered(), say.registered().topic
        await wire.send(topic, on_the_wire(good), key=b"k" * 20_000, headers=many)
        await wire.send(topic, b" " * 100_001, headers=many)
        await service.answers("/internal/v1/batches/b/status", 200)
        connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
        try:
            find = "SELECT error_type, jsonb_array_length(headers) AS headers FROM quarantined_messages"

            async def set_aside() -> list[asyncpg.Record]:
                return list(await connection.fetch(find))

            [bad] = await eventually(set_aside, within=30)
            assert (bad["error_type"], bad["headers"]) == ("too_large", 5_000)
        finally:
            await connection.close()
    assert "Traceback" not in service.output()
