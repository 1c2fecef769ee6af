"""Answers what the cache has before Quart sees it: Quart's dispatch costs more than all the rest of such a request.

Everything else goes on to Quart, with what was found out. Neither does anything for itself that the other does too.
"""

import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from result_aggregator_service.api.answers import BatchAnswers, Question
from result_aggregator_service.api.batches import batch_question, page_question, reply
from result_aggregator_service.api.call import Call
from result_aggregator_service.api.requests import Gate

if TYPE_CHECKING:
    from hypercorn.typing import ASGISendCallable

_METHODS = ("GET", "HEAD")
_WITH_BODY = (b"content-length", b"transfer-encoding")
# The paths of Quart's routes. A user may be called "status", and is asked for first.
_ROUTES = (
    ("get_user_batches", re.compile("/internal/v1/batches/user/([^/]+)")),
    ("get_batch_status", re.compile("/internal/v1/batches/([^/]+)/status")),
)
_ASK: Mapping[str, Callable[[Call, str, BatchAnswers], Question[Any]]] = {
    "get_user_batches": page_question,
    "get_batch_status": batch_question,
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
        """Answer a request, if the cache has what it asks for. An error is left in `call` for Quart to answer."""
        if call.method not in _METHODS or any(header in call.headers for header in _WITH_BODY):
            return False
        if (found := route(call.path)) is None:
            return False
        endpoint, raw_id = found
        return await self._answers_question(call, endpoint, partial(_ASK[endpoint], call, raw_id, self._answers), send)

    async def _answers_question(
        self, call: Call, endpoint: str, ask: Callable[[], Question[Any]], send: "ASGISendCallable"
    ) -> bool:
        try:
            self._gate.admit(call)
            call.question = ask()
            if not await call.question.is_cached():
                return False
            status, headers, body = reply(await call.question.answer())
        except Exception as error:  # noqa: BLE001 - Quart raises it again
            call.error = error
            return False
        self._gate.finish(call, endpoint, status)
        await send({"type": "http.response.start", "status": status, "headers": [*headers, call.correlation_header]})
        await send({"type": "http.response.body", "body": body, "more_body": False})
        return True
