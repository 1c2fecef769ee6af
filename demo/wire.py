"""What a Kafka message on a consumed topic must look like, written down a second time for the oracle's sake.

Shares no code with the service: a mistake in the service's own contracts must not hide itself here.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

REGISTERED = "huleedu.batch.essays.registered.v1"
SLOT = "huleedu.els.essay.slot.assigned.v1"
OUTCOME = "huleedu.els.batch.phase.outcome.v1"
SPELLCHECK_OLDER = "huleedu.essay.spellcheck.completed.v1"
SPELLCHECK_RICH = "huleedu.essay.spellcheck.results.v1"
CJ_COMPLETED = "huleedu.cj_assessment.completed.v1"
CJ_FAILED = "huleedu.cj_assessment.failed.v1"
CJ_RICH = "huleedu.assessment.result.published.v1"
PIPELINE_END = "huleedu.batch.pipeline.completed.v1"
NLP = "huleedu.essay.nlp.completed.v1"
AI_FEEDBACK = "huleedu.essay.aifeedback.completed.v1"

RESULTS_READY = "huleedu.ras.batch.results.ready.v1"
ASSESSMENT_COMPLETED = "huleedu.ras.batch.assessment.completed.v1"
NOTIFICATION = "huleedu.notification.teacher.requested.v1"
PUBLISHED_TOPICS = (RESULTS_READY, ASSESSMENT_COMPLETED, NOTIFICATION)

PHASES = ("spellcheck", "cj_assessment", "nlp", "ai_feedback", "student_matching")
FINAL_STATUSES = ("completed_successfully", "completed_with_failures", "failed_critically", "cancelled")

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
_ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:?\d\d)")


class Message(NamedTuple):
    """A Kafka message as a producer sends it; a null value is one of the things that go wrong."""

    topic: str
    key: bytes
    value: bytes | None
    headers: list[tuple[str, bytes]]


@dataclass(frozen=True, eq=False)
class Event:
    """A good message, decoded. `data` is the payload as sent. Equal only to itself: one event id, one object."""

    topic: str
    id: UUID
    time: datetime
    correlation_id: str
    traceparent: str | None
    data: dict[str, Any]

    @property
    def clock(self) -> tuple[datetime, bytes]:
        """By which messages about one fact compete: the later wins."""
        return (self.time, self.id.bytes)


class BadMessage(Exception):
    """The message belongs in quarantine; the text says why."""


def parse_time(text: object) -> datetime:
    """An ISO 8601 time with offset, as UTC. Raises BadMessage."""
    if not isinstance(text, str) or not _ISO_TIME.fullmatch(text):
        raise BadMessage(f"not a time with offset: {text!r}")
    try:
        return datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadMessage(f"not a time: {text!r}") from error


Check = Callable[[object], None]


def _text(value: object) -> None:
    if not isinstance(value, str):
        raise BadMessage(f"not a text: {value!r}")
    if "\x00" in value or any(0xD800 <= ord(character) <= 0xDFFF for character in value):
        raise BadMessage(f"a NUL or a lone surrogate: {value!r}")


def _id(value: object) -> None:
    _text(value)
    if not 1 <= len(str(value)) <= 255:
        raise BadMessage("an id of no or of more than 255 characters")


def _whole(lowest: int, highest: int) -> Check:
    def check(value: object) -> None:
        if not isinstance(value, int) or isinstance(value, bool):
            raise BadMessage(f"not a whole number: {value!r}")
        if not lowest <= value <= highest:
            raise BadMessage(f"out of range: {value}")

    return check


_count = _whole(0, 2**31 - 1)
_rank = _whole(-(2**31), 2**31 - 1)


def _real(value: object) -> None:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise BadMessage(f"not a number: {value!r}")
    if not math.isfinite(value):
        raise BadMessage(f"not a finite number: {value!r}")


def _flag(value: object) -> None:
    if not isinstance(value, bool):
        raise BadMessage(f"neither true nor false: {value!r}")


def _one_of(*words: str) -> Check:
    def check(value: object) -> None:
        if value not in words:
            raise BadMessage(f"unknown word: {value!r}")

    return check


def _kept_json(value: object) -> None:
    """Anything kept as it is: nothing in it may be what PostgreSQL cannot hold."""
    if isinstance(value, dict):
        for name, member in value.items():
            _text(name)
            _kept_json(member)
    elif isinstance(value, list):
        for member in value:
            _kept_json(member)
    elif isinstance(value, str):
        _text(value)
    elif isinstance(value, float):
        _real(value)


def _object(value: object) -> None:
    if not isinstance(value, dict):
        raise BadMessage(f"not an object: {value!r}")
    _kept_json(value)


def _list_of(check: Check) -> Check:
    def check_list(value: object) -> None:
        if not isinstance(value, list):
            raise BadMessage(f"not a list: {value!r}")
        for member in value:
            check(member)

    return check_list


def _map_of(check: Check) -> Check:
    def check_map(value: object) -> None:
        if not isinstance(value, dict):
            raise BadMessage(f"not an object: {value!r}")
        for member in value.values():
            if member is not None:
                check(member)

    return check_map


def _fields(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """An object with these fields; an optional one may be absent or null; unknown ones are ignored."""

    def check(value: object) -> None:
        if not isinstance(value, dict):
            raise BadMessage(f"not an object: {value!r}")
        for name, check_field in required.items():
            if name not in value:
                raise BadMessage(f"{name} is missing")
            try:
                check_field(value[name])
            except BadMessage as error:
                raise BadMessage(f"{name}: {error}") from None
        for name, check_field in (optional or {}).items():
            if value.get(name) is not None:
                try:
                    check_field(value[name])
                except BadMessage as error:
                    raise BadMessage(f"{name}: {error}") from None

    return check


_error_info = _fields({}, {"error_code": _text, "error_message": _text, "error_type": _text, "context": _object})
_system_metadata = _fields({}, {"entity_id": _id, "parent_id": _id, "error_info": _error_info})

PAYLOADS: dict[str, Check] = {
    REGISTERED: _fields(
        {"entity_id": _id, "user_id": _id, "expected_essay_count": _count, "essay_ids": _list_of(_id)},
        {
            "course_code": _text,
            "class_id": _id,
            "org_id": _id,
            "student_prompt_ref": _object,
            "requested_pipelines": _list_of(_text),
        },
    ),
    SLOT: _fields(
        {"batch_id": _id, "essay_id": _id, "text_storage_id": _id}, {"file_upload_id": _id, "original_file_name": _text}
    ),
    OUTCOME: _fields(
        {
            "batch_id": _id,
            "phase_name": _one_of(*PHASES),
            "phase_status": _one_of(*FINAL_STATUSES),
            "processed_essays": _list_of(_fields({"essay_id": _id})),
            "failed_essay_ids": _list_of(_id),
        }
    ),
    SPELLCHECK_OLDER: _fields(
        {
            "status": _text,
            "system_metadata": _fields({"entity_id": _id, "parent_id": _id}, {"error_info": _error_info}),
        },
        {
            "storage_metadata": _fields({}, {"references": _map_of(_map_of(_text))}),
            "corrections_made": _count,
        },
    ),
    SPELLCHECK_RICH: _fields(
        {"entity_id": _id, "batch_id": _id, "status": _text, "system_metadata": _system_metadata},
        {
            "corrections_made": _count,
            "correction_metrics": _fields(
                {},
                {
                    "total_corrections": _count,
                    "l2_dictionary_corrections": _count,
                    "spellchecker_corrections": _count,
                    "word_count": _count,
                    "correction_density": _real,
                },
            ),
            "corrected_text_storage_id": _id,
            "processing_duration_ms": _count,
            "processor_version": _text,
        },
    ),
    CJ_COMPLETED: _fields(
        {"entity_id": _id, "cj_assessment_job_id": _id},
        {
            "rankings": _list_of(_fields({"els_essay_id": _id}, {"rank": _rank, "score": _real})),
            "processing_summary": _fields(
                {}, {"successful_essay_ids": _list_of(_id), "failed_essay_ids": _list_of(_id)}
            ),
        },
    ),
    CJ_FAILED: _fields({"entity_id": _id, "system_metadata": _system_metadata}, {"cj_assessment_job_id": _id}),
    CJ_RICH: _fields(
        {
            "batch_id": _id,
            "cj_assessment_job_id": _id,
            "essay_results": _list_of(
                _fields(
                    {"essay_id": _id},
                    {
                        "is_anchor": _flag,
                        "rank": _rank,
                        "bt_score": _real,
                        "letter_grade": _text,
                        "normalized_score": _real,
                        "confidence_score": _real,
                        "confidence_label": _text,
                    },
                )
            ),
        },
        {"assignment_id": _id, "assessment_metadata": _fields({}, {"comparison_count": _count})},
    ),
    PIPELINE_END: _fields(
        {
            "batch_id": _id,
            "completed_phases": _list_of(_one_of(*PHASES)),
            "final_status": _one_of(*FINAL_STATUSES),
        },
        {"processing_duration_seconds": _real, "successful_essay_count": _count, "failed_essay_count": _count},
    ),
    NLP: _fields(
        {"essay_id": _id, "nlp_metrics": _object},
        {
            "parent_id": _id,
            "grammar_analysis": _fields({}, {"error_count": _count}),
            "processing_metadata": _fields({}, {"batch_id": _id}),
        },
    ),
    AI_FEEDBACK: _fields(
        {"status": _text, "system_metadata": _system_metadata},
        {
            "entity_id": _id,
            "parent_id": _id,
            "feedback_details": _object,
            "feedback_content_storage_id": _id,
            "additional_metrics": _object,
        },
    ),
}


def _names_an_essay(data: object) -> None:
    if isinstance(data, dict) and not (data["system_metadata"].get("entity_id") or data.get("entity_id")):
        raise BadMessage("names no essay")


def _uuid(value: object) -> UUID:
    try:
        return UUID(value) if isinstance(value, str) else UUID(int=-1)
    except ValueError:
        raise BadMessage(f"not a UUID: {value!r}") from None


def read(message: Message) -> Event:
    """The event a message holds. Raises BadMessage if the rules put the message into quarantine."""
    if message.value is None:
        raise BadMessage("null value")
    if len(message.value) > MAX_MESSAGE_BYTES:
        raise BadMessage("too large")
    try:
        envelope = json.loads(message.value.decode("utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise BadMessage(f"not UTF-8 JSON: {error}") from None
    if not isinstance(envelope, dict):
        raise BadMessage("not an object")
    for name in ("event_id", "event_type", "event_timestamp", "source_service", "correlation_id", "data"):
        if name not in envelope:
            raise BadMessage(f"{name} is missing")
    if envelope["event_type"] != message.topic:
        raise BadMessage(f"event_type {envelope['event_type']!r} is not the topic")
    schema_version = envelope.get("schema_version", 1)
    if schema_version != 1 or isinstance(schema_version, bool):
        raise BadMessage(f"schema_version {schema_version!r}")
    metadata = envelope.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise BadMessage("metadata is not an object")
    _text(envelope["source_service"])
    PAYLOADS[message.topic](envelope["data"])
    if message.topic == AI_FEEDBACK:
        _names_an_essay(envelope["data"])
    header = dict(message.headers).get("traceparent")
    return Event(
        topic=message.topic,
        id=_uuid(envelope["event_id"]),
        time=parse_time(envelope["event_timestamp"]),
        correlation_id=str(_uuid(envelope["correlation_id"])),
        traceparent=header.decode() if header else (metadata or {}).get("traceparent"),
        data=envelope["data"],
    )
