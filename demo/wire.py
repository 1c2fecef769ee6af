"""What a Kafka message on a consumed topic must look like, written down a second time for the oracle's sake.

Shares no code with the service: a mistake in the service's own contracts must not hide itself here.
"""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
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
MAX_DEPTH = 200
"""JSON nested deeper is bad wherever it stands: a parser's limit, as RFC 8259 allows."""

MAX_KEPT_DEPTH = 32
_EARLIEST, _LATEST = datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 30, tzinfo=UTC)
_ISO_TIME = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:?\d\d)")
_PLAIN_UUID, _UUID = r"[0-9a-fA-F]{32}", r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
_ANY_UUID = re.compile(rf"{_PLAIN_UUID}|{_UUID}|\{{{_UUID}\}}|urn:uuid:{_UUID}")
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")


class Message(NamedTuple):
    """A Kafka message as a producer sends it; a null value is one of the things that go wrong."""

    topic: str
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


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
        time = datetime.fromisoformat(text.upper()).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise BadMessage(f"not a time: {text!r}") from error
    if not _EARLIEST <= time <= _LATEST:
        raise BadMessage(f"a time that no column holds in every time zone: {text}")
    return time


Check = Callable[[object], None]


def _text(value: object) -> None:
    if not isinstance(value, str):
        raise BadMessage(f"not a text: {value!r}")
    if _UNSTORABLE.search(value):
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
    try:
        finite = math.isfinite(value)
    except OverflowError:  # a whole number that is no double
        finite = False
    if not finite:
        raise BadMessage(f"not a finite number: {value!r}")


def _flag(value: object) -> None:
    if not isinstance(value, bool):
        raise BadMessage(f"neither true nor false: {value!r}")


def _one_of(*words: str) -> Check:
    def check(value: object) -> None:
        if value not in words:
            raise BadMessage(f"unknown word: {value!r}")

    return check


_whole_64_bits = _whole(-(2**63), 2**63 - 1)


def _kept_json(value: object, depth: int = 1) -> None:
    """Anything kept as it is: nothing in it may be what PostgreSQL cannot hold and give back."""
    if depth > MAX_KEPT_DEPTH:
        raise BadMessage("kept, and nested too deeply")
    if isinstance(value, dict):
        for name, member in value.items():
            _text(name)
            _kept_json(member, depth + 1)
    elif isinstance(value, list):
        for member in value:
            _kept_json(member, depth + 1)
    elif isinstance(value, str):
        _text(value)
    elif isinstance(value, float):
        _real(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        _whole_64_bits(value)


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


def _fields(
    required: Mapping[str, Check],
    optional: Mapping[str, Check] | None = None,
    defaulted: Mapping[str, Check] | None = None,
) -> Check:
    """An object with these fields; an optional one may be absent or null, a defaulted one absent but not null.

    Unknown fields are ignored.
    """
    checks = {**required, **(optional or {}), **(defaulted or {})}

    def check(value: object) -> None:
        if not isinstance(value, dict):
            raise BadMessage(f"not an object: {value!r}")
        for name, check_field in checks.items():
            if name not in value:
                if name in required:
                    raise BadMessage(f"{name} is missing")
            elif value[name] is not None or name not in (optional or ()):
                try:
                    check_field(value[name])
                except BadMessage as error:
                    raise BadMessage(f"{name}: {error}") from None

    return check


_error_texts = _fields({}, {"error_code": _text, "error_message": _text, "error_type": _text, "context": _object})
_shown_metrics = {"word_count": _count, "mtld_score": _real, "first_order_coherence": _real}


def _error_info(value: object) -> None:
    _error_texts(value)
    if isinstance(value, dict) and "error_message" not in value and value.get("message") is not None:
        _text(value["message"])


def _reference(value: object) -> None:
    """An object of which one value is kept, an id: `storage_id`, else the first that says anything."""
    if not isinstance(value, dict):
        raise BadMessage(f"not an object: {value!r}")
    said = [member for member in (value.get("storage_id"), *value.values()) if member is not None and member != ""]
    if said:
        _id(said[0])


def _metrics(value: object) -> None:
    """All are kept, whatever their names; some are shown by themselves too."""
    _fields({}, _shown_metrics)(value)
    if isinstance(value, dict):
        for name, member in value.items():
            _text(name)
            if name not in _shown_metrics:
                _kept_json(member)


_work = _fields({}, {"error_info": _error_info})
_work_on_an_essay = _fields({"entity_id": _id}, {"parent_id": _id, "error_info": _error_info})

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
        {"status": _text, "system_metadata": _work_on_an_essay},
        {
            "storage_metadata": _fields({}, {"references": _fields({}, {"corrected_text": _reference})}),
            "corrections_made": _count,
        },
    ),
    SPELLCHECK_RICH: _fields(
        {"entity_id": _id, "batch_id": _id, "status": _text, "system_metadata": _work},
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
                {}, defaulted={"successful_essay_ids": _list_of(_id), "failed_essay_ids": _list_of(_id)}
            ),
        },
    ),
    CJ_FAILED: _fields({"entity_id": _id, "system_metadata": _work}, {"cj_assessment_job_id": _id}),
    CJ_RICH: _fields(
        {
            "batch_id": _id,
            "cj_assessment_job_id": _id,
            "essay_results": _list_of(
                _fields(
                    {"essay_id": _id},
                    {
                        "rank": _rank,
                        "bt_score": _real,
                        "letter_grade": _text,
                        "normalized_score": _real,
                        "confidence_score": _real,
                        "confidence_label": _text,
                    },
                    defaulted={"is_anchor": _flag},
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
        {"essay_id": _id, "nlp_metrics": _metrics},
        {
            "parent_id": _id,
            "grammar_analysis": _fields({}, {"error_count": _count}),
            "processing_metadata": _fields({}, {"batch_id": _id}),
        },
    ),
    AI_FEEDBACK: _fields(
        {"status": _text, "system_metadata": _work_on_an_essay},
        {"feedback_details": _object, "feedback_content_storage_id": _id, "additional_metrics": _object},
    ),
}


def _uuid(value: object) -> UUID:
    if not isinstance(value, str) or not _ANY_UUID.fullmatch(value):
        raise BadMessage(f"not a UUID: {value!r}")
    return UUID(value)


def _depth(value: object) -> int:
    """How many lists and objects stand one in another."""
    depth, level = 0, [value]
    while level := [member for member in level if isinstance(member, dict | list)]:
        depth += 1
        level = [member for each in level for member in (each.values() if isinstance(each, dict) else each)]
    return depth


def _traceparent(message: Message, metadata: dict[str, Any]) -> str | None:
    """The first well-formed one of the headers, else the metadata's."""
    stated = [value.decode("latin-1") for name, value in message.headers if name == "traceparent" and value is not None]
    for candidate in (*stated, metadata.get("traceparent")):
        if isinstance(candidate, str) and _TRACEPARENT.fullmatch(candidate):
            return candidate
    return None


def read(message: Message) -> Event:
    """The event a message holds. Raises BadMessage if the rules put the message into quarantine."""
    if message.value is None:
        raise BadMessage("null value")
    if len(message.value) > MAX_MESSAGE_BYTES:
        raise BadMessage("too large")
    try:
        text = message.value.decode("utf-8")
        envelope = json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError also for a whole number of more than 4,300 digits
        raise BadMessage(f"not UTF-8 JSON: {error}") from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth(envelope) > MAX_DEPTH:
        raise BadMessage("nested too deeply")
    if not isinstance(envelope, dict):
        raise BadMessage("not an object")
    for name in ("event_id", "event_type", "event_timestamp", "source_service", "correlation_id", "data"):
        if name not in envelope:
            raise BadMessage(f"{name} is missing")
    if envelope["event_type"] != message.topic:
        raise BadMessage(f"event_type {envelope['event_type']!r} is not the topic")
    _whole(1, 1)(envelope.get("schema_version", 1))
    if not isinstance(envelope.get("data_schema_uri"), str | None):
        raise BadMessage("data_schema_uri is not a text")
    metadata = envelope.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise BadMessage("metadata is not an object")
    _text(envelope["source_service"])
    PAYLOADS[message.topic](envelope["data"])
    return Event(
        topic=message.topic,
        id=_uuid(envelope["event_id"]),
        time=parse_time(envelope["event_timestamp"]),
        correlation_id=str(_uuid(envelope["correlation_id"])),
        traceparent=_traceparent(message, metadata or {}),
        data=envelope["data"],
    )
