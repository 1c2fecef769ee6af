"""The problems that an HTTP client can be told of, by their stable names (RFC 9457). Nothing internal is told."""

from http import HTTPStatus

from pydantic import JsonValue
from werkzeug.exceptions import HTTPException

from result_aggregator_service.api.documents import ProblemDocument

RETRY_AFTER_SECONDS = 5
PROBLEM_CONTENT_TYPE = "application/problem+json"
MALFORMED = "malformed_request"


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
        MALFORMED,
        "not a valid HTTP/1.1 request; bytes that a URL may not hold have to be percent-encoded",
    )


def uri_too_long(limit: int) -> ProblemError:
    """414: the path with its query has more bytes than `limit`."""
    return ProblemError(
        HTTPStatus.REQUEST_URI_TOO_LONG, "uri_too_long", f"a path with its query may have {limit} bytes"
    )


def head_too_large(limit: int) -> ProblemError:
    """431: request line and headers have more bytes than `limit`."""
    return ProblemError(
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
        "headers_too_large",
        f"the request line and all headers together may have {limit} bytes",
    )


def request_too_slow(seconds: float) -> ProblemError:
    """408: a request began, and its headers did not end in time."""
    return ProblemError(
        HTTPStatus.REQUEST_TIMEOUT, "request_timeout", f"a request has to come within {seconds:g} seconds"
    )


def too_many_connections() -> ProblemError:
    """503: the process holds as many connections as it may."""
    return ProblemError(
        HTTPStatus.SERVICE_UNAVAILABLE,
        "too_many_connections",
        "this replica has as many connections as it takes; keep fewer open, or ask another",
        headers={"Retry-After": str(RETRY_AFTER_SECONDS)},
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


_NAMES = {HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "content_too_large"}
_DETAILS = {
    HTTPStatus.NOT_FOUND: "there is nothing at this path",
    HTTPStatus.METHOD_NOT_ALLOWED: "this path does not take the method",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "the request's body is too large; requests here need none",
}
