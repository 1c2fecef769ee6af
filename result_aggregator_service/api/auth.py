"""Who may ask: services that name themselves and hold a key. Guards every path under /internal, matched or not.

Invariant: a key appears in no log and no metric, and what a stranger says of itself in no metric.
"""

import hmac
from collections.abc import Callable, Sequence

from result_aggregator_service.api.call import Call
from result_aggregator_service.api.problems import unauthorized
from result_aggregator_service.settings import Settings

PROTECTED_PATH = "/internal"


def authenticate(call: Call, settings: Settings) -> None:
    """Let a request pass, and note which service asks, and with which key.

    Raises:
        ProblemError: 401, the same whatever was missing or wrong.
    """
    if not is_protected(call):
        return
    service_id = call.header(b"x-service-id")
    place = key_place(call.header(b"x-internal-api-key"), settings.internal_api_keys)
    if place is None or service_id not in settings.allowed_service_ids:
        raise unauthorized()
    call.service_id = service_id
    call.key_place = place


def key_place(
    presented: str, keys: Sequence[str], *, is_same: Callable[[bytes, bytes], bool] = hmac.compare_digest
) -> int | None:
    """The place, from 1, of the key that is presented; None if it is none of them.

    It is compared with every key, in a time that tells nothing of them. Headers come as Latin-1, whatever they hold.
    """
    raw = presented.encode("latin-1", errors="replace")
    matches = [is_same(raw, key.encode()) for key in keys]
    return matches.index(True) + 1 if any(matches) else None


def is_protected(call: Call) -> bool:
    """Whether only those may ask who are let in."""
    return call.path == PROTECTED_PATH or call.path.startswith(f"{PROTECTED_PATH}/")
