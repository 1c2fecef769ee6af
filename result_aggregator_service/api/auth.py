"""Who may ask: services that name themselves and hold a key. Guards every path under /internal, matched or not."""

import hmac

from quart import Request, g

from result_aggregator_service.api.errors import unauthorized
from result_aggregator_service.settings import Settings

PROTECTED_PATH = "/internal"


def authenticate(request: Request, settings: Settings) -> None:
    """Let a request pass, and note which service asks.

    Raises:
        ProblemError: 401, the same whatever was missing or wrong.
    """
    if request.path != PROTECTED_PATH and not request.path.startswith(f"{PROTECTED_PATH}/"):
        return
    service_id = request.headers.get("X-Service-ID", "")
    holds_key = _is_valid_key(request.headers.get("X-Internal-API-Key", ""), settings.internal_api_keys)
    if not holds_key or service_id not in settings.allowed_service_ids:
        raise unauthorized()
    g.service_id = service_id


def _is_valid_key(presented: str, keys: tuple[str, ...]) -> bool:
    """Compared with every key, in a time that tells nothing of them. Headers come as Latin-1, whatever they hold."""
    raw = presented.encode("latin-1", errors="replace")
    matches = [hmac.compare_digest(raw, key.encode()) for key in keys]
    return any(matches)
