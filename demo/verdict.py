"""Compares what the service shows with what the oracle expects, and names each difference by its field."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import isclose
from typing import Any

import orjson

from demo.oracle import Announcement, Announcements, Anything, Either, Holding, OneLine, Oracle
from demo.wire import ASSESSMENT_COMPLETED, NOTIFICATION, RESULTS_READY, BadMessage, parse_time

Json = dict[str, Any]


@dataclass(frozen=True)
class Difference:
    """One field that is not as the rules have it. `about` is the batch, user or event it belongs to."""

    about: str
    field: str
    expected: object
    actual: object

    def __str__(self) -> str:
        return f"{self.about}  {self.field}: expected {_brief(self.expected)}, got {_brief(self.actual)}"


@dataclass(frozen=True)
class Published:
    """A message read from a topic the service publishes on."""

    topic: str
    key: bytes | None
    value: bytes
    headers: Mapping[str, bytes]


def _brief(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    text = repr(value)
    return text if len(text) <= 160 else f"{text[:157]}..."


def _time(value: object) -> datetime | None:
    try:
        return parse_time(value)
    except BadMessage:
        return None


def differences(expected: object, actual: object, about: str, field: str = "") -> Iterator[Difference]:
    """Every field in which `actual`, as decoded from JSON, is not as expected. What is absent counts as null."""
    here = Difference(about, field or "(all)", expected, actual)
    match expected:
        case Anything():
            return
        case Either(values):
            if all(any(differences(value, actual, about)) for value in values):
                yield here
        case OneLine():
            if not isinstance(actual, str) or not actual.strip() or "\n" in actual or "\r" in actual:
                yield here
        case datetime():
            if _time(actual) != expected:
                yield here
        case Holding(members) | dict(members):
            if not isinstance(actual, dict):
                yield here
                return
            names = list(members)
            if isinstance(expected, dict):
                names += [name for name in actual if name not in members]
            for name in names:
                yield from differences(members.get(name), actual.get(name), about, f"{field}.{name}".lstrip("."))
        case list():
            if not isinstance(actual, list) or len(actual) != len(expected):
                yield here
                return
            for index, (wanted, given) in enumerate(zip(expected, actual, strict=True)):
                yield from differences(wanted, given, about, f"{field}[{index}]")
        case float():
            if not isinstance(actual, int | float) or not isclose(expected, actual, rel_tol=1e-9, abs_tol=1e-6):
                yield here
        case _:
            if type(expected) is not type(actual) or expected != actual:
                yield here


def batch_differences(oracle: Oracle, batch_id: str, actual: Json | None) -> Iterator[Difference]:
    """The API's answer about one batch (None for 404), against the rules. More fields than expected are welcome."""
    expected = oracle.answer(batch_id)
    about = f"batch {batch_id}"
    if expected is None or actual is None:
        if (expected is None) != (actual is None):
            yield Difference(about, "answer", "404" if expected is None else "200", "404" if actual is None else "200")
        return
    wanted, given = expected.pop("essays"), actual.get("essays")
    yield from differences(Holding(expected), actual, about)
    given = given if isinstance(given, list) else []
    ids, given_ids = [essay["essay_id"] for essay in wanted], [essay.get("essay_id") for essay in given]
    if ids != given_ids:
        missing, surplus = sorted(set(ids) - set(given_ids)), sorted(set(given_ids) - set(ids))
        if missing or surplus:
            yield Difference(about, "essays", f"also {missing}", f"also {surplus}")
        else:
            yield Difference(about, "essays", "ordered by essay_id", given_ids)
    by_id = {essay.get("essay_id"): essay for essay in given}
    for essay in wanted:
        if essay["essay_id"] in by_id:
            yield from differences(Holding(essay), by_id[essay["essay_id"]], about, f"essays[{essay['essay_id']}]")


def user_differences(about: str, expected: Sequence[str], ids: Sequence[str], total: int) -> Iterator[Difference]:
    """A list of batches as paged through, and the total a page named."""
    if total != len(expected):
        yield Difference(about, "pagination.total", len(expected), total)
    if list(ids) != list(expected):
        yield Difference(about, "batches, newest first", list(expected), list(ids))


def published_differences(
    oracle: Oracle, published: Iterable[Published], *, early_grace: bool = False
) -> Iterator[Difference]:
    """What stands on the published topics, against the rules. Messages about other runs' batches are left alone."""
    ours = {batch_id for batch_id in oracle.batch_ids() if oracle.registrations.get(batch_id)}
    domain_events: dict[str, dict[str, Json]] = defaultdict(dict)
    traceparents: dict[str, str | None] = {}
    notifications: dict[str, tuple[Published, Json]] = {}
    times_published: Counter[str] = Counter()
    for message in published:
        envelope = orjson.loads(message.value)
        batch_id = envelope["data"].get("batch_id")
        if batch_id not in ours:
            continue
        event_id = envelope["event_id"]
        times_published[event_id] += 1
        if times_published[event_id] > 1:
            continue
        yield from _header_differences(message, envelope)
        if message.topic == NOTIFICATION:
            notifications[event_id] = (message, envelope)
        else:
            domain_events[batch_id][event_id] = envelope
            traceparents[event_id] = message.headers.get("traceparent", b"").decode() or None
            yield from _key_difference(message, batch_id, event_id)

    for event_id, times in times_published.items():
        if times > 1:
            yield Difference(f"event {event_id}", "times published", 1, times)
    for batch_id in sorted(ours):
        expected = oracle.announcements(batch_id, early_grace=early_grace)
        yield from _domain_event_differences(expected, batch_id, domain_events[batch_id])
        yield from _trace_differences(expected, traceparents)
    yield from _notification_differences(
        oracle, [envelope for events in domain_events.values() for envelope in events.values()], notifications
    )


def _key_difference(message: Published, key: str, event_id: str) -> Iterator[Difference]:
    if message.key != key.encode():
        yield Difference(f"event {event_id}", "key", key, message.key)


def _header_differences(message: Published, envelope: Json) -> Iterator[Difference]:
    about = f"event {envelope['event_id']}"
    expected = {
        "event_id": envelope["event_id"],
        "event_type": message.topic,
        "source_service": envelope["source_service"],
        "schema_version": "1",
        "trace_id": Anything(),
        "content_type": Either(("application/json", "application/json; charset=utf-8")),
    }
    headers = {name: value.decode() for name, value in message.headers.items()}
    yield from differences(Holding(expected), headers, about, "headers")
    if "trace_id" not in headers:
        yield Difference(about, "headers.trace_id", "a trace id", None)
    if _time(headers.get("occurred_at")) != _time(envelope["event_timestamp"]):
        yield Difference(about, "headers.occurred_at", envelope["event_timestamp"], headers.get("occurred_at"))


def _domain_event_differences(
    expected: Announcements, batch_id: str, events: Mapping[str, Json]
) -> Iterator[Difference]:
    about = f"batch {batch_id}"
    results = {event_id for event_id, envelope in events.items() if envelope["event_type"] == RESULTS_READY}
    assessments = {event_id for event_id, envelope in events.items() if envelope["event_type"] == ASSESSMENT_COMPLETED}

    if expected.final and not results & set(expected.final):
        wanted = _summary(expected.possible[expected.final[0]][0].envelope)
        got = [_summary(events[event_id]) for event_id in sorted(results)]
        yield Difference(about, "the final state's announcement", f"{expected.final[0]} {wanted}", got or None)
    for event_id in sorted(results - set(expected.possible)):
        yield Difference(about, "announcement that no order explains", None, f"{event_id} {_summary(events[event_id])}")
    for event_id in sorted(expected.certain_assessments - assessments):
        yield Difference(about, "assessment announcement", event_id, None)
    for event_id in sorted(assessments - set(expected.assessments)):
        yield Difference(about, "assessment announcement of no known job", None, event_id)

    contents = {**expected.possible, **expected.assessments}
    for event_id, envelope in events.items():
        if event_id in contents:
            yield from _content_differences(contents[event_id], envelope)


def _trace_differences(expected: Announcements, traceparents: Mapping[str, str | None]) -> Iterator[Difference]:
    """Each announcement goes on in the trace of the message it comes from, if that has one."""
    for event_id, contents in {**expected.possible, **expected.assessments}.items():
        allowed = {content.traceparent for content in contents}
        if event_id in traceparents and allowed != {None} and traceparents[event_id] not in allowed:
            yield Difference(f"event {event_id}", "headers.traceparent", Either(tuple(allowed)), traceparents[event_id])


def _content_differences(contents: Sequence[Announcement], envelope: Json) -> Iterator[Difference]:
    """None if one of the contents fits; else the differences to the one that comes nearest."""
    about = f"event {envelope['event_id']}"
    found = [list(differences(content.envelope, envelope, about)) for content in contents]
    yield from min(found, key=len)


def _notification_differences(
    oracle: Oracle, domain_events: Sequence[Json], notifications: Mapping[str, tuple[Published, Json]]
) -> Iterator[Difference]:
    unexplained = set(notifications)
    for domain_event in domain_events:
        expected = oracle.notification_of(domain_event)
        event_id = expected["event_id"]
        if event_id not in notifications:
            yield Difference(f"event {domain_event['event_id']}", "its notification", event_id, None)
            continue
        unexplained.discard(event_id)
        message, envelope = notifications[event_id]
        yield from differences(expected, envelope, f"event {event_id}")
        yield from _key_difference(message, domain_event["data"]["user_id"], event_id)
    for event_id in sorted(unexplained):
        yield Difference(f"event {event_id}", "notification of no published event", None, event_id)


def _summary(envelope: Json) -> str:
    data = envelope["data"]
    return f"({data.get('status')}, phases {sorted(data.get('phase_results', {}))})"
