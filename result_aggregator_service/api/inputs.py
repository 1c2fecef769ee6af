"""Strict reading of what a client sends. Everything outside the specification is a 400 that names the field."""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import parse_qs, unquote_to_bytes

from result_aggregator_service.api.cursor import read_cursor
from result_aggregator_service.api.problems import bad_input
from result_aggregator_service.contracts.enums import CLIENT_STATUS, BatchClientStatus, BatchStatus
from result_aggregator_service.contracts.fields import MAX_ID_LENGTH
from result_aggregator_service.storage.batch_reader import Position

DEFAULT_LIMIT = 20
MAX_LIMIT = 100
#: What PostgreSQL's OFFSET takes.
MAX_OFFSET = 2**63 - 1

_ALLOWED_IDS = f"1 to {MAX_ID_LENGTH} characters, no control characters, UTF-8, percent-encoded where needed"
_LONE_PERCENT = re.compile("%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")  # Unicode's category Cc
_DIGITS = re.compile("[0-9]{1,19}")
_CODING = re.compile(r"\s*(?P<coding>[^\s;]+)\s*(;\s*q=(?P<quality>0(\.[0-9]{0,3})?|1(\.0{0,3})?)\s*)?")
_ALLOWED_STATUSES = ", ".join(dict.fromkeys([*BatchStatus, *BatchClientStatus]))
_ALLOWED_CURSORS = "empty, to begin, or the cursor of a `next` link, unchanged"


class View(StrEnum):
    """How much of each batch a list shows."""

    FULL = "full"
    SUMMARY = "summary"


_ALLOWED_VIEWS = ", ".join(View)


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
    if _CONTROL.search(value):
        raise bad_input(field, "holds a control character", _ALLOWED_IDS)
    return value


def takes_gzip(accept_encoding: str) -> bool:
    """Whether a client takes gzip at least as gladly as no coding (RFC 9110, section 12.5.3).

    One that says nothing gets none, though it would have to take any.
    """
    qualities: dict[str, float] = {}
    for part in accept_encoding.lower().split(","):
        if match := _CODING.fullmatch(part):
            qualities[match["coding"]] = float(match["quality"] or 1)
    gzip = qualities.get("gzip", qualities.get("x-gzip", qualities.get("*", 0.0)))
    return gzip > 0 and gzip >= qualities.get("identity", 0.0)


@dataclass(frozen=True, slots=True)
class PageQuery:
    """Which of a user's batches are asked for, and how much of each; `statuses` is what the filter `status` stands for.

    A page begins at a number (`offset`), or after a batch: then `offset` is None, and `after` is None at the beginning.
    """

    limit: int
    offset: int | None
    after: Position | None
    status: str | None
    statuses: Collection[BatchStatus] | None
    view: View


def page_query(query_string: bytes) -> PageQuery:
    """The query of a list. Parameters that are not known are ignored; an empty status is none.

    Raises:
        ProblemError: 400.
    """
    # Not by the framework, which fails on bytes that are no UTF-8.
    query = parse_qs(query_string.decode(errors="replace"), keep_blank_values=True)
    status = _once(query, "status", _ALLOWED_STATUSES) or None
    cursor = _once(query, "cursor", _ALLOWED_CURSORS)
    if cursor is not None and "offset" in query:
        raise bad_input("offset", "is given together with cursor", "one of the two")
    return PageQuery(
        limit=_number(query, "limit", DEFAULT_LIMIT, 1, MAX_LIMIT),
        offset=_number(query, "offset", 0, 0, MAX_OFFSET) if cursor is None else None,
        after=_position(cursor) if cursor else None,
        status=status,
        statuses=None if status is None else _statuses(status),
        view=_view(_once(query, "view", _ALLOWED_VIEWS)),
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


def _position(cursor: str) -> Position:
    try:
        return read_cursor(cursor)
    except ValueError:
        raise bad_input("cursor", "is not one of this service's", _ALLOWED_CURSORS) from None


def _view(word: str | None) -> View:
    if word is None:
        return View.FULL
    if word in set(View):
        return View(word)
    raise bad_input("view", "is not a view", _ALLOWED_VIEWS)
