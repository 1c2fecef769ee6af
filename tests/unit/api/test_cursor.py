"""Cursors: each names one place, survives the way through a URL, and is told from what is none."""

from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from result_aggregator_service.api.cursor import read_cursor, write_cursor
from result_aggregator_service.storage.batch_reader import Position

FIRST_DAY = datetime(1, 1, 2, tzinfo=UTC)
LAST_DAY = datetime(9999, 12, 30, tzinfo=UTC)
times = st.timedeltas(timedelta(0), LAST_DAY - FIRST_DAY).map(lambda since: FIRST_DAY + since)
ids = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=255)
positions = st.builds(Position, times, ids)

SOMEWHERE = Position(datetime(2026, 3, 2, 9, 15, tzinfo=UTC), "b")


@given(positions)
def test_a_cursor_names_the_place_that_it_was_written_for(position: Position) -> None:
    cursor = write_cursor(position)
    assert read_cursor(cursor) == position
    assert quote(cursor, safe="") == cursor


@given(positions, st.integers(0), st.characters(codec="ascii"))
def test_a_cursor_with_another_character_is_none(position: Position, at: int, character: str) -> None:
    cursor = write_cursor(position)
    at %= len(cursor)
    assume(cursor[at] != character)
    with pytest.raises(ValueError, match="not a cursor"):
        read_cursor(cursor[:at] + character + cursor[at + 1 :])


@given(st.text(max_size=60))
def test_no_other_text_is_a_cursor(text: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        read_cursor(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "=",
        write_cursor(SOMEWHERE) + "=",
        write_cursor(SOMEWHERE)[:-1],
        write_cursor(SOMEWHERE) + "AAAA",
        " " + write_cursor(SOMEWHERE),
        urlsafe_b64encode(b"short").decode(),
    ],
)
def test_what_is_nearly_a_cursor_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a cursor"):
        read_cursor(text)
