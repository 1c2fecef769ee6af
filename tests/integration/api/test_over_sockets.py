"""The API under its real HTTP server, spoken to byte by byte: raw paths, odd headers, HEAD, the lifespan."""

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
import uvicorn
from dishka import AsyncContainer
from quart import Quart

from result_aggregator_service.api.protocol import HttpProtocol, Limits, protocol_within
from result_aggregator_service.app import create_metrics_app
from result_aggregator_service.server import listen
from tests.integration.api.conftest import CREDENTIALS, RecordedLifecycle
from tests.integration.api.read_model import ReadModel
from tests.unit.domain import messages as say
from tests.waiting import eventually


class Server(uvicorn.Server):
    """uvicorn without signal handlers."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


VALID = [f"{name}: {value}".encode() for name, value in CREDENTIALS.items()]


@dataclass
class Response:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def error(self) -> str:
        return str(orjson.loads(self.body)["error"])


@dataclass
class Peer:
    """Sends requests as they are."""

    port: int

    async def send(
        self,
        method: bytes,
        target: bytes,
        *headers: bytes,
        host: bytes = b"Host: ras",
        credentials: Sequence[bytes] = VALID,
    ) -> Response:
        lines = [method + b" " + target + b" HTTP/1.1", host, b"Connection: close", *credentials, *headers]
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"\r\n".join([*lines, b"", b""]))
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        status_line, *header_lines = head.decode("latin-1").split("\r\n")
        named = dict(line.split(": ", 1) for line in header_lines)
        return Response(int(status_line.split()[1]), {name.lower(): value for name, value in named.items()}, body)

    async def get(self, target: bytes, *headers: bytes) -> Response:
        return await self.send(b"GET", target, *headers)


async def served(
    app: object, lifespan: str, *, protocol: type[HttpProtocol] = HttpProtocol, send_buffer: int | None = None
) -> AsyncIterator[Peer]:
    listener = listen("PORT", "127.0.0.1", 0)
    if send_buffer is not None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)
    config = uvicorn.Config(app, http=protocol, ws="none", lifespan=lifespan, log_config=None, access_log=False)  # type: ignore[arg-type]
    server = Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    await eventually(lambda: server.started or serving.done(), within=30)
    yield Peer(listener.getsockname()[1])
    server.should_exit = True
    await serving
    listener.close()


@pytest.fixture
async def peer(app: Quart) -> AsyncIterator[Peer]:
    async for running in served(app, "on"):
        yield running


def status_of(raw_id: bytes) -> bytes:
    return b"/internal/v1/batches/" + raw_id + b"/status"


IDS = [
    (b"a%2Fb", "a/b"),
    (b"a%2fb", "a/b"),
    (b"%2F", "/"),
    (b"a%3Fb%23c", "a?b#c"),
    (b"100%25", "100%"),
    (b"a+b", "a+b"),
    (b"a%20b", "a b"),
    (b"a%2520b", "a%20b"),
    (b"..", ".."),
    (b"%2e%2e", ".."),
    (b"%C3%85sa", "Åsa"),
    (b"%F0%9F%98%80", "😀"),
    # As it stands, /user/status asks for the batches of the user "status".
    (b"%75ser", "user"),
    (b"x" * 255, "x" * 255),
    (b"%C3%85" * 255, "Å" * 255),
]


NOT_IDS = [b"%00", b"a%00", b"%ff", b"%C3", b"%0a", b"%7f", b"%c2%80", b"%zz", b"%", b"x" * 256, b"%C3%85" * 256]

NOT_ROUTES = [
    b"/internal/v1/batches/a/b/status",
    b"/internal/v1/batches//status",
    b"/internal//v1/batches/a/status",
    b"/internal/v1/batches/a/status/",
    b"/internal/v1/batches/a/%73tatus",
    b"/%69nternal/v1/batches/a/status",
    b"*",
    b"http://elsewhere/nothing",
]

HEADERS = [
    b"X-Correlation-ID: \xff\xfe",
    b"If-None-Match: \xff\xfe",
    b'If-None-Match: ""',
    b'If-None-Match: "\xff", W/"',
    b"If-None-Match: " + b'"x", ' * 2000,
    b"Cookie: \xff=\xfe; =;",
    b"Accept: \xff",
    b"Range: bytes=0-0",
    b"If-Modified-Since: yesterday",
    b"Content-Type: \xff",
    b"X-Forwarded-Host: \xff",
    b"Content-Length: 0",
]


async def test_a_batch_is_found_under_whatever_id_it_has(peer: Peer, read_model: ReadModel) -> None:
    await read_model.tell(*(say.registered([f"essay of {batch_id}"[:255]], batch_id) for _, batch_id in IDS))
    for raw, batch_id in IDS:
        response = await peer.get(status_of(raw))
        assert response.status == 200, (raw, response.body)
        assert orjson.loads(response.body)["batch_id"] == batch_id


async def test_an_id_that_cannot_be_one_is_a_400_that_names_it(peer: Peer) -> None:
    for raw in NOT_IDS:
        for path, field in ((status_of(raw), "batch_id"), (b"/internal/v1/batches/user/" + raw, "user_id")):
            response = await peer.get(path)
            assert (response.status, orjson.loads(response.body)["details"]["field"]) == (400, field), path


async def test_a_path_that_only_looks_like_a_route_is_none(peer: Peer) -> None:
    for target in NOT_ROUTES:
        response = await peer.get(target)
        assert (response.status, response.error) == (404, "not_found"), target


async def test_what_is_no_http_is_a_problem_too(peer: Peer) -> None:
    for target in (status_of(b"\xff"), status_of("Å".encode()), b"", b"/ /", b"/\x00"):
        response = await peer.get(target)
        assert (response.status, response.error) == (400, "malformed_request"), target
        assert response.headers["content-type"] == "application/problem+json"
        assert response.headers["x-correlation-id"] == orjson.loads(response.body)["correlation_id"]


async def test_a_query_of_any_bytes_is_refused_by_name(peer: Peer) -> None:
    for query in (b"limit=%ff", b"status=%00", b"offset=%F0%9F%98%80", b"limit=1;2", b"limit=%u0031", b"limit=1&limit"):
        response = await peer.get(b"/internal/v1/batches/user/u?" + query)
        assert response.status == 400, query
        assert orjson.loads(response.body)["details"]["field"] == query.partition(b"=")[0].decode()


async def test_no_header_of_any_bytes_is_a_500(peer: Peer, read_model: ReadModel) -> None:
    await read_model.tell(say.registered(["e"], "b"))
    for header in HEADERS:
        assert (await peer.get(status_of(b"b"), header)).status == 200, header


async def test_no_host_of_any_bytes_is_a_500(peer: Peer) -> None:
    for host in (b"Host: \xff", b"Host: a b", b"Host: [::1", b"Host:", b"Host: a:b:c", b"X: y"):
        assert (await peer.send(b"GET", b"/livez", host=host)).status in (200, 400), host


async def test_a_stranger_gets_401_whatever_bytes_there_are(peer: Peer) -> None:
    for path in (b"/internal/x", b"//internal/v1/batches/b/status", status_of(b"b"), status_of(b"%00")):
        for credentials in ([], [b"X-Internal-API-Key: \xff\xfe\x80", b"X-Service-ID: \xff\xfe\x80"]):
            response = await peer.send(b"GET", path, credentials=credentials)
            assert (response.status, response.error) == (401, "unauthorized"), (path, credentials)


async def test_head_has_the_headers_of_get_and_no_body(peer: Peer, read_model: ReadModel) -> None:
    await read_model.tell(say.registered(["e"], "b"))
    whole, head = await peer.get(status_of(b"b")), await peer.send(b"HEAD", status_of(b"b"))
    assert (head.status, head.body) == (200, b"")
    for header in ("etag", "content-length", "content-type"):
        assert head.headers[header] == whole.headers[header]
    missing = await peer.send(b"HEAD", status_of(b"unknown"))
    assert (missing.status, missing.body) == (404, b"")


async def test_304_has_no_body(peer: Peer, read_model: ReadModel) -> None:
    await read_model.tell(say.registered(["e"], "b"))
    tag = (await peer.get(status_of(b"b"))).headers["etag"]
    response = await peer.get(status_of(b"b"), b"If-None-Match: " + tag.encode())
    assert (response.status, response.body) == (304, b"")
    assert response.headers["etag"] == tag


async def test_a_body_is_refused_by_its_announced_length(peer: Peer) -> None:
    response = await peer.get(b"/livez", b"Content-Length: 99999999")
    assert (response.status, response.error) == (413, "content_too_large")


async def test_an_answer_that_takes_longer_than_its_request_may_is_the_connections_last() -> None:
    """The request's body is still not there when its time is over."""

    async def app(_scope: object, _receive: object, send: Callable[[dict[str, Any]], Awaitable[None]]) -> None:
        await asyncio.sleep(0.2)  # the two timers are of one loop, and come in their order
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
        await send({"type": "http.response.body", "body": b"ok", "more_body": False})

    protocol = protocol_within(Limits(seconds_to_send=0.1), lambda _: None)
    async for peer in served(app, "off", protocol=protocol):
        reader, writer = await asyncio.open_connection("127.0.0.1", peer.port)
        writer.write(b"POST / HTTP/1.1\r\nHost: ras\r\nContent-Length: 10\r\n\r\n12345")
        async with asyncio.timeout(30):
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        assert body == b"ok"
        assert b"connection: close" in head
        writer.close()


async def test_an_answer_that_is_left_unread_is_not_kept_however_small_it_is(app: Quart, read_model: ReadModel) -> None:
    """Of up to 64 KiB that nobody takes asyncio says nothing by itself, and keeps it for ever."""
    await read_model.tell(say.registered([f"essay {number}" for number in range(30)], "b"))
    lost = asyncio.Event()

    class Protocol(protocol_within(Limits(seconds_to_take=0.2), lambda _: None)):  # type: ignore[misc]
        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            lost.set()

    async for peer in served(app, "on", protocol=Protocol, send_buffer=1):
        size = int((await peer.send(b"HEAD", status_of(b"b"))).headers["content-length"])
        assert 30_000 < size < 60_000
        lost.clear()
        loop = asyncio.get_running_loop()
        with socket.socket() as unread:
            unread.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
            unread.setblocking(False)
            await loop.sock_connect(unread, ("127.0.0.1", peer.port))
            request = [b"GET " + status_of(b"b") + b" HTTP/1.1", b"Host: ras", *VALID, b"", b""]
            await loop.sock_sendall(unread, b"\r\n".join(request))
            async with asyncio.timeout(30):
                await lost.wait()
                taken = 0
                while part := await loop.sock_recv(unread, 65536):
                    taken += len(part)
            assert 0 < taken < size


async def test_what_runs_beside_the_api_starts_and_stops_with_it(app: Quart, container: AsyncContainer) -> None:
    lifecycle = await container.get(RecordedLifecycle)
    async for peer in served(app, "on"):
        assert lifecycle.calls == ["start"]
        assert (await peer.get(b"/livez")).status == 200
    assert lifecycle.calls == ["start", "stop"]


async def test_the_metrics_have_a_port_of_their_own_that_serves_nothing_else(container: AsyncContainer) -> None:
    async for peer in served(create_metrics_app(container), "off"):
        response = await peer.get(b"/metrics")
        assert response.status == 200
        assert response.headers["content-type"].startswith("text/plain; version=")
        assert b"ras_circuit_breaker_state" in response.body
        assert (await peer.get(b"/nothing")).error == "not_found"
        assert (await peer.get(status_of(b"b"))).status == 404
    assert (await container.get(RecordedLifecycle)).calls == []
