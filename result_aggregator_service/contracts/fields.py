"""Field types stricter than pydantic's defaults, so that whatever is kept fits its column and comes out as it went in.

Pydantic reading JSON lets through NUL, NaN, 1e999, "5" or true for an int, and naive or numeric times.
"""

import math
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    Field,
    GetJsonSchemaHandler,
    GetPydanticSchema,
    JsonValue,
    StringConstraints,
    WithJsonSchema,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema

from result_aggregator_service.contracts.enums import FINAL_STATUSES, BatchStatus

MAX_ID_LENGTH = 255
MAX_JSON_DEPTH = 32
_INT32_MAX = 2**31 - 1
_INT64_MAX = 2**63 - 1
NO_NUL = r"^[^\x00]*$"
# A day inside Python's range at both ends, so that a change of time zone cannot leave it.
_EARLIEST = datetime(1, 1, 2, tzinfo=UTC)
_LATEST = datetime(9999, 12, 30, tzinfo=UTC)
_ISO_TIME = (
    r"^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])[Tt ]([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]+)?"
    r"([Zz]|[+-]([01][0-9]|2[0-3]):?[0-5][0-9])$"
)
_WIRE_TIME = r"^\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z$"

Element = TypeVar("Element")

ListOf = Annotated[list[Element], Field(fail_fast=True)]
"""A list; only its first bad element is told of: a large message may hold millions, each a kilobyte to tell."""

Text = Annotated[str, StringConstraints(strict=True, pattern=NO_NUL)]
"""Any text PostgreSQL can hold: no NUL. Lone surrogates do not survive decoding (see `consumer.decoder`)."""

Id = Annotated[str, StringConstraints(strict=True, pattern=NO_NUL, min_length=1, max_length=MAX_ID_LENGTH)]
"""An identifier: 1 to 255 characters, no NUL."""

Count = Annotated[int, Field(strict=True, ge=0, le=_INT32_MAX)]
"""A count that an `integer` column holds."""

Int32 = Annotated[int, Field(strict=True, ge=-(2**31), le=_INT32_MAX)]
"""A whole number that an `integer` column holds."""

Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
"""A finite double."""


def wire_time(value: datetime) -> str:
    """The one text form of a time in what this service publishes and answers: UTC, microseconds, `Z`."""
    return value.astimezone(UTC).isoformat(timespec="microseconds").removesuffix("+00:00") + "Z"


def _utc(value: datetime) -> datetime:
    if not _EARLIEST <= value <= _LATEST:
        raise PydanticCustomError("time_out_of_range", "time is not between 0001-01-02 and 9999-12-30")
    return value.astimezone(UTC)


def _time(text: str) -> datetime:
    return _utc(datetime.fromisoformat(text.upper()))


def _timestamp_schema() -> core_schema.CoreSchema:
    return core_schema.json_or_python_schema(
        # In half the time that pydantic's own parser takes, whose time zones are dear to ask.
        json_schema=core_schema.no_info_after_validator_function(
            _time, core_schema.str_schema(strict=True, pattern=_ISO_TIME)
        ),
        python_schema=core_schema.no_info_after_validator_function(
            _utc, core_schema.datetime_schema(tz_constraint="aware")
        ),
        serialization=core_schema.plain_serializer_function_ser_schema(
            wire_time, return_schema=core_schema.str_schema(), when_used="json"
        ),
    )


def _timestamp_json_schema(_: core_schema.CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
    if handler.mode == "serialization":
        return {
            "type": "string",
            "format": "date-time",
            "pattern": _WIRE_TIME,
            "description": "UTC, microseconds, `Z`.",
        }
    return {
        "type": "string",
        "pattern": _ISO_TIME,
        "description": "ISO 8601 with offset, from 0001-01-02 to 9999-12-30; digits beyond microseconds are cut off.",
    }


Timestamp = Annotated[
    datetime, GetPydanticSchema(lambda _source, _handler: _timestamp_schema(), _timestamp_json_schema)
]
"""On the wire an ISO 8601 time with offset; in UTC here; microseconds, further digits cut off."""


def seconds_between(start: datetime, end: datetime) -> float:
    """Seconds from `start` to `end`, never below zero: services' clocks differ, durations do not run backwards."""
    return max((end - start) / timedelta(seconds=1), 0.0)


def check_storable(value: object, depth: int) -> None:
    """Check that a `jsonb` column takes the value, found at `depth`, and gives it back.

    Raises:
        PydanticCustomError: it does not.
    """
    if depth > MAX_JSON_DEPTH:
        raise PydanticCustomError("json_too_deep", "nested deeper than {limit} levels", {"limit": MAX_JSON_DEPTH})
    if isinstance(value, dict):
        if any("\x00" in key for key in value):
            raise _text_with_nul()
        for member in value.values():
            check_storable(member, depth + 1)
    elif isinstance(value, list):
        for member in value:
            check_storable(member, depth + 1)
    elif isinstance(value, str):
        if "\x00" in value:
            raise _text_with_nul()
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise PydanticCustomError("finite_number", "number is not finite")
    elif isinstance(value, int) and not -_INT64_MAX - 1 <= value <= _INT64_MAX:
        raise PydanticCustomError("int_too_large", "whole number does not fit 64 bits")


def _text_with_nul() -> PydanticCustomError:
    return PydanticCustomError("string_with_nul", "text holds a NUL or a lone surrogate")


def _storable(value: Any) -> Any:
    check_storable(value, 1)
    return value


JsonObject = Annotated[
    dict[str, JsonValue], AfterValidator(_storable), Field(json_schema_extra={"propertyNames": {"pattern": NO_NUL}})
]
"""An object that a `jsonb` column takes and gives back: finite numbers, 64-bit integers, no NUL, bounded depth."""


def _final(value: BatchStatus) -> BatchStatus:
    if value not in FINAL_STATUSES:
        raise PydanticCustomError(
            "not_a_final_status", "'{status}' does not end a phase or pipeline", {"status": value.value}
        )
    return value


FinalStatus = Annotated[
    BatchStatus,
    AfterValidator(_final),
    WithJsonSchema(
        {
            "type": "string",
            "enum": [status.value for status in BatchStatus if status in FINAL_STATUSES],
            "description": "How a phase or a pipeline ended.",
        }
    ),
]
"""One of the four statuses that end a phase or a pipeline."""
