"""Who may ask: services that name themselves and hold a key. Guards every path under /internal, matched or not.

Invariant: a key appears in no log and no metric, and what a stranger says of itself in no metric.
"""

import hmac
from collections.abc import Callable, Sequence

from quart import Request, g

from result_aggregator_service.api.errors import unauthorized
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.settings import Settings

PROTECTED_PATH = "/internal"
UNAUTHENTICATED = "unauthenticated"


def authenticate(request: Request, settings: Settings) -> None:
    """Let a request pass, and note which service asks, and with which key.

    Raises:
        ProblemError: 401, the same whatever was missing or wrong.
    """
    if not _is_protected(request):
        return
    service_id = request.headers.get("X-Service-ID", "")
    place = key_place(request.headers.get("X-Internal-API-Key", ""), settings.internal_api_keys)
    if place is None or service_id not in settings.allowed_service_ids:
        raise unauthorized()
    g.service_id = service_id
    g.key_place = place


def count_by_service(metrics: Metrics, request: Request, status_code: int) -> None:
    """Count an answered request for whoever was let in, by service and by key."""
    if not _is_protected(request):
        return
    service_id: str | None = g.get("service_id")
    metrics.api_requests_by_service.labels(service_id or UNAUTHENTICATED, f"{status_code // 100}xx").inc()
    if service_id is not None:
        metrics.api_key_uses.labels(str(g.key_place)).inc()


def key_place(
    presented: str, keys: Sequence[str], *, is_same: Callable[[bytes, bytes], bool] = hmac.compare_digest
) -> int | None:
    """The place, from 1, of the key that is presented; None if it is none of them.

    It is compared with every key, in a time that tells nothing of them. Headers come as Latin-1, whatever they hold.
    """
    raw = presented.encode("latin-1", errors="replace")
    matches = [is_same(raw, key.encode()) for key in keys]
    return matches.index(True) + 1 if any(matches) else None


def _is_protected(request: Request) -> bool:
    return request.path == PROTECTED_PATH or request.path.startswith(f"{PROTECTED_PATH}/")
