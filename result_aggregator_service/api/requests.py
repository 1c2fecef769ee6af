"""What is done alike for every request, whoever answers it: who asks, its log line, its metrics."""

import asyncio
import time
from collections.abc import Mapping
from functools import cache
from types import TracebackType
from typing import Any

import structlog

from result_aggregator_service.api.auth import authenticate, is_protected
from result_aggregator_service.api.call import Call
from result_aggregator_service.api.problems import too_slow
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.observability.tracing import Tracing
from result_aggregator_service.settings import Settings

UNMATCHED = "unmatched"
UNREAD = "unread"
UNAUTHENTICATED = "unauthenticated"

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_MAX_LOGGED_PATH = 512
# Probes and the operator's page ask every few seconds; their successes are no news.
_QUIET = frozenset({"get_liveness", "get_readiness", "get_health", "get_metrics", "get_operators_history"})


class Gate:
    """Where every request comes in and goes out; `routes` are the templates of the endpoints' paths."""

    def __init__(self, settings: Settings, metrics: Metrics, tracing: Tracing, routes: Mapping[str, str]) -> None:
        self.settings = settings
        self.tracing = tracing
        self._routes = routes
        # To find a metric's child again takes ten times as long as to count with it.
        self._requests = cache(metrics.api_requests.labels)
        self._durations = cache(metrics.api_request_duration.labels)
        self._errors = cache(metrics.api_errors.labels)
        self._by_service = cache(metrics.api_requests_by_service.labels)
        self._key_uses = cache(metrics.api_key_uses.labels)
        # One for all lines: to make a logger for each costs a quarter of the line.
        self._log = structlog.get_logger(__name__).bind()

    def admit(self, call: Call) -> None:
        """Let a request pass.

        Raises:
            ProblemError: 401.
        """
        authenticate(call, self.settings)

    def in_time(self) -> "_InTime":
        """A block that makes the answer; it is cancelled if it outlives `API_TIMEOUT_SECONDS`.

        Raises:
            ProblemError: 503.
        """
        return _InTime(self.settings.api_timeout_seconds)

    def finish(self, call: Call, endpoint: str, status_code: int) -> None:
        """Count and log a request that is about to be answered, and note the answer in its span."""
        seconds, problem = time.perf_counter() - call.started, call.problem
        method = call.method if call.method in _METHODS else "OTHER"
        self._requests(endpoint, method, status_code).inc()
        self._durations(endpoint, method).observe(seconds)
        if is_protected(call):
            self._by_service(call.service_id or UNAUTHENTICATED, f"{status_code // 100}xx").inc()
        if call.key_place is not None:
            self._key_uses(str(call.key_place)).inc()
        if problem is not None:
            self._errors(endpoint, problem.error).inc()
        call.span.answered(self._routes.get(endpoint), status_code)
        told: dict[str, Any] = {
            "endpoint": endpoint,
            "method": call.method[:16],
            "path": call.path[:_MAX_LOGGED_PATH],
            "status_code": status_code,
            "duration_ms": round(seconds * 1000, 1),
            "service_id": call.service_id,
        }
        if problem is not None:
            told["error"] = problem.error
        if endpoint in _QUIET and status_code < 400:
            self._log.debug("request", **told)
        else:
            self._log.info("request", **told)


class _InTime:
    """`asyncio.timeout`, whose end is a problem; as a generator it would take half as long again."""

    __slots__ = ("_limit", "_seconds")

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._limit = asyncio.timeout(seconds)

    async def __aenter__(self) -> None:
        await self._limit.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            await self._limit.__aexit__(kind, error, traceback)
        except TimeoutError:
            raise too_slow(self._seconds) from None
