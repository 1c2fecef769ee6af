"""Every error an HTTP client can meet, as RFC 9457 problem JSON, made in one place. Nothing internal is told."""

from http import HTTPStatus
from urllib.parse import quote

import orjson
import structlog
from pydantic import JsonValue
from quart import Quart, Response
from werkzeug.exceptions import HTTPException

from result_aggregator_service.api.call import Call, Reply, as_response, present_call
from result_aggregator_service.api.documents import ProblemDocument
from result_aggregator_service.storage.errors import is_trouble

RETRY_AFTER_SECONDS = 5
PROBLEM_CONTENT_TYPE = "application/problem+json"

log = structlog.get_logger(__name__)


class ProblemError(Exception):
    """An error to be told to the client. `error` is its stable name; `details` name the field or thing at fault."""

    def __init__(
        self,
        status: HTTPStatus,
        error: str,
        detail: str,
        *,
        details: dict[str, JsonValue] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.error = error
        self.detail = detail
        self.details = details or {}
        self.headers = headers or {}


def bad_input(field: str, fault: str, allowed: str) -> ProblemError:
    """400: a field of the request is wrong."""
    return ProblemError(
        HTTPStatus.BAD_REQUEST,
        "invalid_input",
        f"{field}: {fault}; allowed: {allowed}",
        details={"field": field, "allowed": allowed},
    )


def batch_not_found(batch_id: str) -> ProblemError:
    """404: there is no such batch."""
    return ProblemError(HTTPStatus.NOT_FOUND, "batch_not_found", "no such batch", details={"batch_id": batch_id})


def unauthorized() -> ProblemError:
    """401: without a word on what was wrong."""
    return ProblemError(
        HTTPStatus.UNAUTHORIZED,
        "unauthorized",
        "valid credentials of an internal service are required",
        headers={"WWW-Authenticate": 'InternalApiKey realm="internal"'},
    )


def not_http() -> ProblemError:
    """400: what came is no HTTP request, so that nothing of it is known."""
    return ProblemError(
        HTTPStatus.BAD_REQUEST,
        "malformed_request",
        "not a valid HTTP/1.1 request; bytes that a URL may not hold have to be percent-encoded",
    )


def too_slow(seconds: float) -> ProblemError:
    """503: the request outlived `API_TIMEOUT_SECONDS`."""
    return ProblemError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "timeout",
        f"no answer within {seconds:g} seconds",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def unavailable() -> ProblemError:
    """503: PostgreSQL is away, or has no tables yet."""
    return ProblemError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "unavailable",
        "the read model cannot be reached now",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
    )


def internal_error() -> ProblemError:
    """500: an error of our own."""
    return ProblemError(HTTPStatus.INTERNAL_SERVER_ERROR, "internal_error", "the request could not be answered")


def refused(error: HTTPException) -> ProblemError:
    """What the framework refuses: an unknown path, a wrong method, a body that is too large."""
    status = HTTPStatus(error.code or HTTPStatus.INTERNAL_SERVER_ERROR)
    kept = {"allow", "retry-after"}
    headers = {name: value for name, value in error.get_headers() if name.lower() in kept}
    return ProblemError(
        status, _NAMES.get(status, status.name.lower()), _DETAILS.get(status, status.phrase), headers=headers
    )


def install_error_handlers(app: Quart) -> None:
    """Answer every exception with a problem."""

    async def answer(error: Exception) -> Response:
        return as_response(problem_reply(error, present_call()))

    app.register_error_handler(HTTPException, answer)
    app.register_error_handler(Exception, answer)


def problem_reply(error: Exception, call: Call) -> Reply:
    """The reply to a request that met an exception, as a problem, which is noted in `call`."""
    call.problem = problem = _problem(error)
    instance = quote(call.path, safe="/%:@!$&'()*+,;=-._~")
    body = orjson.dumps(problem_document(problem, instance, call.correlation_id))
    headers = {"cache-control": "no-store", **problem.headers, "content-type": PROBLEM_CONTENT_TYPE}
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return problem.status.value, [*raw, (b"content-length", str(len(body)).encode())], body


def problem_document(problem: ProblemError, instance: str, correlation_id: str) -> ProblemDocument:
    """What a client is told. `instance` is the path asked for, as a URL may hold it."""
    return {
        "type": f"urn:huleedu:ras:problem:{problem.error}",
        "title": problem.status.phrase,
        "status": problem.status.value,
        "detail": problem.detail,
        "instance": instance,
        "error": problem.error,
        "details": problem.details,
        "correlation_id": correlation_id,
    }


def _problem(error: Exception) -> ProblemError:
    """What a client is told of an exception."""
    if isinstance(error, ProblemError):
        return error
    if isinstance(error, HTTPException) and error.code is not None:
        return refused(error)
    if is_trouble(error):  # Redis is never the cause of an exception here
        log.warning("database_unavailable", error_type=type(error).__name__, reason=str(error).partition("\n")[0])
        return unavailable()
    log.error("request_failed", exc_info=error)
    return internal_error()


_NAMES = {HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "content_too_large"}
_DETAILS = {
    HTTPStatus.NOT_FOUND: "there is nothing at this path",
    HTTPStatus.METHOD_NOT_ALLOWED: "this path does not take the method",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the request's body is too large; requests here need none",
}
