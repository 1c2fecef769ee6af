"""A performance before the referee: what the demo says of a service that is right, and of one that is not."""

import io
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import orjson
import pytest
from confluent_kafka import Consumer
from rich.console import Console

from demo.oracle import Anything, Either, Holding, OneLine, Oracle
from demo.performance import Performance, perform
from demo.player import Player
from demo.report import Report
from demo.stories import STORIES, Story
from demo.traffic import traffic
from demo.verdict import Published
from demo.wire import NOTIFICATION, Message
from embedded.mock_kafka import MockKafka

Json = dict[str, Any]


def as_json(expected: object) -> Any:
    """A value that a right service could give for what the oracle expects."""
    match expected:
        case Holding(members) | dict(members):
            return {name: as_json(member) for name, member in members.items()}
        case list(members):
            return [as_json(member) for member in members]
        case Either(values):
            return as_json(values[0])
        case OneLine() | Anything():
            return "anything"
        case None | str() | int() | float():
            return expected
        case _:
            return expected.isoformat()  # type: ignore[attr-defined]


class RightService:
    """Broker and service in one: folds at once, answers and publishes as the oracle expects."""

    def __init__(self, oracle: Oracle, messages: Sequence[Message]) -> None:
        self.oracle = oracle
        self.messages = messages
        self.played = 0

    def mark_the_start(self) -> None:
        self.played = 0

    def play(self, messages: Sequence[Message], on_progress: Callable[[int], None]) -> None:
        self.played = len(messages)

    def folded(self) -> int:
        return self.played

    def published(self) -> list[Published]:
        found = []
        for batch_id in self.oracle.batch_ids():
            expected = self.oracle.announcements(batch_id)
            chosen = [expected.possible[event_id][0] for event_id in expected.final[:1]]
            for announcement in chosen + [contents[0] for contents in expected.assessments.values()]:
                envelope = as_json(announcement.envelope)
                traceparent = announcement.traceparent
                found.append(_published(announcement.topic, batch_id, envelope, traceparent))
                notification = as_json(self.oracle.notification_of(envelope))
                found.append(_published(NOTIFICATION, announcement.user_id, notification, traceparent))
        return found

    def batch(self, batch_id: str) -> Json | None:
        answer = self.oracle.answer(batch_id)
        return None if answer is None else as_json(answer)

    def user(self, user_id: str, **query: str) -> tuple[list[str], set[int]]:
        answers = {batch_id: self.oracle.answer(batch_id) or {} for batch_id in self.oracle.users()[user_id]}
        wanted = query.get("status")
        ids = [
            batch_id
            for batch_id, answer in answers.items()
            if wanted is None or wanted in (answer["overall_status"], answer["client_status"])
        ]
        return ids, {len(ids)}

    def quarantined(self) -> Counter[str]:
        if not self.played:
            return Counter()
        return Counter(self.messages[index].topic for index in self.oracle.quarantined)


def _published(topic: str, key: str, envelope: Json, traceparent: str | None) -> Published:
    headers = {
        "event_id": envelope["event_id"],
        "event_type": topic,
        "trace_id": envelope["correlation_id"],
        "source_service": envelope["source_service"],
        "schema_version": "1",
        "occurred_at": envelope["event_timestamp"],
        "content_type": "application/json",
    }
    if traceparent is not None:
        headers["traceparent"] = traceparent
    encoded = {name: text.encode() for name, text in headers.items()}
    return Published(topic, key.encode(), orjson.dumps(envelope), encoded)


def performed(service: RightService) -> Performance:
    steps: list[int] = []
    return perform(
        service.messages,
        service.oracle,
        service,
        service,
        grace_seconds=-20.0,  # as long as the wait for all to settle: a wrong service is not waited for
        playing=steps.append,
        folding=steps.append,
        settling=steps.append,
        check_service=lambda: None,
    )


@pytest.fixture(scope="module")
def messages() -> list[Message]:
    return list(traffic(seed=21, batches=8))


@pytest.fixture(scope="module")
def oracle(messages: list[Message]) -> Oracle:
    return Oracle(messages)


def test_a_right_service_passes(oracle: Oracle, messages: list[Message]) -> None:
    outcome = performed(RightService(oracle, messages))
    assert outcome.differences == []
    assert outcome.messages == len(messages)
    assert outcome.duplicates > 0


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.__name__)
def test_a_right_service_passes_in_every_story(story: Story) -> None:
    messages = list(traffic(seed=11, batches=2, stories=[story]))
    assert performed(RightService(Oracle(messages), messages)).differences == []


def test_a_service_that_forgets_one_announcement_fails(oracle: Oracle, messages: list[Message]) -> None:
    class Forgetful(RightService):
        def published(self) -> list[Published]:
            return super().published()[2:]

    assert {each.field for each in performed(Forgetful(oracle, messages)).differences} & {
        "the final state's announcement",
        "assessment announcement",
    }


def test_a_service_that_announces_twice_fails(oracle: Oracle, messages: list[Message]) -> None:
    class Repeating(RightService):
        def published(self) -> list[Published]:
            return super().published() * 2

    assert {each.field for each in performed(Repeating(oracle, messages)).differences} == {"times published"}


def test_a_service_that_loses_the_trace_fails(oracle: Oracle, messages: list[Message]) -> None:
    class Untraced(RightService):
        def published(self) -> list[Published]:
            found = super().published()
            return [Published(each.topic, each.key, each.value, _without_trace(each)) for each in found]

    assert {each.field for each in performed(Untraced(oracle, messages)).differences} == {"headers.traceparent"}


def _without_trace(message: Published) -> dict[str, bytes]:
    return {name: value for name, value in message.headers.items() if name != "traceparent"}


def test_a_service_that_quarantines_a_good_message_fails(oracle: Oracle, messages: list[Message]) -> None:
    class Picky(RightService):
        def quarantined(self) -> Counter[str]:
            return super().quarantined() + Counter({messages[0].topic: 1 if self.played else 0})

    assert [each.field for each in performed(Picky(oracle, messages)).differences] == ["messages in quarantine"]


def test_a_service_that_lists_a_batch_in_the_wrong_place_fails(oracle: Oracle, messages: list[Message]) -> None:
    class Unsorted(RightService):
        def user(self, user_id: str, **query: str) -> tuple[list[str], set[int]]:
            ids, totals = super().user(user_id, **query)
            return ids[::-1], totals

    assert {each.field for each in performed(Unsorted(oracle, messages)).differences} == {"batches, newest first"}


def test_the_report_names_the_batch_and_the_field_that_differ(oracle: Oracle, messages: list[Message]) -> None:
    class Miscounting(RightService):
        def batch(self, batch_id: str) -> Json | None:
            answer = super().batch(batch_id)
            return answer and answer | {"completed_essay_count": -1}

    outcome = performed(Miscounting(oracle, messages))
    text = io.StringIO()
    report = Report(Console(file=text, width=100))
    report.result(outcome)
    report.verdict(outcome)
    registered = [batch_id for batch_id, answer in outcome.answers.items() if answer is not None]
    assert len(outcome.differences) == len(registered)
    for shown in ("Events per second", "completed_essay_count: expected", *registered):
        assert shown in text.getvalue()


def test_the_player_counts_what_a_group_has_committed_and_reads_only_what_came_after_its_start() -> None:
    played = list(traffic(seed=1, batches=2))
    published = Message("huleedu.ras.batch.results.ready.v1", b"key", b"{}", [("event_id", b"1")])
    with MockKafka() as kafka, Player(kafka.bootstrap_servers, "group") as player:
        player.play([*played[:50], published], lambda _: None)
        player.mark_the_start()
        player.play([*played, published], lambda _: None)
        consumer = Consumer(
            {
                "bootstrap.servers": kafka.bootstrap_servers,
                "group.id": "group",
                "auto.offset.reset": "earliest",
                "log_level": 3,
            }
        )
        consumer.subscribe(list({each.topic for each in played}))
        assert player.folded() == 0
        left = len(played) + 50
        while left:
            taken = consumer.consume(left, timeout=10.0)
            assert taken, f"{left} messages did not come"
            left -= len(taken)
        consumer.commit(asynchronous=False)
        consumer.close()
        assert player.folded() == len(played)
        assert [(each.key, each.value, each.headers) for each in player.published()] == [
            (b"key", b"{}", {"event_id": b"1"})
        ]
