"""What makes a message bad in a field that is kept, and does no harm in one that is not."""

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from result_aggregator_service.consumer.decoder import InvalidMessageError
from result_aggregator_service.contracts import consumed
from result_aggregator_service.contracts.fields import (
    MAX_JSON_DEPTH,
    Count,
    Id,
    Int32,
    JsonObject,
    Real,
    Timestamp,
    seconds_between,
    wire_time,
)
from tests import samples
from tests.hypothesis_profiles import examples
from tests.unit.contracts.wire import Path, Record, changed, decoded, is_bad

NUL, SURROGATE = r'"a\u0000b"', r'"a\ud800b"'
LOW_SURROGATE, SURROGATES_REVERSED = r'"\udc00"', r'"\udc00\ud800"'
NOT_TEXT = ["5", "true", "1.5", "[]", "{}"]
BAD_TEXT = [NUL, SURROGATE, LOW_SURROGATE, SURROGATES_REVERSED, *NOT_TEXT]
BAD_ID = [*BAD_TEXT, '""', json.dumps("x" * 256), json.dumps("😀" * 256), "null"]
BAD_INTEGER = ['"5"', "true", "1.0", "1e3", "NaN", "Infinity", "-Infinity", "1e999", "1" + "0" * 22, "[]", "2147483648"]
BAD_COUNT = [*BAD_INTEGER, "-1", "-2147483648"]
BAD_REAL = ['"0.5"', "true", "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "1" + "0" * 400, "[]"]
BAD_TIME = [
    '"2026-03-02T08:00:00"',
    '"2026-03-02"',
    '"08:00:00Z"',
    "1772438400",
    "1772438400.5",
    '"1772438400"',
    '"2026-03-02T08:00Z"',
    '"2026-02-30T08:00:00Z"',
    '"2026-03-02T24:00:00Z"',
    '"2026-03-02T08:00:60Z"',
    '"2026-03-02T08:00:00+24:00"',
    '"2026-03-02T08:00:00+05:75"',
    '"2026-03-02T08:00:00,5Z"',
    '"\u0662026-03-02T08:00:00Z"',
    '"2026-03-02T08:00:00.1234567\u0662Z"',
    '"2026-03-02T08:00:00 Europe/Stockholm"',
    '"0000-01-01T00:00:00Z"',
    '"0001-01-01T00:00:00+05:00"',
    '"0001-01-01T00:00:00Z"',
    '"9999-12-31T23:59:59.999999-05:00"',
    '"9999-12-31T23:59:59Z"',
    '"10000-01-01T00:00:00Z"',
    '"-2026-03-02T08:00:00Z"',
    '"yesterday"',
    '""',
    "null",
    "true",
]
BAD_JSON = [
    r'{"a": "\u0000"}',
    r'{"\u0000": 1}',
    r'{"a": ["\ud800"]}',
    r'{"\udc00": 1}',
    '{"a": NaN}',
    '{"a": [-Infinity]}',
    '{"a": 1e999}',
    '{"a": 9223372036854775808}',
    '{"a": -9223372036854775809}',
    '{"a": 1' + "0" * 400 + "}",
    '{"a": ' + "[" * MAX_JSON_DEPTH + "]" * MAX_JSON_DEPTH + "}",
    '{"a":' * MAX_JSON_DEPTH + "1" + "}" * MAX_JSON_DEPTH,
    "[1]",
    '"text"',
]
BAD_PHASE = ['"proofreading"', '"SPELLCHECK"', '""', "null", "5"]
BAD_FINAL_STATUS = [
    '"processing_pipelines"',
    '"ready_for_pipeline_execution"',
    '"COMPLETED_SUCCESSFULLY"',
    '"done"',
    "null",
    "1",
]
BAD_LIST = ["null", "{}", '"e1"', "[null]", "5"]

REGISTERED, SLOT, OUTCOME = "batch_essays_registered", "essay_slot_assigned", "els_batch_phase_outcome.spellcheck"
CHECKED, CHECK_FAILED, RICH = "spellcheck_completed", "spellcheck_completed.failed", "spellcheck_results"
RANKED, THIN, CJ_FAILED = "cj_assessment_completed", "cj_assessment_completed.thin", "cj_assessment_failed"
ASSESSED, END = "assessment_result_published", "batch_pipeline_completed"
NLP, FEEDBACK = "essay_nlp_completed", "essay_aifeedback_completed"

KEPT: list[tuple[str, Path, list[str]]] = [
    # the envelope
    (SLOT, ("event_id",), ['"no uuid"', "5", "null", '""', NUL]),
    (SLOT, ("correlation_id",), ['"no uuid"', "null"]),
    (SLOT, ("event_timestamp",), BAD_TIME),
    (SLOT, ("event_type",), ['"huleedu.els.essay.slot.assigned.v2"', "null", NUL]),
    (SLOT, ("source_service",), [*BAD_TEXT, "null"]),
    (SLOT, ("schema_version",), ["2", "0", "-1", '"1"', "true", "1.0", "null"]),
    (SLOT, ("data",), ["null", "[]", '"text"', "{}"]),
    (SLOT, ("metadata",), ["[]", '"text"', "5"]),
    # payloads
    (REGISTERED, ("data", "entity_id"), BAD_ID),
    (REGISTERED, ("data", "user_id"), BAD_ID),
    (REGISTERED, ("data", "expected_essay_count"), [*BAD_COUNT, "null"]),
    (REGISTERED, ("data", "essay_ids"), BAD_LIST),
    (REGISTERED, ("data", "essay_ids", 1), BAD_ID),
    (REGISTERED, ("data", "course_code"), BAD_TEXT),
    (REGISTERED, ("data", "class_id"), BAD_ID[:-1]),
    (REGISTERED, ("data", "org_id"), BAD_ID[:-1]),
    (REGISTERED, ("data", "student_prompt_ref"), BAD_JSON),
    (REGISTERED, ("data", "requested_pipelines"), BAD_LIST[1:]),
    (SLOT, ("data", "batch_id"), BAD_ID),
    (SLOT, ("data", "essay_id"), BAD_ID),
    (SLOT, ("data", "text_storage_id"), BAD_ID),
    (SLOT, ("data", "file_upload_id"), BAD_ID[:-1]),
    (SLOT, ("data", "original_file_name"), BAD_TEXT),
    (OUTCOME, ("data", "batch_id"), BAD_ID),
    (OUTCOME, ("data", "phase_name"), BAD_PHASE),
    (OUTCOME, ("data", "phase_status"), BAD_FINAL_STATUS),
    (OUTCOME, ("data", "processed_essays"), BAD_LIST),
    (OUTCOME, ("data", "processed_essays", 0, "essay_id"), BAD_ID),
    (OUTCOME, ("data", "failed_essay_ids"), BAD_LIST),
    (OUTCOME, ("data", "failed_essay_ids", 0), BAD_ID),
    (CHECKED, ("data", "system_metadata"), ["null", "[]", "{}"]),
    (CHECKED, ("data", "system_metadata", "entity_id"), BAD_ID),
    (CHECKED, ("data", "system_metadata", "parent_id"), BAD_ID[:-1]),
    (CHECKED, ("data", "status"), [*BAD_TEXT, "null"]),
    (CHECKED, ("data", "corrections_made"), BAD_COUNT),
    (CHECKED, ("data", "storage_metadata", "references", "corrected_text", "storage_id"), [*BAD_TEXT, BAD_ID[-2]]),
    (CHECK_FAILED, ("data", "system_metadata", "error_info", "error_code"), BAD_TEXT),
    (CHECK_FAILED, ("data", "system_metadata", "error_info", "error_message"), BAD_TEXT),
    (CHECK_FAILED, ("data", "system_metadata", "error_info", "context"), BAD_JSON),
    (RICH, ("data", "entity_id"), BAD_ID),
    (RICH, ("data", "batch_id"), BAD_ID),
    (RICH, ("data", "status"), [*BAD_TEXT, "null"]),
    (RICH, ("data", "corrections_made"), BAD_COUNT),
    (RICH, ("data", "correction_metrics", "word_count"), BAD_COUNT),
    (RICH, ("data", "correction_metrics", "correction_density"), BAD_REAL),
    (RICH, ("data", "corrected_text_storage_id"), BAD_ID[:-1]),
    (RICH, ("data", "processing_duration_ms"), BAD_COUNT),
    (RICH, ("data", "processor_version"), BAD_TEXT),
    (RANKED, ("data", "entity_id"), BAD_ID),
    (RANKED, ("data", "cj_assessment_job_id"), BAD_ID),
    (RANKED, ("data", "rankings"), BAD_LIST[1:]),
    (RANKED, ("data", "rankings", 0, "els_essay_id"), BAD_ID),
    (RANKED, ("data", "rankings", 0, "rank"), [*BAD_INTEGER, "-2147483649"]),
    (RANKED, ("data", "rankings", 0, "score"), BAD_REAL),
    (THIN, ("data", "processing_summary", "successful_essay_ids", 0), BAD_ID),
    (THIN, ("data", "processing_summary", "failed_essay_ids"), BAD_LIST),
    (CJ_FAILED, ("data", "entity_id"), BAD_ID),
    (CJ_FAILED, ("data", "system_metadata", "error_info", "error_message"), BAD_TEXT),
    (ASSESSED, ("data", "batch_id"), BAD_ID),
    (ASSESSED, ("data", "cj_assessment_job_id"), BAD_ID),
    (ASSESSED, ("data", "assignment_id"), BAD_ID[:-1]),
    (ASSESSED, ("data", "essay_results"), BAD_LIST),
    (ASSESSED, ("data", "essay_results", 0, "essay_id"), BAD_ID),
    (ASSESSED, ("data", "essay_results", 0, "is_anchor"), ['"true"', "1", "null"]),
    (ASSESSED, ("data", "essay_results", 0, "rank"), BAD_INTEGER),
    (ASSESSED, ("data", "essay_results", 0, "bt_score"), BAD_REAL),
    (ASSESSED, ("data", "essay_results", 0, "normalized_score"), BAD_REAL),
    (ASSESSED, ("data", "essay_results", 0, "confidence_score"), BAD_REAL),
    (ASSESSED, ("data", "essay_results", 0, "letter_grade"), BAD_TEXT),
    (ASSESSED, ("data", "essay_results", 0, "confidence_label"), BAD_TEXT),
    (ASSESSED, ("data", "assessment_metadata", "comparison_count"), BAD_COUNT),
    (END, ("data", "batch_id"), BAD_ID),
    (END, ("data", "completed_phases"), BAD_LIST),
    (END, ("data", "completed_phases", 0), BAD_PHASE),
    (END, ("data", "final_status"), BAD_FINAL_STATUS),
    (END, ("data", "processing_duration_seconds"), BAD_REAL),
    (END, ("data", "successful_essay_count"), BAD_COUNT),
    (END, ("data", "failed_essay_count"), BAD_COUNT),
    (NLP, ("data", "essay_id"), BAD_ID),
    (NLP, ("data", "parent_id"), BAD_ID[:-1]),
    (NLP, ("data", "processing_metadata", "batch_id"), BAD_ID[:-1]),
    (NLP, ("data", "nlp_metrics"), ["null", "[]", "5", r'{"\u0000": 1}', r'{"\ud800": 1}']),
    (NLP, ("data", "nlp_metrics", "word_count"), BAD_COUNT),
    (NLP, ("data", "nlp_metrics", "mtld_score"), BAD_REAL),
    (NLP, ("data", "nlp_metrics", "first_order_coherence"), BAD_REAL),
    (NLP, ("data", "nlp_metrics", "a metric of tomorrow"), BAD_JSON[:-2]),
    (NLP, ("data", "grammar_analysis", "error_count"), BAD_COUNT),
    (FEEDBACK, ("data", "system_metadata", "entity_id"), BAD_ID),
    (FEEDBACK, ("data", "feedback_details"), BAD_JSON),
    (FEEDBACK, ("data", "additional_metrics"), BAD_JSON),
    (FEEDBACK, ("data", "feedback_content_storage_id"), BAD_ID[:-1]),
]


@pytest.mark.parametrize(("name", "path", "values"), KEPT, ids=[".".join(map(str, (n, *p))) for n, p, _ in KEPT])
def test_a_bad_value_in_a_field_that_is_kept_makes_the_message_bad(name: str, path: Path, values: list[str]) -> None:
    accepted = [value for value in values if not is_bad(changed(name, path, value))]
    assert accepted == []


HARMLESS = [
    *BAD_TEXT,
    '""',
    json.dumps("x" * 100_000),
    "NaN",
    "-Infinity",
    "1e999",
    "1" + "0" * 400,
    "null",
    r'{"\u0000": ["\ud800", NaN, 9223372036854775808]}',
    "[" * 100 + "]" * 100,
    '"2026-03-02T08:00:00"',
]


@pytest.mark.parametrize("value", HARMLESS, ids=range(len(HARMLESS)))
@pytest.mark.parametrize("name", samples.CONSUMED_NAMES)
def test_no_value_of_an_unknown_field_does_any_harm(name: str, value: str) -> None:
    message = samples.consumed(name)
    known = decoded(Record(message["event_type"], samples.consumed_bytes(name)))
    for path in (("a field of tomorrow",), ("data", "a field of tomorrow")):
        assert decoded(changed(name, path, value)) == known


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (OUTCOME, ("data", "processed_essays", 0, "text_storage_id")),
        (CHECKED, ("data", "storage_metadata", "references", "original_text")),
        (CHECKED, ("data", "storage_metadata", "references", "corrected_text", "path")),
        (CHECKED, ("data", "storage_metadata", "references", "corrected_text", "size")),
        (CHECKED, ("data", "storage_metadata", "storage")),
        (CHECKED, ("data", "system_metadata", "processing_stage")),
        (RANKED, ("data", "status")),
        (ASSESSED, ("data", "essay_results", 0, "display_name")),
        (END, ("data", "metadata")),
        (NLP, ("data", "grammar_analysis", "errors")),
    ],
)
def test_a_field_that_is_known_to_the_producers_but_not_kept_does_no_harm_either(name: str, path: Path) -> None:
    message = samples.consumed(name)
    known = decoded(Record(message["event_type"], samples.consumed_bytes(name)))
    refused = [value for value in HARMLESS if is_bad(changed(name, path, value))]
    assert refused == []
    assert decoded(changed(name, path, '"anything"')) == known


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ('{"storage_id": "s", "path": "p"}', "s"),
        ('{"path": "p", "storage_id": "s"}', "s"),
        ('{"path": "p"}', "p"),
        ('{"a": "first", "b": "second"}', "first"),
        ('{"storage_id": "", "path": "p"}', "p"),
        ('{"storage_id": null, "path": "p"}', "p"),
        ('{"storage_id": "s", "size": 5}', "s"),
        ('{"path": ""}', None),
        ("{}", None),
        ("null", None),
    ],
)
def test_a_corrected_text_is_its_storage_id_else_its_first_value(reference: str, expected: str | None) -> None:
    record = changed(CHECKED, ("data", "storage_metadata", "references", "corrected_text"), reference)
    assert decoded(record).payload["storage_metadata"]["references"]["corrected_text"] == expected


@pytest.mark.parametrize("reference", ['"text"', "[]", "5", '{"path": 5}', r'{"path": "\u0000"}'])
def test_a_corrected_text_that_is_no_text_makes_the_message_bad(reference: str) -> None:
    assert is_bad(changed(CHECKED, ("data", "storage_metadata", "references", "corrected_text"), reference))


@pytest.mark.parametrize("raw", ["null", "{}", '{"references": {}}', '{"references": {"other": {"storage_id": "x"}}}'])
def test_a_spell_check_without_a_corrected_text_is_none_the_worse(raw: str) -> None:
    assert not is_bad(changed(CHECKED, ("data", "storage_metadata"), raw))


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"not json", "not_json"),
        (b'{"a": \xff}', "not_utf8"),
        (b"", "not_json"),
        (b"5", "wrong_schema"),
        (None, "null"),
    ],
)
def test_what_is_no_json_object_is_bad(value: bytes | None, said: str) -> None:
    with pytest.raises(InvalidMessageError, match=said):
        decoded(Record(samples.consumed(SLOT)["event_type"], value))


def test_every_required_field_is_missed() -> None:
    for name, field in ((SLOT, "batch_id"), (OUTCOME, "phase_status"), (RICH, "batch_id"), (END, "completed_phases")):
        message = samples.consumed(name)
        del message["data"][field]
        assert is_bad(Record(message["event_type"], json.dumps(message).encode()))


def test_an_error_may_say_message_for_error_message() -> None:
    info = TypeAdapter(consumed.ErrorInfo).validate_json('{"message": "told otherwise"}')
    assert info == {"error_message": "told otherwise"}


# The fields by themselves.

ID, COUNT, INT32 = TypeAdapter(Id), TypeAdapter(Count), TypeAdapter(Int32)
REAL, TIME = TypeAdapter(Real), TypeAdapter(Timestamp)
OBJECT = TypeAdapter(JsonObject)


@examples(2)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=255))
def test_any_text_of_1_to_255_characters_without_nul_is_an_id_and_comes_out_unchanged(text: str) -> None:
    assert ID.validate_json(json.dumps(text)) == text
    assert ID.validate_json(json.dumps(text, ensure_ascii=False)) == text


def test_an_id_is_counted_in_characters() -> None:
    assert ID.validate_json(json.dumps("😀" * 255)) == "😀" * 255


@given(st.integers(0, 2**31 - 1), st.integers(-(2**31), 2**31 - 1), st.floats(allow_nan=False, allow_infinity=False))
def test_numbers_that_their_columns_hold_come_out_unchanged(count: int, rank: int, score: float) -> None:
    assert COUNT.validate_json(str(count)) == count
    assert INT32.validate_json(str(rank)) == rank
    assert REAL.validate_json(json.dumps(score)) == score


def test_a_whole_number_will_do_for_a_real_one() -> None:
    assert REAL.validate_json("1") == 1.0


@given(st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 29)))  # noqa: DTZ001 - made aware below
def test_a_time_on_the_wire_comes_back_to_the_microsecond(naive: datetime) -> None:
    at = naive.replace(tzinfo=UTC)
    assert TIME.validate_json(json.dumps(wire_time(at))) == at
    assert TIME.dump_json(at).decode() == json.dumps(wire_time(at))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-02T09:00:00+01:00", "2026-03-02T08:00:00.000000Z"),
        ("2026-03-02 09:00:00.5+0100", "2026-03-02T08:00:00.500000Z"),
        ("2026-03-02t08:00:00.1234567z", "2026-03-02T08:00:00.123456Z"),
        ("2026-03-01T22:00:00-10:00", "2026-03-02T08:00:00.000000Z"),
        ("0001-01-02T00:00:00Z", "0001-01-02T00:00:00.000000Z"),
        ("0001-01-01T23:00:00-05:00", "0001-01-02T04:00:00.000000Z"),
    ],
)
def test_times_with_any_offset_are_kept_in_utc(text: str, expected: str) -> None:
    assert wire_time(TIME.validate_json(json.dumps(text))) == expected


@pytest.mark.parametrize("value", [datetime(2026, 3, 2), "2026-03-02T08:00:00", None])  # noqa: DTZ001
def test_a_time_made_in_python_needs_an_offset_too(value: object) -> None:
    with pytest.raises(ValidationError):
        TIME.validate_python(value)


def test_seconds_between_are_never_below_zero() -> None:
    earlier, later = datetime(2026, 3, 2, 8, 0, tzinfo=UTC), datetime(2026, 3, 2, 8, 0, 1, 500, tzinfo=UTC)
    assert (seconds_between(earlier, later), seconds_between(later, earlier)) == (1.0005, 0.0)


_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abö\U0001f600"), inner, max_size=3),
    max_leaves=10,
)


@given(_JSON)
def test_json_that_a_column_takes_comes_out_unchanged(value: object) -> None:
    assert OBJECT.validate_json(json.dumps({"a": value})) == {"a": value}


def test_kept_json_may_be_so_deep_and_no_deeper() -> None:
    levels = MAX_JSON_DEPTH - 1  # the value inside is a level too
    assert OBJECT.validate_json('{"a":' * levels + "1" + "}" * levels)
    with pytest.raises(ValidationError, match="nested deeper"):
        OBJECT.validate_json('{"a":' * (levels + 1) + "1" + "}" * (levels + 1))
