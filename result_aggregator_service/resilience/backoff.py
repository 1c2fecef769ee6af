"""Waiting times between tries: exponential, with full jitter, so that replicas do not knock in step."""

import random
from collections.abc import Iterator


def backoff(first: float = 0.1, ceiling: float = 10.0, *, random_: random.Random | None = None) -> Iterator[float]:
    """Seconds to wait before each next try, without end: at random up to `first`, doubling up to `ceiling`."""
    source = random_ or random.Random()
    limit = first
    while True:
        yield source.uniform(limit / 2, limit)
        limit = min(limit * 2, ceiling)
