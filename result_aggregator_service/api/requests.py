"""What is done alike for every request: its correlation id, who asks, its log line, its metrics, its time limit."""

import re
import time
from uuid import uuid4

import structlog
from dishka import AsyncContainer
from quart import Quart, Response, g, request
from werkzeug.exceptions import RequestEntityTooLarge

from result_aggregator_service.api.auth import authenticate, count_by_service
from result_aggregator_service.api.errors import ProblemError
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.settings import Settings

CORRELATION_HEADER = "X-Correlation-ID"
UNMATCHED = "unmatched"

_SANE_CORRELATION_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_MAX_LOGGED_PATH = 512
# Probes ask every few seconds; their successes are no news.
_QUIET = frozenset({"get_liveness", "get_readiness", "get_health", "get_metrics"})

log = structlog.get_logger(__name__)


def install_request_hooks(app: Quart, container: AsyncContainer) -> None:
    """Put the hooks around every request of the app, those that match no route included."""

    async def begin() -> None:
        g.started = time.perf_counter()
        g.correlation_id = _correlation_id(request.headers.get(CORRELATION_HEADER))
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(correlation_id=g.correlation_id)

    async def admit() -> None:
        authenticate(request, await container.get(Settings))
        if (request.content_length or 0) > app.config["MAX_CONTENT_LENGTH"]:
            raise RequestEntityTooLarge

    async def end(response: Response) -> Response:
        response.headers[CORRELATION_HEADER] = g.correlation_id
        _measure(await container.get(Metrics), response)
        return response

    app.before_request(begin)
    app.before_request(admit)
    app.after_request(end)


def endpoint_name() -> str:
    """The present request's view function, or that there is none: a label with few values."""
    return UNMATCHED if request.endpoint is None else request.endpoint.rpartition(".")[2]


def _correlation_id(given: str | None) -> str:
    """The client's if it is sane, else a new one."""
    return given if given is not None and _SANE_CORRELATION_ID.fullmatch(given) else str(uuid4())


def _measure(metrics: Metrics, response: Response) -> None:
    endpoint, seconds = endpoint_name(), time.perf_counter() - g.started
    method = request.method if request.method in _METHODS else "OTHER"
    metrics.api_requests.labels(endpoint, method, response.status_code).inc()
    metrics.api_request_duration.labels(endpoint, method).observe(seconds)
    count_by_service(metrics, request, response.status_code)
    problem: ProblemError | None = g.get("problem")
    if problem is not None:
        metrics.api_errors.labels(endpoint, problem.error).inc()
    level = "debug" if endpoint in _QUIET and response.status_code < 400 else "info"
    getattr(log, level)(
        "request",
        endpoint=endpoint,
        method=request.method[:16],
        path=request.path[:_MAX_LOGGED_PATH],
        status_code=response.status_code,
        duration_ms=round(seconds * 1000, 1),
        service_id=g.get("service_id"),
        **({"error": problem.error} if problem is not None else {}),
    )
