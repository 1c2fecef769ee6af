"""Measures how late the event loop comes to what is due: whatever holds the loop shows here, in whatever code it is.

A hold that begins and ends between two looks is not seen; one that is longer than `SECONDS_BETWEEN_LOOKS` always is.
Beside each lag stands how much of it the loop's own thread computed: in the rest it had no core, or was blocked.
"""

import asyncio
import time

from result_aggregator_service.observability.metrics import Metrics

SECONDS_BETWEEN_LOOKS = 0.01


class LoopLag:
    """Asks to be woken again and again, and notes how much later that was than asked."""

    def __init__(self, metrics: Metrics) -> None:
        self._lags = metrics.event_loop_lag
        self._longest = self._busiest = 0.0
        metrics.event_loop_lag_max.set_function(self._take_longest)
        metrics.event_loop_busy_max.set_function(self._take_busiest)

    async def run(self) -> None:
        """Run until cancelled."""
        while True:
            due, computed = time.monotonic() + SECONDS_BETWEEN_LOOKS, time.thread_time()
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            lag = max(time.monotonic() - due, 0.0)
            self._lags.observe(lag)
            self._longest = max(self._longest, lag)
            # What it computed before it was due is in it, too: no more than is told, and perhaps less.
            self._busiest = max(self._busiest, min(lag, time.thread_time() - computed))

    def _take_longest(self) -> float:
        longest, self._longest = self._longest, 0.0
        return longest

    def _take_busiest(self) -> float:
        busiest, self._busiest = self._busiest, 0.0
        return busiest
