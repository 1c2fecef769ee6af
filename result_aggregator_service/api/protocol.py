"""HTTP on the wire: what is no request, too large or too slow never reaches the application; a problem answers it.

Invariant: no peer holds a connection, or memory, for longer than `Limits` says, whatever it sends or leaves unread.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar
from uuid import uuid4

import orjson
import structlog
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from result_aggregator_service.api.problems import (
    MALFORMED,
    PROBLEM_CONTENT_TYPE,
    ProblemError,
    head_too_large,
    not_http,
    problem_document,
    request_too_slow,
    too_many_connections,
    uri_too_long,
)

MAX_URI_BYTES = 8 * 1024
MAX_HEAD_BYTES = 32 * 1024
_SECONDS_TO_LINGER = 1.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """What a peer may take: connections of all peers together, seconds to send a request, seconds to take an answer."""

    connections: int = 1_000
    seconds_to_send: float = 10.0
    seconds_to_take: float = 60.0


class HttpProtocol(HttpToolsProtocol):
    """uvicorn's, within limits, and but for what it says to a client that speaks no HTTP."""

    limits: ClassVar[Limits] = Limits()

    _unparsed_bytes = 0  # of a head that has not ended yet
    _in_head = False
    _is_whole = False
    _refusal: ProblemError | None = None
    _has_refused = False
    _sending_ends: asyncio.TimerHandle | None = None
    _taking_ends: asyncio.TimerHandle | None = None

    @staticmethod
    def note_refusal(error: str, /) -> None:
        """Hear of what reaches no route, by the name of its problem; here nobody does."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection on, unless there are too many."""
        super().connection_made(transport)
        transport.set_write_buffer_limits(high=0)  # the time to take an answer runs from the first byte that is left
        if len(self.connections) > self.limits.connections:
            self._refuse(too_many_connections())
            self.transport.close()
        else:
            self._sending_ends = self.loop.call_later(self.limits.seconds_to_send, self._has_sent_too_slowly)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget a connection."""
        for timer in (self._sending_ends, self._taking_ends):
            if timer is not None:
                timer.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take a part of a request, or several requests; the time for what is left of the last one runs."""
        if self._has_refused:
            return
        self._is_whole = False
        super().data_received(data)
        if self._has_refused:
            return
        if self._is_whole and not self.cycle.response_complete:  # after the answer uvicorn's own time runs
            if self._sending_ends is not None:
                self._sending_ends.cancel()
                self._sending_ends = None
        elif self._sending_ends is None:
            self._sending_ends = self.loop.call_later(self.limits.seconds_to_send, self._has_sent_too_slowly)
        if self._in_head:
            self._unparsed_bytes += len(data)
            if self._unparsed_bytes > MAX_HEAD_BYTES:
                self._refuse(head_too_large(MAX_HEAD_BYTES))

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head, self._is_whole, self._unparsed_bytes = True, False, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Hand a request over, unless it is too large.

        Raises:
            ProblemError: 414 or 431, which the parser turns into an error of its own.
        """
        self._in_head = False
        if len(self.url) > MAX_URI_BYTES:
            self._refusal = uri_too_long(MAX_URI_BYTES)
        elif len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD_BYTES:
            self._refusal = head_too_large(MAX_HEAD_BYTES)
        if self._refusal is not None:
            raise self._refusal
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request has come as a whole."""
        self._is_whole = True
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The peer does not take what it asked for: it has some time to."""
        super().pause_writing()
        self._taking_ends = self.loop.call_later(self.limits.seconds_to_take, self._has_taken_too_slowly)

    def resume_writing(self) -> None:
        """It has taken it."""
        if self._taking_ends is not None:
            self._taking_ends.cancel()
            self._taking_ends = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser has stopped at; `msg` is the server's own word on it, and goes to the log."""
        self._refuse(self._refusal or not_http(), msg)

    def _has_sent_too_slowly(self) -> None:
        self._sending_ends = None
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False  # the answer that is being made still goes out
        elif self._in_head:
            self._refuse(request_too_slow(self.limits.seconds_to_send))
        elif not self.transport.is_closing():
            self.transport.close()

    def _has_taken_too_slowly(self) -> None:
        _log.info("response_not_taken", seconds=self.limits.seconds_to_take)
        self.transport.abort()

    def _refuse(self, problem: ProblemError, reason: str | None = None) -> None:
        """Answer what reaches no route, and hang up; more of it is not read."""
        self._has_refused = True
        if self._sending_ends is not None:
            self._sending_ends.cancel()
        self.note_refusal(problem.error)
        correlation_id = str(uuid4())
        _log.info(
            "request_malformed" if problem.error == MALFORMED else "request_beyond_limits",
            error=problem.error,
            reason=reason or problem.detail,
            correlation_id=correlation_id,
        )
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False  # one answer must not come in the middle of another
            return
        body = orjson.dumps(problem_document(problem, "/", correlation_id))
        head = (
            f"HTTP/1.1 {problem.status.value} {problem.status.phrase}",
            f"Content-Type: {PROBLEM_CONTENT_TYPE}",
            f"Content-Length: {len(body)}",
            f"X-Correlation-ID: {correlation_id}",
            "X-Content-Type-Options: nosniff",
            "Cache-Control: no-store",
            "Connection: close",
            *(f"{name}: {value}" for name, value in problem.headers.items()),
        )
        self.transport.write("\r\n".join([*head, "", ""]).encode() + body)
        # To close at once would reset the connection under a client that still sends, and take the answer from it.
        self.transport.write_eof()
        self.loop.call_later(_SECONDS_TO_LINGER, self.transport.close)


def protocol_within(limits: Limits, hear_of_refusal: Callable[[str], None]) -> type[HttpProtocol]:
    """The protocol with other limits, told of: the server makes one of it for each connection, and hands it nothing."""

    class Limited(HttpProtocol):
        note_refusal = staticmethod(hear_of_refusal)

    Limited.limits = limits
    return Limited
