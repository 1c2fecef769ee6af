"""One performance: play the messages, wait until the service has folded them and the grace has run, then compare.

The comparison that counts is made once more over everything after all has settled.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from demo.oracle import CLIENT_STATUS, Oracle
from demo.verdict import (
    Difference,
    Published,
    batch_differences,
    published_differences,
    user_differences,
)
from demo.wire import Message

Json = dict[str, Any]
Progress = Callable[[int], None]

_STALLED_SECONDS = 30.0
_SETTLE_SECONDS = 20.0
_POLL_SECONDS = 0.2


class Broker(Protocol):
    """What is needed of `demo.player.Player`."""

    def mark_the_start(self) -> None: ...
    def play(self, messages: Sequence[Message], on_progress: Progress, /) -> None: ...
    def folded(self) -> int: ...
    def published(self) -> list[Published]: ...


class Service(Protocol):
    """What is needed of `demo.observer.Observer`."""

    def batch(self, batch_id: str, /) -> Json | None: ...
    def user(self, user_id: str, **query: str) -> tuple[list[str], set[int]]: ...
    def quarantined(self) -> Counter[str]: ...


class PerformanceError(RuntimeError):
    """The performance broke off; the text says where."""


@dataclass(frozen=True)
class Performance:
    """What came out. Times are in seconds, from the first message produced."""

    messages: int
    duplicates: int
    played_after: float
    folded_after: float
    settled_after: float
    early_grace: bool
    answers: dict[str, Json | None]
    published: list[Published]
    quarantined: Counter[str]
    differences: list[Difference]


def perform(
    messages: Sequence[Message],
    oracle: Oracle,
    broker: Broker,
    service: Service,
    *,
    grace_seconds: float,
    playing: Progress,
    folding: Progress,
    settling: Progress,
    check_service: Callable[[], None],
) -> Performance:
    """Play, wait, compare.

    `check_service` is called while waiting and raises if waiting is no use. `settling` is told how many batches are as
    they should be.

    Raises:
        PerformanceError: the service stopped folding.
    """
    already_quarantined = service.quarantined()
    broker.mark_the_start()
    started = time.monotonic()
    broker.play(messages, playing)
    playing(len(messages))
    played_after = time.monotonic() - started
    _wait_until_folded(broker, len(messages), folding, check_service)
    folded_after = time.monotonic() - started
    # Had the grace run out between a pipeline's end and what it overtook, that would have been right too.
    early_grace = folded_after >= grace_seconds

    def quarantined() -> Counter[str]:
        return service.quarantined() - already_quarantined

    deadline = time.monotonic() + grace_seconds + _SETTLE_SECONDS
    batch_ids = oracle.batch_ids()
    waiting = list(batch_ids)
    while time.monotonic() < deadline:
        check_service()
        waiting = [each for each in waiting if any(batch_differences(oracle, each, service.batch(each)))]
        settling(len(batch_ids) - len(waiting))
        if not waiting and not any(published_differences(oracle, broker.published(), early_grace=early_grace)):
            break
        time.sleep(_POLL_SECONDS)
    settled_after = time.monotonic() - started

    answers = {batch_id: service.batch(batch_id) for batch_id in batch_ids}
    published = broker.published()
    found = [each for batch_id in batch_ids for each in batch_differences(oracle, batch_id, answers[batch_id])]
    found += _lists(oracle, service)
    found += published_differences(oracle, published, early_grace=early_grace)
    found += _quarantine(oracle, messages, quarantined())
    return Performance(
        messages=len(messages),
        duplicates=len(messages) - len({(each.topic, each.key, each.value) for each in messages}),
        played_after=played_after,
        folded_after=folded_after,
        settled_after=settled_after,
        early_grace=early_grace,
        answers=answers,
        published=published,
        quarantined=quarantined(),
        differences=found,
    )


def _wait_until_folded(broker: Broker, total: int, folding: Progress, check_service: Callable[[], None]) -> None:
    folded, moved = -1, time.monotonic()
    while folded < total:
        check_service()
        now = broker.folded()
        if now != folded:
            folded, moved = now, time.monotonic()
            folding(folded)
        elif time.monotonic() - moved > _STALLED_SECONDS:
            raise PerformanceError(
                f"the service has folded {folded} of {total} messages and none for {_STALLED_SECONDS:g} s"
            )
        time.sleep(_POLL_SECONDS / 2)


def _lists(oracle: Oracle, service: Service) -> Iterator[Difference]:
    for user_id, expected in oracle.users().items():
        ids, totals = service.user(user_id)
        for total in totals:
            yield from user_differences(f"user {user_id}", expected, ids, total)
        status = {batch_id: str((oracle.answer(batch_id) or {})["overall_status"]) for batch_id in expected}
        for word in sorted({*status.values(), *(CLIENT_STATUS[each] for each in status.values())}):
            some = [each for each in expected if word in (status[each], CLIENT_STATUS[status[each]])]
            ids, totals = service.user(user_id, status=word)
            for total in totals:
                yield from user_differences(f"user {user_id}, status={word}", some, ids, total)


def _quarantine(oracle: Oracle, messages: Sequence[Message], actual: Counter[str]) -> Iterator[Difference]:
    expected = Counter(messages[index].topic for index in oracle.quarantined)
    for topic in sorted(expected | actual):
        if expected[topic] != actual[topic]:
            yield Difference(f"topic {topic}", "messages in quarantine", expected[topic], actual[topic])
