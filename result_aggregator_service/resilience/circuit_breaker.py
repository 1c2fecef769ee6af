"""A circuit breaker: after some failures in a row the server is left alone for a while, then tried with one call."""

import time
from collections.abc import Callable
from enum import IntEnum

FAILURES_TO_OPEN = 5


class BreakerState(IntEnum):
    """The state, by its value in the metrics."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


class CircuitBreaker:
    """Counts outcomes; says whether a call is worth trying. Not for several calls at once while half open."""

    def __init__(
        self,
        *,
        seconds_open: float,
        failures_to_open: int = FAILURES_TO_OPEN,
        monotonic: Callable[[], float] = time.monotonic,
        on_change: Callable[[BreakerState], None] = lambda state: None,
    ) -> None:
        self._failures_to_open = failures_to_open
        self._seconds_open = seconds_open
        self._monotonic = monotonic
        self._on_change = on_change
        self._failures = 0
        self._opened_at = 0.0
        self.state = BreakerState.CLOSED
        on_change(self.state)

    def allows(self) -> bool:
        """Whether to try now; an open breaker becomes half open once its time is over."""
        if self.state is BreakerState.OPEN and self.seconds_to_wait() == 0.0:
            self._become(BreakerState.HALF_OPEN)
        return self.state is not BreakerState.OPEN

    def seconds_to_wait(self) -> float:
        """Seconds until an open breaker lets a call through; 0 if it does now."""
        if self.state is not BreakerState.OPEN:
            return 0.0
        return max(self._opened_at + self._seconds_open - self._monotonic(), 0.0)

    def succeeded(self) -> None:
        """A call went well."""
        self._failures = 0
        self._become(BreakerState.CLOSED)

    def failed(self) -> None:
        """A call failed in a way that speaks of the server, not of the call."""
        self._failures += 1
        if self.state is BreakerState.HALF_OPEN or self._failures >= self._failures_to_open:
            self._opened_at = self._monotonic()
            self._become(BreakerState.OPEN)

    def _become(self, state: BreakerState) -> None:
        if state is not self.state:
            self.state = state
            self._on_change(state)
