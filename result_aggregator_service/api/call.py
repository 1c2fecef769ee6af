"""A request as the server handed it over, and what becomes known of it on its way, within Quart or past it."""

import re
import time
from typing import TYPE_CHECKING
from uuid import uuid4

import structlog
from quart import Response, request
from werkzeug.datastructures import Headers

from result_aggregator_service.api.problems import ProblemError
from result_aggregator_service.observability.tracing import NO_SPAN

if TYPE_CHECKING:
    from hypercorn.typing import HTTPScope

CORRELATION_HEADER = "X-Correlation-ID"
#: With every answer: what it holds is what its Content-Type says, whatever a browser makes of its bytes.
NO_SNIFFING = ("X-Content-Type-Options", "nosniff")

Reply = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers, body."""

_SANE_CORRELATION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


class Call:
    """One request.

    `path` is as it was sent, percent-encoded, with one slash before it, as Quart takes it: who is let in is decided
    by the very path that is routed. Of headers that are given more than once the first counts.
    """

    __slots__ = (
        "correlation_id",
        "headers",
        "key_place",
        "method",
        "path",
        "problem",
        "query_string",
        "service_id",
        "span",
        "started",
    )

    def __init__(self, scope: "HTTPScope") -> None:
        self.started = time.perf_counter()
        self.method = scope["method"]
        self.path = "/" + ((scope["raw_path"] or b"").decode("latin-1") or scope["path"]).lstrip("/")
        self.query_string = scope["query_string"]
        self.headers = dict(reversed(list(scope["headers"])))
        self.correlation_id = _correlation_id(self.header(b"x-correlation-id"))
        self.service_id: str | None = None
        self.key_place: int | None = None
        self.problem: ProblemError | None = None
        self.span = NO_SPAN

    @property
    def correlation_header(self) -> tuple[bytes, bytes]:
        """What every answer says of it."""
        return b"x-correlation-id", self.correlation_id.encode()

    def header(self, name: bytes) -> str:
        """A header by its name in lower case; empty if it is missing. Headers come as Latin-1, whatever they hold."""
        return self.headers.get(name, b"").decode("latin-1")


def begin(scope: "HTTPScope") -> Call:
    """Take a request on: what is logged from here on carries its correlation id."""
    call = Call(scope)
    structlog.contextvars.clear_contextvars()
    structlog.contextvars.bind_contextvars(correlation_id=call.correlation_id)
    return call


def present_call() -> Call:
    """The request that Quart is at."""
    call: Call = request.scope["call"]  # type: ignore[typeddict-item]
    return call


def as_response(replied: Reply) -> Response:
    """A reply as Quart sends it."""
    status, headers, body = replied
    response = Response(body, status)
    response.headers = Headers([(name.decode(), value.decode()) for name, value in headers])
    return response


def _correlation_id(given: str) -> str:
    """The client's if it is sane, else a new one."""
    return given if _SANE_CORRELATION_ID.fullmatch(given) else str(uuid4())
