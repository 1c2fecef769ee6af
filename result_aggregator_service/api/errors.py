"""From any exception to the answer that tells of it: problem JSON, made in one place."""

from http import HTTPStatus
from urllib.parse import quote

import orjson
import structlog
from quart import Quart, Response
from werkzeug.exceptions import HTTPException

from result_aggregator_service.api.call import Call, Reply, as_response, present_call
from result_aggregator_service.api.problems import (
    PROBLEM_CONTENT_TYPE,
    ProblemError,
    internal_error,
    problem_document,
    refused,
    unavailable,
)
from result_aggregator_service.observability.logging import first_line
from result_aggregator_service.storage.errors import is_trouble

log = structlog.get_logger(__name__)


def install_error_handlers(app: Quart) -> None:
    """Answer every exception with a problem."""

    async def answer(error: Exception) -> Response:
        return as_response(problem_reply(error, present_call()))

    app.register_error_handler(HTTPException, answer)
    app.register_error_handler(Exception, answer)


def problem_reply(error: Exception, call: Call) -> Reply:
    """The reply to a request that met an exception, as a problem, which is noted in `call`."""
    call.problem = problem = _problem(error)
    if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        call.span.failed(error)
    # Its frames hold `call`, which holds it: what refers to itself stays until the garbage collector comes round.
    problem.__traceback__ = None
    instance = quote(call.path, safe="/%:@!$&'()*+,;=-._~")
    body = orjson.dumps(problem_document(problem, instance, call.correlation_id))
    headers = {"cache-control": "no-store", **problem.headers, "content-type": PROBLEM_CONTENT_TYPE}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return problem.status.value, [*raw, (b"content-length", str(len(body)).encode())], body


def _problem(error: Exception) -> ProblemError:
    """What a client is told of an exception."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, HTTPException) and error.code is not None:
        return refused(error)
    if is_trouble(error):  # Redis is never the cause of an exception here
        log.warning("request_without_database", error_type=type(error).__name__, error=first_line(error))
        return unavailable()
    log.error("request_failed", exc_info=error)
    return internal_error()
