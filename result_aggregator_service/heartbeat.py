"""Heartbeats of the loops: a loop that turns says so; one that has not for too long is wedged."""

import time
from collections.abc import Callable

SECONDS_UNTIL_WEDGED = 120.0


class Heartbeat:
    """When a loop last turned. Waiting for a server that is away is turning too, as long as it is tried again."""

    def __init__(self, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._last = monotonic()
        self.state = "starting"

    def beat(self, state: str) -> None:
        """The loop turned; `state` is a word or two on what it is doing."""
        self._last = self._monotonic()
        self.state = state

    def seconds_since(self) -> float:
        """Seconds since it last turned."""
        return self._monotonic() - self._last

    def is_wedged(self) -> bool:
        """Whether it has not turned for longer than any wait inside it may take."""
        return self.seconds_since() > SECONDS_UNTIL_WEDGED
