"""The decoder: typed events from good messages, one of a closed set of reasons for bad ones, and nothing else ever."""

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from result_aggregator_service.consumer.decoder import Decoder, InvalidMessageError, InvalidReason
from result_aggregator_service.contracts.topics import (
    BATCH_PHASE_OUTCOME,
    CONSUMED,
    ESSAY_NLP_COMPLETED,
    ESSAY_SLOT_ASSIGNED,
)
from tests.hypothesis_profiles import examples
from tests.samples import CONSUMED_NAMES, consumed, consumed_bytes
from tests.unit.contracts.wire import has_the_fields_of

MAX_BYTES = 100_000
DECODER = Decoder(MAX_BYTES)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER_TRACE = "00-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-bbbbbbbbbbbbbbbb-00"


@dataclass
class Lying:
    """What the decoder sees of a record."""

    value: bytes | None
    topic: str = ESSAY_SLOT_ASSIGNED
    headers: Sequence[tuple[str, bytes | None]] = ()


def slot(**changes: Any) -> dict[str, Any]:
    """The sample of a slot, with changes to its envelope or, under `data`, to its payload."""
    message = consumed("essay_slot_assigned")
    message["data"] |= changes.pop("data", {})
    return message | changes


def refused(value: bytes | dict[str, Any] | None, topic: str = ESSAY_SLOT_ASSIGNED) -> InvalidMessageError:
    content = json.dumps(value).encode() if isinstance(value, dict) else value
    with pytest.raises(InvalidMessageError) as caught:
        DECODER.decode(Lying(content, topic))
    return caught.value


@pytest.mark.parametrize("name", CONSUMED_NAMES)
def test_each_sample_becomes_an_event_of_its_topic(name: str) -> None:
    message = consumed(name)
    event = DECODER.decode(Lying(consumed_bytes(name), message["event_type"]))
    assert event.topic == message["event_type"]
    assert str(event.clock.event_id) == message["event_id"]
    assert event.source_service == message["source_service"]
    assert str(event.correlation_id) == message["correlation_id"]
    assert has_the_fields_of(event, CONSUMED[message["event_type"]])


def test_a_null_value_is_bad() -> None:
    assert refused(None).reason is InvalidReason.NULL_VALUE


def test_a_message_may_be_as_large_as_the_limit_and_not_a_byte_larger() -> None:
    message = json.dumps(slot()).encode()
    at_limit = message + b" " * (MAX_BYTES - len(message))
    assert DECODER.decode(Lying(at_limit)).topic == ESSAY_SLOT_ASSIGNED
    error = refused(at_limit + b" ")
    assert error.reason is InvalidReason.TOO_LARGE
    assert str(MAX_BYTES) in error.detail


@pytest.mark.parametrize("field", ["event_type", "ignored"])
def test_invalid_utf8_is_bad_wherever_it_stands(field: str) -> None:
    content = json.dumps(slot(**{field: "MARK"})).encode().replace(b"MARK", b"\xff\xfe")
    assert refused(content).reason is InvalidReason.NOT_UTF8


@pytest.mark.parametrize("invalid", [b"\xff", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"])
def test_invalid_utf8_is_bad_even_in_the_name_of_an_ignored_field(invalid: bytes) -> None:
    content = json.dumps(slot(ignored={"MARK": 1})).encode().replace(b"MARK", invalid)
    assert refused(content).reason is InvalidReason.NOT_UTF8


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"no", b"\xef\xbb\xbf" + consumed_bytes("essay_slot_assigned"), b"{}{}", b'{"a": "\x01"}', b"\x00"],
    ids=["empty", "cut off", "a word", "byte order mark", "two", "a control character", "NUL"],
)
def test_what_is_not_json_is_bad(content: bytes) -> None:
    assert refused(content).reason is InvalidReason.NOT_JSON


@pytest.mark.parametrize("content", [b"[]", b"1", b"null", b'"text"', b"{}"])
def test_json_that_is_not_an_envelope_is_bad(content: bytes) -> None:
    assert refused(content).reason is InvalidReason.WRONG_SCHEMA


def test_the_error_names_the_field_and_not_its_value() -> None:
    error = refused(slot(data={"essay_id": 4711}))
    assert error.reason is InvalidReason.WRONG_SCHEMA
    assert "data.essay_id" in error.detail
    assert "4711" not in error.detail


def test_of_many_errors_only_some_are_told() -> None:
    error = refused(b"{}")
    assert len(error.detail) < 1000
    assert "and 1 more" in error.detail


def test_of_a_list_only_the_first_bad_element_is_told_so_that_millions_cost_neither_time_nor_memory() -> None:
    many = {
        **consumed("els_batch_phase_outcome.spellcheck"),
        "data": {"failed_essay_ids": [0] * 50, "processed_essays": [{}] * 50, "batch_id": "b", "phase_name": "nlp"},
    }
    detail = refused(many, BATCH_PHASE_OUTCOME).detail
    assert "data.failed_essay_ids.0" in detail
    assert "data.processed_essays.0.essay_id" in detail
    assert ".1" not in detail
    message = consumed("essay_nlp_completed")
    message["data"]["nlp_metrics"] = dict.fromkeys(map(str, range(50)), float("nan"))
    assert refused(message, ESSAY_NLP_COMPLETED).detail == "data.nlp_metrics: number is not finite"


@pytest.mark.parametrize("odd", [r"\u0000", r"\ud800", r"\n\r", r"\u2028"])
def test_the_error_is_one_line_that_any_column_holds(odd: str) -> None:
    for field in ("event_id", "event_type"):
        detail = refused(json.dumps(slot(**{field: "MARK"})).replace("MARK", odd).encode()).detail
        assert detail.isprintable()


def test_the_error_quotes_no_text_that_is_no_topics_name() -> None:
    assert "teacher" not in refused(slot(event_type="Dear teacher, once upon a time")).detail


def test_a_message_that_calls_itself_by_another_topics_name_is_bad() -> None:
    error = refused(slot(event_type=BATCH_PHASE_OUTCOME))
    assert error.reason is InvalidReason.WRONG_TOPIC
    assert BATCH_PHASE_OUTCOME in error.detail


@pytest.mark.parametrize("escaped", [r"\ud800", r"\udfff", r"\udc00\ud800", r"x\ud83dy"])
def test_a_lone_surrogate_is_bad_in_a_kept_field_and_harmless_in_an_ignored_one(escaped: str) -> None:
    kept = json.dumps(slot(data={"original_file_name": "MARK"})).replace("MARK", escaped)
    error = refused(kept.encode())
    assert error.reason is InvalidReason.WRONG_SCHEMA
    assert "original_file_name" in error.detail
    ignored = json.dumps(slot(ignored={"MARK": ["MARK"]})).replace("MARK", escaped)
    assert DECODER.decode(Lying(ignored.encode())) == DECODER.decode(Lying(json.dumps(slot()).encode()))


def test_a_surrogate_pair_is_a_character_like_any_other() -> None:
    content = json.dumps(slot(data={"original_file_name": "MARK"})).replace("MARK", r"\ud83d\ude00").encode()
    assert DECODER.decode(Lying(content)).payload["original_file_name"] == "\U0001f600"


def test_a_character_beside_a_lone_surrogate_elsewhere_survives_as_it_is() -> None:
    content = json.dumps(slot(data={"original_file_name": "ö\n\\"}, ignored="MARK")).replace("MARK", r"\ud800").encode()
    assert DECODER.decode(Lying(content)).payload["original_file_name"] == "ö\n\\"


def test_a_nul_is_bad_in_a_kept_field_and_harmless_in_an_ignored_one() -> None:
    assert refused(slot(data={"essay_id": "e\x00"})).reason is InvalidReason.WRONG_SCHEMA
    assert DECODER.decode(Lying(json.dumps(slot(ignored="\x00")).encode())).topic == ESSAY_SLOT_ASSIGNED


@pytest.mark.parametrize(("length", "good"), [(255, True), (256, False), (0, False)])
def test_an_id_has_1_to_255_characters(length: int, good: bool) -> None:
    message = slot(data={"essay_id": "é" * length})
    if good:
        assert DECODER.decode(Lying(json.dumps(message).encode()))
    else:
        assert refused(message).reason is InvalidReason.WRONG_SCHEMA


@pytest.mark.parametrize("depth", [40, 190, 250, 900, 30_000])
def test_deep_nesting_is_bad_where_it_is_kept_and_breaks_nothing_anywhere(depth: int) -> None:
    nested = "[" * depth + "]" * depth
    message = consumed("essay_nlp_completed")
    message["data"]["nlp_metrics"]["deep"] = "MARK"
    assert refused(json.dumps(message).replace('"MARK"', nested).encode(), ESSAY_NLP_COMPLETED).reason in (
        InvalidReason.WRONG_SCHEMA,
        InvalidReason.NOT_JSON,
    )
    ignored = json.dumps(slot(ignored="MARK", lone="LONE")).replace('"MARK"', nested)
    for content in (ignored, ignored.replace("LONE", r"\ud800")):
        _decodes_or_is_refused(content.encode(), ESSAY_SLOT_ASSIGNED)


@pytest.mark.parametrize(
    ("headers", "metadata", "expected"),
    [
        ([("traceparent", TRACE.encode())], {"traceparent": OTHER_TRACE}, TRACE),
        ([("traceparent", b"\xff")], {"traceparent": OTHER_TRACE}, OTHER_TRACE),
        ([("traceparent", None)], {"traceparent": OTHER_TRACE}, OTHER_TRACE),
        ([("traceparent", b"bad"), ("traceparent", TRACE.encode())], None, TRACE),
        ([("Traceparent", TRACE.encode())], None, None),
        ([], {"traceparent": OTHER_TRACE}, OTHER_TRACE),
        ([], {"traceparent": OTHER_TRACE + "\n"}, None),
        ([], {"traceparent": 7}, None),
        ([], {"traceparent": TRACE.upper()}, None),
        ([], {}, None),
        ([], None, None),
    ],
)
def test_the_trace_is_that_of_the_headers_else_of_the_metadata(
    headers: list[tuple[str, bytes | None]], metadata: dict[str, object] | None, expected: str | None
) -> None:
    content = json.dumps(slot(metadata=metadata)).encode()
    assert DECODER.decode(Lying(content, headers=headers)).traceparent == expected


def _decodes_or_is_refused(content: bytes | None, topic: str) -> None:
    """Any other exception than the one is a failure."""
    with contextlib.suppress(InvalidMessageError):
        event = DECODER.decode(Lying(content, topic))
        assert event.topic == topic
        json.dumps(event.payload, ensure_ascii=False).encode()  # what is kept is text that UTF-8 has


@examples(20)
@given(content=st.none() | st.binary(max_size=300), topic=st.sampled_from(sorted(CONSUMED)))
@example(content=b"\xed\xa0\x80", topic=ESSAY_SLOT_ASSIGNED)
@example(content=b'{"a": 1e999}', topic=ESSAY_SLOT_ASSIGNED)
@example(content=b"1" * 5000, topic=ESSAY_SLOT_ASSIGNED)
def test_no_bytes_whatever_make_it_raise_anything_else(content: bytes | None, topic: str) -> None:
    _decodes_or_is_refused(content, topic)
