"""The API under its real HTTP server, spoken to byte by byte: raw paths, odd headers, HEAD, the lifespan."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import orjson
import pytest
import uvicorn
from dishka import AsyncContainer
from quart import Quart

from result_aggregator_service.app import create_metrics_app
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


async def served(app: Quart, lifespan: str) -> AsyncIterator[Peer]:
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http="httptools", ws="none", lifespan=lifespan, log_config=None, access_log=False)  # type: ignore[arg-type]
    server = Server(config)
    serving = asyncio.create_task(server.serve([listener]))
    await eventually(lambda: server.started or serving.done())
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


@pytest.mark.parametrize(("raw", "batch_id"), IDS, ids=[str(number) for number in range(len(IDS))])
async def test_a_batch_is_found_under_whatever_id_it_has(
    raw: bytes, batch_id: str, peer: Peer, read_model: ReadModel
) -> None:
    await read_model.tell(say.registered(["e"], batch_id))
    response = await peer.get(status_of(raw))
    assert response.status == 200, response.body
    assert orjson.loads(response.body)["batch_id"] == batch_id


@pytest.mark.parametrize(
    "raw",
    [b"%00", b"a%00", b"%ff", b"\xff", b"%C3", b"%0a", b"%7f", b"%c2%80", b"%zz", b"%", b"x" * 256, b"%C3%85" * 256],
)
async def test_an_id_that_cannot_be_one_is_a_400_that_names_it(raw: bytes, peer: Peer) -> None:
    for path, field in ((status_of(raw), "batch_id"), (b"/internal/v1/batches/user/" + raw, "user_id")):
        response = await peer.get(path)
        # Some bytes never get past the HTTP parser.
        if response.headers["content-type"].startswith("text/plain"):
            assert response.status == 400
            continue
        assert (response.status, orjson.loads(response.body)["details"]["field"]) == (400, field)


@pytest.mark.parametrize(
    "target",
    [
        b"/internal/v1/batches/a/b/status",
        b"/internal/v1/batches//status",
        b"/internal//v1/batches/a/status",
        b"/internal/v1/batches/a/status/",
        b"/internal/v1/batches/a/%73tatus",
        b"/%69nternal/v1/batches/a/status",
        b"*",
        b"http://elsewhere/nothing",
    ],
)
async def test_a_path_that_only_looks_like_a_route_is_none(target: bytes, peer: Peer) -> None:
    response = await peer.get(target)
    assert (response.status, response.error) == (404, "not_found")


@pytest.mark.parametrize(
    "query", [b"limit=\xff", b"limit=%ff", b"status=%00", b"offset=%F0%9F%98%80", b"limit=1;2", b"limit=%u0031"]
)
async def test_a_query_of_any_bytes_is_refused_by_name(query: bytes, peer: Peer) -> None:
    response = await peer.get(b"/internal/v1/batches/user/u?" + query)
    if not response.headers["content-type"].startswith("text/plain"):
        field = orjson.loads(response.body)["details"]["field"]
        assert field == query.partition(b"=")[0].decode()
    assert response.status == 400


@pytest.mark.parametrize(
    "header",
    [
        b"X-Correlation-ID: \xff\xfe",
        b"If-None-Match: \xff\xfe",
        b'If-None-Match: "\xff", W/"',
        b"If-None-Match: " + b'"x", ' * 2000,
        b"Cookie: \xff=\xfe; =;",
        b"Accept: \xff",
        b"Range: bytes=0-0",
        b"If-Modified-Since: yesterday",
        b"Content-Type: \xff",
        b"X-Forwarded-Host: \xff",
        b"Content-Length: 0",
    ],
)
async def test_no_header_of_any_bytes_is_a_500(header: bytes, peer: Peer, read_model: ReadModel) -> None:
    await read_model.tell(say.registered(["e"], "b"))
    response = await peer.get(status_of(b"b"), header)
    assert response.status == 200


@pytest.mark.parametrize("host", [b"Host: \xff", b"Host: a b", b"Host: [::1", b"Host:", b"Host: a:b:c", b"X: y"])
async def test_no_host_of_any_bytes_is_a_500(host: bytes, peer: Peer) -> None:
    response = await peer.send(b"GET", b"/livez", host=host)
    assert response.status in (200, 400)


@pytest.mark.parametrize(
    "credentials", [[], [b"X-Internal-API-Key: \xff\xfe\x80", b"X-Service-ID: \xff\xfe\x80"]], ids=["none", "bytes"]
)
@pytest.mark.parametrize("path", [b"/internal/x", b"//internal/v1/batches/b/status", b"/internal/v1/batches/b/status"])
async def test_a_stranger_gets_401_whatever_bytes_there_are(path: bytes, credentials: list[bytes], peer: Peer) -> None:
    response = await peer.send(b"GET", path, credentials=credentials)
    assert (response.status, response.error) == (401, "unauthorized")


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
