"""Heartbeats of the loops: one that does not turn any more, or turns and gets on with none of its work, is wedged.

Invariant: the time in which a server is away wedges nobody. So work counts only from one telling of it to the next, and
it is told of only while the servers that it takes answer.
"""

import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any

SECONDS_UNTIL_WEDGED = 120.0


class Heartbeat:
    """When a loop last turned, and for how long it has not got on. To wait for a server and try again is to turn."""

    def __init__(
        self,
        *,
        monotonic: Callable[[], float] = time.monotonic,
        seconds_without_turning: float = SECONDS_UNTIL_WEDGED,
        seconds_without_progress: float = SECONDS_UNTIL_WEDGED,
    ) -> None:
        self._monotonic = monotonic
        self._seconds_without_turning = seconds_without_turning
        self._seconds_without_progress = seconds_without_progress
        self._last = monotonic()
        self._waiting = False
        self._standing: Mapping[Any, tuple[Hashable, float]] = {}
        self._work = ""
        self._stuck_seconds = 0.0
        self.state = "starting"

    def beat(self, state: str) -> None:
        """The loop turned; `state` is a word or two on what it is doing."""
        self._last = self._monotonic()
        self._waiting = False
        self.state = state

    def waits_for(self, server: str) -> None:
        """The loop turned, but can do nothing until a server is back; the time until the next beat does not count."""
        self.beat(f"waiting for {server}")
        self._waiting = True
        self.has_work({})

    def has_work(self, marks: Mapping[Any, Hashable], what: str = "") -> None:
        """Each piece of work that there is now with a mark of how far it is; `what` says it in words.

        A piece whose mark is the same at each telling stands still. None at all: nothing to do, or it is not known.
        """
        now = self._monotonic()
        standing: dict[Any, tuple[Hashable, float]] = {}
        for piece, mark in {} if self._waiting else marks.items():
            before, since = self._standing.get(piece, (None, now))
            standing[piece] = (mark, since if before == mark else now)
        self._standing = standing
        self._work = what
        self._stuck_seconds = max((now - since for _, since in standing.values()), default=0.0)

    def seconds_since(self) -> float:
        """Seconds since it last turned."""
        return self._monotonic() - self._last

    def is_wedged(self) -> bool:
        """Whether it has not turned, or not got on with its work, for longer than any wait inside it may take."""
        return (
            self.seconds_since() > self._seconds_without_turning or self._stuck_seconds > self._seconds_without_progress
        )

    def detail(self) -> str:
        """What it is doing, and what is wrong with that."""
        if self.seconds_since() > self._seconds_without_turning:
            return f"{self.state}, has not turned for {self.seconds_since():.0f} s"
        if self._stuck_seconds >= 1.0:
            return f"{self.state}, {self._work}, no progress for {self._stuck_seconds:.0f} s"
        return self.state
