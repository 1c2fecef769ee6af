"""What the outbox benchmark puts in, and how it counts."""

import json
from itertools import islice
from uuid import UUID

from benchmarks.figures import Spread
from benchmarks.outbox import Section, Slice, measured
from benchmarks.outbox_load import Row, copies

_BATCH, _TEACHER = "0a1b2c3d-batch", "the-teacher"


def _row(event_id: int, key: str) -> Row:
    envelope = {
        "event_id": str(UUID(int=event_id)),
        "event_timestamp": "2026-01-01T00:00:00Z",
        "source_service": "result-aggregator-service",
        "schema_version": 1,
        "correlation_id": "c",
        "data": {"batch_id": _BATCH, "user_id": _TEACHER},
    }
    return Row(UUID(int=event_id), "batch", _BATCH, "t.v1", json.dumps(envelope), key, "t.v1", "00-1-2-01")


def test_copies_are_of_a_batch_and_a_teacher_of_their_own_and_say_so_in_ids_keys_and_content() -> None:
    first, its_notification, second, _ = islice(copies([_row(1, _BATCH), _row(2, _TEACHER)], _TEACHER), 4)
    content, told = json.loads(first.event_data), json.loads(its_notification.event_data)
    assert content["event_id"] == str(first.event_id) != told["event_id"] == str(its_notification.event_id)
    assert first.event_key == first.aggregate_id == content["data"]["batch_id"] == told["data"]["batch_id"]
    assert its_notification.event_key == content["data"]["user_id"] == told["data"]["user_id"]
    assert len({_BATCH, first.aggregate_id, second.aggregate_id}) == 3
    assert len({_TEACHER, its_notification.event_key, json.loads(second.event_data)["data"]["user_id"]}) == 3


def test_a_message_is_sent_with_the_headers_that_the_service_sends() -> None:
    headers = dict(_row(1, _BATCH).headers())
    assert headers == {
        "event_id": str(UUID(int=1)).encode(),
        "event_type": b"t.v1",
        "source_service": b"result-aggregator-service",
        "schema_version": b"1",
        "occurred_at": b"2026-01-01T00:00:00Z",
        "trace_id": b"c",
        "content_type": b"application/json",
        "traceparent": b"00-1-2-01",
    }


def test_the_share_of_the_bare_producer_is_taken_round_by_round() -> None:
    relay = Section("relay", lambda: Slice(1.0), slices=[Slice(300, p50=0.002), Slice(25, p50=0.004)])
    bare = Section("bare", lambda: Slice(1.0), slices=[Slice(1000), Slice(50)])
    found = measured(relay, bare)
    assert found.of_bare == Spread(median=0.4, least=0.3, most=0.5)
    assert found.p50_ms == Spread(median=3.0, least=2.0, most=4.0)
    assert found.waiting is None
