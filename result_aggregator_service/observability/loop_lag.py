"""Measures how late the event loop comes to what is due: whatever holds the loop shows here, in whatever code it is.

A hold that begins and ends between two looks is not seen; one that is longer than `SECONDS_BETWEEN_LOOKS` always is.
"""

import asyncio
import time

from result_aggregator_service.observability.metrics import Metrics

SECONDS_BETWEEN_LOOKS = 0.01


class LoopLag:
    """Asks to be woken again and again, and notes how much later that was than asked."""

    def __init__(self, metrics: Metrics) -> None:
        self._lags = metrics.event_loop_lag
        self._longest = 0.0
        metrics.event_loop_lag_max.set_function(self._take_longest)

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            due = time.monotonic() + SECONDS_BETWEEN_LOOKS
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            lag = max(time.monotonic() - due, 0.0)
            self._lags.observe(lag)
            self._longest = max(self._longest, lag)

    def _take_longest(self) -> float:
        longest, self._longest = self._longest, 0.0
        return longest
