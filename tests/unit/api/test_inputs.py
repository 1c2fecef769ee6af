"""What a client may send, and how it is told what it may not."""

from datetime import UTC, datetime
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from result_aggregator_service.api.cursor import write_cursor
from result_aggregator_service.api.inputs import PageQuery, View, page_query, path_id, takes_gzip
from result_aggregator_service.api.problems import ProblemError
from result_aggregator_service.contracts.enums import CLIENT_STATUS, BatchClientStatus, BatchStatus
from result_aggregator_service.storage.batch_reader import Position


@pytest.mark.parametrize(
    ("raw", "meant"),
    [
        ("b7e6c1f2-3a44", "b7e6c1f2-3a44"),
        ("a%2Fb", "a/b"),
        ("a%2fb", "a/b"),
        ("100%25", "100%"),
        ("a+b", "a+b"),
        ("a%20b", "a b"),
        ("%C3%85sa", "Åsa"),
        ("%F0%9F%98%80", "😀"),
        ("..", ".."),
        ("a" * 255, "a" * 255),
        ("%C3%85" * 255, "Å" * 255),
        # sent unencoded, as some clients do: bytes come as Latin-1
        ("Åsa".encode().decode("latin-1"), "Åsa"),
    ],
)
def test_an_id_holds_any_printable_character(raw: str, meant: str) -> None:
    assert path_id("batch_id", raw) == meant


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=255))
def test_every_id_survives_the_way_through_a_path(value: str) -> None:
    assert path_id("batch_id", quote(value, safe="")) == value


@pytest.mark.parametrize(
    "raw",
    [
        "%00",
        "a%00b",
        "%0A",
        "%7F",
        "%C2%85",
        "%ff",
        "%C3",
        "%ED%A0%80",
        "a" * 256,
        "%C3%85" * 256,
        "%",
        "%4",
        "%zz",
        "\xff",
    ],
)
def test_an_id_that_is_no_text_too_long_or_holds_control_characters_is_refused_by_name(raw: str) -> None:
    with pytest.raises(ProblemError) as refused:
        path_id("user_id", raw)
    assert refused.value.status == 400
    assert refused.value.details["field"] == "user_id"
    assert "255 characters" in str(refused.value.details["allowed"])


def asked(query: str) -> PageQuery:
    return page_query(query.encode("latin-1"))


FIRST_TWENTY = PageQuery(limit=20, offset=0, after=None, status=None, statuses=None, view=View.FULL)


def test_a_page_without_parameters_is_the_first_twenty_in_full() -> None:
    assert asked("") == FIRST_TWENTY


def test_an_empty_status_is_no_filter_and_unknown_parameters_are_ignored() -> None:
    assert asked("status=&limit=20&colour=red") == FIRST_TWENTY


@pytest.mark.parametrize(("limit", "offset"), [(1, 0), (100, 2**63 - 1), (50, 7)])
def test_a_page_takes_every_number_in_range(limit: int, offset: int) -> None:
    page = asked(f"limit={limit}&offset={offset}")
    assert (page.limit, page.offset) == (limit, offset)


@pytest.mark.parametrize(
    "value",
    ["0", "101", "-1", "+5", "5.0", "1e1", "", "%20", "5%20", "ten", "1_0", "%D9%A5", "%ff", "\xff", "%00", "9" * 5000],
)
def test_a_limit_outside_its_range_is_refused_by_name(value: str) -> None:
    with pytest.raises(ProblemError) as refused:
        asked(f"limit={value}")
    assert refused.value.status == 400
    assert refused.value.details == {"field": "limit", "allowed": "a whole number from 1 to 100"}


@pytest.mark.parametrize("value", ["-1", str(2**63), "9" * 20, "", "x", "%D9%A5"])
def test_an_offset_outside_its_range_is_refused_by_name(value: str) -> None:
    with pytest.raises(ProblemError) as refused:
        asked(f"offset={value}")
    assert refused.value.details == {"field": "offset", "allowed": f"a whole number from 0 to {2**63 - 1}"}


@pytest.mark.parametrize(
    "query",
    ["limit=1&limit=2", "offset=0&offset=0", "status=ready&status=ready", "cursor=&cursor=", "view=full&view=full"],
)
def test_a_parameter_given_twice_is_refused_by_name(query: str) -> None:
    with pytest.raises(ProblemError) as refused:
        asked(query)
    assert refused.value.details["field"] == query.partition("=")[0]


@pytest.mark.parametrize("status", list(BatchStatus))
def test_a_batch_status_filters_by_itself(status: BatchStatus) -> None:
    page = asked(f"status={status}")
    assert (page.status, set(page.statuses or ())) == (status.value, {status})


@pytest.mark.parametrize("client_status", list(BatchClientStatus))
def test_a_client_status_filters_by_all_that_it_stands_for(client_status: BatchClientStatus) -> None:
    page = asked(f"status={client_status}")
    assert set(page.statuses or ()) == {status for status in BatchStatus if CLIENT_STATUS[status] is client_status}


@pytest.mark.parametrize("word", ["READY", "ready%20", "done", "%00", "%ff", "\xff", "ready%2Cfailed"])
def test_any_other_status_is_refused_with_the_list_of_those_there_are(word: str) -> None:
    with pytest.raises(ProblemError) as refused:
        asked(f"status={word}")
    assert refused.value.details["field"] == "status"
    assert all(status in str(refused.value.details["allowed"]) for status in (*BatchStatus, *BatchClientStatus))


@pytest.mark.parametrize("view", list(View))
def test_a_view_is_one_of_two(view: View) -> None:
    assert asked(f"view={view}").view is view


@pytest.mark.parametrize("word", ["", "Full", "short", "%00", "\xff"])
def test_any_other_view_is_refused_by_name(word: str) -> None:
    with pytest.raises(ProblemError) as refused:
        asked(f"view={word}")
    assert refused.value.details == {"field": "view", "allowed": "full, summary"}


def test_a_page_after_a_batch_begins_at_no_number() -> None:
    position = Position(datetime(2026, 3, 2, 9, 15, tzinfo=UTC), "a/b")
    page = asked(f"cursor={write_cursor(position)}")
    assert (page.offset, page.after) == (None, position)


def test_an_empty_cursor_begins_at_the_beginning() -> None:
    page = asked("cursor=")
    assert (page.offset, page.after) == (None, None)


@pytest.mark.parametrize("cursor", ["x", "%00", "\xff", "eyJhIjoxfQ", "9" * 5000])
def test_what_is_no_cursor_is_refused_by_name(cursor: str) -> None:
    with pytest.raises(ProblemError) as refused:
        asked(f"cursor={cursor}")
    assert refused.value.details["field"] == "cursor"


def test_a_cursor_and_an_offset_exclude_each_other() -> None:
    with pytest.raises(ProblemError) as refused:
        asked("cursor=&offset=0")
    assert refused.value.details["field"] == "offset"


@pytest.mark.parametrize(
    "accepted",
    ["gzip", "GZip", "x-gzip", "deflate, gzip;q=0.001", "*", "*;q=0.5", "br , gzip ; q=1.000,identity;q=1.0", "gzip,"],
)
def test_gzip_goes_to_whoever_names_it_with_a_weight(accepted: str) -> None:
    assert takes_gzip(accepted)


@pytest.mark.parametrize(
    "accepted",
    [
        "",
        "identity",
        "br, deflate",
        "gzip;q=0",
        "gzip;q=0.000, *",
        "*;q=0",
        "gzip;q=0.5, identity",
        "gzip;q=0.5, identity;q=0.6",
        "gzip;q=2",
        "gzip;q=",
        "gzip;q=x",
        "gzip;level=1",
        "gzip gzip",
        "\xff, ;, ;q=1",
    ],
)
def test_whoever_does_not_name_gzip_or_wants_it_less_than_none_gets_none(accepted: str) -> None:
    assert not takes_gzip(accepted)
