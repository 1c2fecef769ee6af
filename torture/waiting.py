"""Waiting for a condition, blocking: the harness is plain synchronous code."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_INTERVAL_SECONDS = 0.05


class TortureError(RuntimeError):
    """The service did not do what it must; the text says what, and where to look."""


def wait_until(probe: Callable[[], T | None], *, within: float, what: str) -> T:
    """The first true value of `probe` within so many seconds.

    Raises:
        TortureError: there was none.
    """
    deadline = time.monotonic() + within
    while True:
        value = probe()
        if value:
            return value
        if time.monotonic() > deadline:
            raise TortureError(f"not within {within:g} s: {what}; at last {value!r}")
        time.sleep(_INTERVAL_SECONDS)
