"""The demo's traffic: deterministic, shaped like the producers' own messages, with everything that goes wrong."""

import json
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import pytest

from demo.batch import Batch
from demo.broken import BROKEN
from demo.stories import STORIES, ordinary
from demo.traffic import traffic
from demo.wire import PAYLOADS, BadMessage, Message, read

SAMPLES = Path(__file__).parents[2] / "samples" / "consumed"
PARTITION_LIMIT_BYTES = 5_000_000


@pytest.fixture(scope="module")
def played() -> list[Message]:
    return list(traffic())


def layout(value: object, path: str = "") -> set[str]:
    """The paths of all fields; what error_info, references, grammar counts and metadata hold is free."""
    if isinstance(value, dict):
        if path.endswith(("error_info", "corrected_text", "_counts", "requested_pipelines", "references")):
            return {path}
        return {path} | {name for key, member in value.items() for name in layout(member, f"{path}.{key}")}
    if isinstance(value, list):
        return {path} | {name for member in value if isinstance(member, dict) for name in layout(member, f"{path}[]")}
    return {path}


def good(messages: list[Message]) -> list[tuple[Message, dict[str, Any]]]:
    found = []
    for message in messages:
        try:
            read(message)
        except BadMessage:
            continue
        found.append((message, json.loads(message.value or b"")))
    return found


def test_the_same_arguments_give_the_same_bytes_in_the_same_order(played: list[Message]) -> None:
    assert list(traffic()) == played


@pytest.mark.parametrize("other", [{"seed": 2}, {"run": "again"}])
def test_another_seed_or_run_label_shares_no_id_with_it(played: list[Message], other: dict[str, Any]) -> None:
    def ids(messages: list[Message]) -> set[str]:
        found = set()
        for _, envelope in good(messages):
            data = envelope["data"]
            found |= {envelope["event_id"], str(data.get("batch_id")), str(data.get("entity_id"))}
            found |= {str(data.get("user_id")), str(data.get("essay_id"))}
        return found - {"None"}

    assert not ids(played) & ids(list(traffic(**other)))


def test_every_topic_of_the_specification_is_in_it_in_every_form(played: list[Message]) -> None:
    assert {message.topic for message in played} == set(PAYLOADS)
    payloads = [envelope["data"] for _, envelope in good(played)]
    assert any("rankings" in data for data in payloads)
    assert any("processing_summary" in data for data in payloads)
    assert any(data.get("phase_name") == "student_matching" for data in payloads)
    assert any(data.get("processing_metadata") == {} for data in payloads), "NLP that names no batch"
    assert any("requested_pipelines" in data for data in payloads)
    assert any(data.get("final_status") == "cancelled" for data in payloads)


def test_messages_are_laid_out_field_for_field_like_the_producers_own(played: list[Message]) -> None:
    samples: dict[str, list[set[str]]] = {}
    for path in SAMPLES.glob("*.json"):
        envelope = json.loads(path.read_text())
        samples.setdefault(envelope["event_type"], []).append(layout(envelope["data"], "data"))
    for message, envelope in good(played):
        given = layout(envelope["data"], "data") - {"data.requested_pipelines"}
        # A null or an empty list in place of an object or of members lacks the paths below it.
        known = set.union(*samples[message.topic])
        assert given <= known, (message.topic, given - known)
        assert any(
            {path for path in sample if path.count(".") == 1 and "[" not in path} <= given
            for sample in samples[message.topic]
        ), message.topic


def test_most_messages_carry_the_headers_producers_set_and_some_carry_none(played: list[Message]) -> None:
    named = Counter(len([name for name, _ in message.headers if name != "traceparent"]) for message in played)
    assert set(named) == {0, 7}
    assert named[0] < named[7] / 5
    traced = [message for message in played if any(name == "traceparent" for name, _ in message.headers)]
    in_metadata = [envelope for _, envelope in good(played) if envelope["metadata"]]
    assert traced
    assert in_metadata


def test_some_messages_come_twice_byte_for_byte(played: list[Message]) -> None:
    times = Counter((message.topic, message.value) for message, _ in good(played))
    assert 20 < sum(1 for count in times.values() if count > 1) < len(played) / 10


def test_topics_overtake_each_other(played: list[Message]) -> None:
    moments = [envelope["event_timestamp"] for _, envelope in good(played)]
    assert sum(later < earlier for earlier, later in pairwise(moments)) > 100


def test_every_kind_of_broken_message_is_in_the_default_traffic_and_is_bad_by_the_rules() -> None:
    for kind, spoil in BROKEN.items():
        topic, value = spoil(_told_batch())
        with pytest.raises(BadMessage):
            read(Message(topic, b"", value, []))
        assert kind
    with_broken, without = list(traffic()), list(traffic(broken=False))
    bad = len(with_broken) - len(good(with_broken))
    assert len(BROKEN) <= bad < 2 * len(BROKEN)
    assert len(good(without)) == len(without)


def _told_batch() -> Batch:
    batch = Batch(0, 1, "test")
    ordinary(batch)
    return batch


def test_forty_batches_tell_every_story() -> None:
    assert len(STORIES) <= 40


def test_the_demos_traffic_stays_far_below_what_a_partition_of_the_mock_broker_holds(played: list[Message]) -> None:
    size: Counter[str] = Counter()
    for message in played:
        size[message.topic] += len(message.value or b"") + sum(
            len(name) + len(text or b"") for name, text in message.headers
        )
    assert max(size.values()) < PARTITION_LIMIT_BYTES / 2


def test_it_is_made_as_it_is_taken() -> None:
    assert len(list(islice(traffic(batches=10**9), 2000))) == 2000
