"""Strict reading of what a client sends. Everything outside the specification is a 400 that names the field."""

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote_to_bytes

from result_aggregator_service.api.errors import bad_input
from result_aggregator_service.contracts.enums import CLIENT_STATUS, BatchClientStatus, BatchStatus
from result_aggregator_service.contracts.fields import MAX_ID_LENGTH

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
#: What PostgreSQL's OFFSET takes.
MAX_OFFSET = 2**63 - 1

_ALLOWED_IDS = f"1 to {MAX_ID_LENGTH} characters, no control characters, UTF-8, percent-encoded where needed"
_LONE_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
_DIGITS = re.compile("[0-9]{1,19}")
_ALLOWED_STATUSES = ", ".join(dict.fromkeys([*BatchStatus, *BatchClientStatus]))


def path_id(field: str, raw: str) -> str:
    """An id out of the path, where it stands percent-encoded.

    Raises:
        ProblemError: 400.
    """
    if _LONE_PERCENT.search(raw):
        raise bad_input(field, "is not percent-encoded rightly", _ALLOWED_IDS)
    try:
        # Bytes that no client should send unencoded come as Latin-1.
        value = unquote_to_bytes(raw.encode("latin-1")).decode()
    except UnicodeError:
        raise bad_input(field, "is not UTF-8", _ALLOWED_IDS) from None
    if not 1 <= len(value) <= MAX_ID_LENGTH:
        raise bad_input(field, f"has {len(value)} characters", _ALLOWED_IDS)
    if any(unicodedata.category(character) == "Cc" for character in value):
        raise bad_input(field, "holds a control character", _ALLOWED_IDS)
    return value


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which of a user's batches are asked for; `statuses` is what the filter `status` stands for."""

    limit: int
    offset: int
    status: str | None
    statuses: Collection[BatchStatus] | None


def page_query(query_string: bytes) -> PageQuery:
    """The query of a list. Parameters that are not known are ignored; an empty status is none.

    Raises:
        ProblemError: 400.
    """
    # Not by the framework, which fails on bytes that are no UTF-8.
    query = parse_qs(query_string.decode(errors="replace"), keep_blank_values=True)
    status = _once(query, "status", _ALLOWED_STATUSES) or None
    return PageQuery(
        limit=_number(query, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT),
        offset=_number(query, "offset", 0, 0, MAX_OFFSET),
        status=status,
        statuses=None if status is None else _statuses(status),
    )


def _once(query: Mapping[str, Sequence[str]], field: str, allowed: str) -> str | None:
    values = query.get(field, ())
    if len(values) > 1:
        raise bad_input(field, "is given more than once", allowed)
    return values[0] if values else None


def _number(query: Mapping[str, Sequence[str]], field: str, default: int, least: int, most: int) -> int:
    allowed = f"a whole number from {least} to {most}"
    text = _once(query, field, allowed)
    if text is None:
        return default
    if not _DIGITS.fullmatch(text) or not least <= int(text) <= most:
        raise bad_input(field, "is out of range or not a whole number", allowed)
    return int(text)


def _statuses(word: str) -> Collection[BatchStatus]:
    """A client's status stands for several; where both kinds share a word, both stand for the same one."""
    if word in set(BatchStatus):
        return (BatchStatus(word),)
    if word in set(BatchClientStatus):
        return tuple(status for status, shown in CLIENT_STATUS.items() if shown.value == word)
    raise bad_input("status", "is not a status", _ALLOWED_STATUSES)
