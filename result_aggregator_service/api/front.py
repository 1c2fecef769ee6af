"""Answers about batches before Quart sees the request: its dispatch costs more than all the rest of a hit.

Everything else goes on to Quart. Neither does anything for itself that the other does too.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from result_aggregator_service.api.answers import BatchAnswers
from result_aggregator_service.api.batches import batch_reply, page_reply
from result_aggregator_service.api.call import NO_SNIFFING, Call, Reply
from result_aggregator_service.api.errors import problem_reply
from result_aggregator_service.api.requests import Gate

if TYPE_CHECKING:
    from hypercorn.typing import ASGISendCallable

_NO_SNIFFING = (NO_SNIFFING[0].lower().encode(), NO_SNIFFING[1].encode())
_METHODS = ("GET", "HEAD")
_WITH_BODY = (b"content-length", b"transfer-encoding")
# The paths of Quart's routes. A user may be called "status", and is asked for first.
_ROUTES = (
    ("get_user_batches", re.compile("/internal/v1/batches/user/([^/]+)")),
    ("get_batch_status", re.compile("/internal/v1/batches/([^/]+)/status")),
)
_REPLIES: Mapping[str, Callable[[Call, str, BatchAnswers], Awaitable[Reply]]] = {
    "get_user_batches": page_reply,
    "get_batch_status": batch_reply,
}


def route(path: str) -> tuple[str, str] | None:
    """The view that Quart has for a path, and the id in it, as it stands there; None if it is not about batches."""
    for endpoint, pattern in _ROUTES:
        if match := pattern.fullmatch(path):
            return endpoint, match[1]
    return None


class Front:
    """Stands between the server and Quart."""

    def __init__(self, gate: Gate, answers: BatchAnswers) -> None:
        self._gate = gate
        self._answers = answers

    async def answers(self, call: Call, send: "ASGISendCallable") -> bool:
        """Answer a request, if it is about batches."""
        if call.method not in _METHODS or any(header in call.headers for header in _WITH_BODY):
            return False
        if (found := route(call.path)) is None:
            return False
        endpoint, raw_id = found
        try:
            self._gate.admit(call)
            async with self._gate.in_time():
                status, headers, body = await _REPLIES[endpoint](call, raw_id, self._answers)
        except Exception as error:  # noqa: BLE001 - answered as Quart answers it
            status, headers, body = problem_reply(error, call)
        self._gate.finish(call, endpoint, status)
        headers = [*headers, call.correlation_header, _NO_SNIFFING]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
        return True
