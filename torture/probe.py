"""Asks a replica, several times a second, what its users ask: is it alive, is it ready, what of this batch.

What it was answered, and when, is kept; a scenario then says what ought to have been answered at that time.
"""

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import httpx

from torture.replica import Replica
from torture.waiting import wait_until

_INTERVAL_SECONDS = 0.15


@dataclass(frozen=True)
class Answer:
    """One answer: to which question, when asked (monotonic seconds), how long it took, status (None: no answer)."""

    question: str
    asked_at: float
    seconds: float
    status: int | None
    body: Any


class Probe:
    """Asks in the background from `start` on; `cached` is a batch that nothing is said of any more."""

    def __init__(self, replica: Replica, *, cached: str, uncached: Sequence[str]) -> None:
        self._replica = replica
        self._cached = f"/internal/v1/batches/{cached}/status"
        self._uncached = [f"/internal/v1/batches/{batch_id}/status" for batch_id in uncached]
        self._ending = threading.Event()
        # Those that may have to wait for a server by themselves, so that the others are asked meanwhile.
        work = (self._ask_for_health, self._ask_for_cached, self._ask_for_uncached)
        self._threads = [threading.Thread(target=self._run, args=(each,), daemon=True) for each in work]
        self._answers: list[Answer] = []

    def answers(self, question: str, since: float, until: float) -> list[Answer]:
        """What was answered to `live`, `ready`, `cached` or `uncached`, asked and answered between two moments."""
        return [
            each
            for each in self._answers
            if each.question == question and since <= each.asked_at and each.asked_at + each.seconds <= until
        ]

    def wait_until_served(self, within: float) -> None:
        """Wait until everything that is asked from now on is answered as on a good day.

        Raises:
            TortureError: it is not in time.
        """
        now = time.monotonic()

        def probe() -> bool:
            return all(
                any(each.status == httpx.codes.OK for each in self.answers(question, now, float("inf")))
                for question in ("live", "ready", "cached", "uncached")
            )

        wait_until(probe, within=within, what="reads are served again")

    def _run(self, ask: Callable[[int], None]) -> None:
        turn = 0
        while not self._ending.wait(_INTERVAL_SECONDS):
            ask(turn)
            turn += 1

    def _ask_for_health(self, _: int) -> None:
        self._ask("live", "/livez")
        self._ask("ready", "/readyz")

    def _ask_for_cached(self, _: int) -> None:
        self._ask("cached", self._cached)

    def _ask_for_uncached(self, turn: int) -> None:
        self._ask("uncached", self._uncached[turn % len(self._uncached)])

    def _ask(self, question: str, path: str) -> None:
        asked_at = time.monotonic()
        try:
            answer = self._replica.get(path)
            status, body = answer.status_code, json.loads(answer.content)
        except httpx.HTTPError as error:
            status, body = None, repr(error)
        self._answers.append(Answer(question, asked_at, time.monotonic() - asked_at, status, body))

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        for thread in self._threads:
            thread.join()
