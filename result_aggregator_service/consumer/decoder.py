"""From a record's bytes to a typed event; what cannot be decoded is bad in one of a closed set of ways."""

import json
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Protocol

from pydantic import TypeAdapter, ValidationError

from result_aggregator_service.contracts.envelope import ConsumedEnvelope
from result_aggregator_service.contracts.topics import CONSUMED
from result_aggregator_service.domain.event import Clock, Event

# W3C Trace Context, section 3.2: version, trace id, parent id, flags.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}")
_TOPIC_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_MAX_ERRORS_TOLD = 5


class InvalidReason(StrEnum):
    """What is wrong with a message: the values of `error_type`."""

    NULL_VALUE = "null_value"
    TOO_LARGE = "too_large"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    WRONG_SCHEMA = "wrong_schema"
    WRONG_TOPIC = "wrong_topic"
    REJECTED_BY_DATABASE = "rejected_by_database"
    UNPROCESSABLE = "unprocessable"


class InvalidMessageError(Exception):
    """A message that is bad by itself and will be bad the next time too."""

    def __init__(self, reason: InvalidReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Record(Protocol):
    """What the decoder looks at of a Kafka record."""

    @property
    def topic(self) -> str: ...
    @property
    def value(self) -> bytes | None: ...
    @property
    def headers(self) -> Sequence[tuple[str, bytes | None]]: ...


class Decoder:
    """Decodes records of the consumed topics; values larger than `max_message_bytes` are bad."""

    def __init__(self, max_message_bytes: int) -> None:
        self._max_message_bytes = max_message_bytes
        # One type of envelope for each payload, made at start. Its validator is asked without the adapter's own
        # `validate_json`, which looks at its arguments for each message.
        self._validators = {
            topic: TypeAdapter[ConsumedEnvelope[Any]](ConsumedEnvelope[payload]).validator  # type: ignore[valid-type]
            for topic, payload in CONSUMED.items()
        }

    def decode(self, record: Record) -> Event:
        """Decode a record.

        Raises:
            InvalidMessageError: it is not what its topic's contract asks for.
        """
        value = record.value
        if value is None:
            raise InvalidMessageError(InvalidReason.NULL_VALUE, "the value is null; a message has to say something")
        if len(value) > self._max_message_bytes:
            raise InvalidMessageError(
                InvalidReason.TOO_LARGE, f"{len(value)} bytes; MAX_MESSAGE_BYTES allows {self._max_message_bytes}"
            )
        envelope = self._validate(record.topic, value)
        event_type = envelope["event_type"]
        if event_type != record.topic:
            said = event_type if _TOPIC_NAME.fullmatch(event_type) else "no topic's name"
            raise InvalidMessageError(InvalidReason.WRONG_TOPIC, f"event_type is {said} on topic {record.topic}")
        return Event(
            Clock(envelope["event_timestamp"], envelope["event_id"]),
            record.topic,
            envelope["source_service"],
            envelope["correlation_id"],
            traceparent_of(record.headers, envelope.get("metadata")),
            envelope["data"],
        )

    def _validate(self, topic: str, value: bytes) -> ConsumedEnvelope[Any]:
        validator = self._validators[topic]
        try:
            envelope: ConsumedEnvelope[Any] = validator.validate_json(value)
        except ValidationError as error:
            mended = _mended(value, error)
        else:
            return envelope
        try:
            envelope = validator.validate_json(mended)
        except ValidationError as error:
            raise _invalid(error) from None
        return envelope


def _mended(value: bytes, error: ValidationError) -> str:
    """The value in a form that pydantic's parser reads: all it may be blamed for are lone surrogates.

    Raises:
        InvalidMessageError: there is more to blame it for.
    """
    try:
        text = value.decode()
    except UnicodeDecodeError as undecodable:
        raise InvalidMessageError(InvalidReason.NOT_UTF8, str(undecodable)) from None
    refused = _invalid(error)
    mended = _without_lone_surrogates(text) if refused.reason is InvalidReason.NOT_JSON else None
    if mended is None:
        raise refused from None
    return mended


def _without_lone_surrogates(text: str) -> str | None:
    """The same JSON with a NUL for each lone surrogate: harmless in an ignored field, refused in a kept one.

    None if the text is not JSON, or has no lone surrogate to blame. Pydantic's parser refuses them anywhere.
    """
    try:
        parsed = json.loads(text)
        escaped = json.dumps(parsed, ensure_ascii=False)
    except (ValueError, RecursionError):
        return None
    return _LONE_SURROGATE.sub("\\\\u0000", escaped) if _LONE_SURROGATE.search(escaped) else None


def _invalid(error: ValidationError) -> InvalidMessageError:
    """What pydantic found, on one line and without the values: they may be long, or an essay's text."""
    problems = error.errors(include_url=False, include_input=False, include_context=False)
    told = [f"{'.'.join(map(str, p['loc'])) or 'message'}: {p['msg']}" for p in problems[:_MAX_ERRORS_TOLD]]
    if len(problems) > _MAX_ERRORS_TOLD:
        told.append(f"and {len(problems) - _MAX_ERRORS_TOLD} more")
    # Pydantic quotes the character that spoils a UUID.
    detail = "".join(character if character.isprintable() else "\ufffd" for character in "; ".join(told))
    no_json = problems[0]["type"] == "json_invalid"
    return InvalidMessageError(InvalidReason.NOT_JSON if no_json else InvalidReason.WRONG_SCHEMA, detail)


def traceparent_of(headers: Sequence[tuple[str, bytes | None]], metadata: dict[str, object] | None) -> str | None:
    """The W3C trace context, from the headers or else the metadata; a malformed one is none."""
    for name, value in headers:
        if name == "traceparent" and value is not None:
            candidate = value.decode("ascii", "replace")
            if _TRACEPARENT.fullmatch(candidate):
                return candidate
    stated = metadata.get("traceparent") if metadata else None
    return stated if isinstance(stated, str) and _TRACEPARENT.fullmatch(stated) else None
