"""How the operator's commands read times, draw tables and tell what becomes of rows."""

import io
import json
from datetime import UTC, datetime, timedelta

import click
import pytest

from result_aggregator_service.commands.terminal import Report, Time, age, in_batches, printable, table

NOW = datetime.now(UTC)
TOPIC = "huleedu.ras.batch.assessment.completed.v1"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("text", "ago"),
    [("90s", timedelta(seconds=90)), ("30m", timedelta(minutes=30)), ("2h", timedelta(hours=2)), ("1w", timedelta(7))],
)
def test_a_while_ago_is_counted_from_now(text: str, ago: timedelta) -> None:
    assert abs(Time().convert(text, None, None) - (datetime.now(UTC) - ago)) < timedelta(seconds=30)


def test_a_time_has_an_offset() -> None:
    assert Time().convert("2026-01-31T09:00:00+01:00", None, None) == datetime(2026, 1, 31, 8, tzinfo=UTC)
    with pytest.raises(click.BadParameter, match="has no offset"):
        Time().convert("2026-01-31T09:00:00", None, None)


@pytest.mark.parametrize("text", ["yesterday", "2x", "-2h", "", "999999999w", "2026-13-01T00:00:00Z"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is neither a time such as"):
        Time().convert(text, None, None)


@pytest.mark.parametrize(
    ("seconds", "shown"), [(-5, "0s"), (59, "59s"), (60, "1m"), (7_199, "1h"), (86_400, "1d"), (8_640_000, "100d")]
)
def test_an_age_is_told_in_the_largest_unit_that_fits(seconds: int, shown: str) -> None:
    assert age(NOW - timedelta(seconds=seconds), NOW) == shown


def test_a_table_is_whole_in_a_pipe_and_numbers_stand_to_the_right() -> None:
    rows = [("1", TOPIC, "why " * 30), ("1000", "t", "")]
    lines = table(("ID", "TOPIC", "WHY"), rows, None)
    assert lines[1] == f"   1  {TOPIC}  {('why ' * 30).rstrip()}"
    assert lines[2] == "1000  t"


@pytest.mark.parametrize("width", [40, 60, 80, 100])
def test_a_table_fits_its_terminal_and_keeps_both_ends_of_a_name(width: int) -> None:
    lines = table(("ID", "TOPIC", "WHY"), [("1", TOPIC, "MessageSizeTooLargeError: " * 5)], width)
    assert max(map(len, lines)) == width
    assert all(part in lines[1] for part in ("1  huleedu", "eted.v1  Message", "…"))


def test_an_empty_table_is_its_heads() -> None:
    assert table(("ID", "TOPIC"), [], 80) == ["ID  TOPIC"]


def test_control_characters_are_written_out() -> None:
    assert printable("a\x1b[31m\n\r\x07å\u202e") == "a\\x1b[31m\\n\\r\\x07å\\u202e"
    assert table(("A",), [("x\ny",)], None) == ["A", "x\\ny"]


async def test_named_ids_come_once_each_and_in_order() -> None:
    following = in_batches([7, 3, 7, 5])
    assert (await following(0), await following(3), await following(7)) == ([3, 5, 7], [5, 7], [])


def test_failures_and_a_summary_are_told_of_many_rows(capsys: pytest.CaptureFixture[str]) -> None:
    with Report("requeued", 2_000, each=False, as_json=False) as report:
        report.tell(1, "requeued")
        report.tell(2, "not_found", done=False)
    assert capsys.readouterr() == ("1 of 2,000 requeued\n", "2: not found\n")
    assert report.status == 1


def test_to_a_script_each_row_is_told_as_json_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    with Report("retried", 1, each=True, as_json=True) as report:
        report.tell(1, "still_bad", done=False, error="not_utf8: \x1b")
    out, err = capsys.readouterr()
    assert json.loads(out) == {"id": 1, "result": "still_bad", "done": False, "error": "not_utf8: \x1b"}
    assert err == ""


def test_work_that_breaks_off_tells_how_far_it_came(capsys: pytest.CaptureFixture[str]) -> None:
    def break_off() -> None:
        with Report("retried", 9, each=False, as_json=False) as report:
            report.tell(1, "folded")
            raise ConnectionError

    with pytest.raises(ConnectionError):
        break_off()
    assert capsys.readouterr() == ("", "1 of 9 retried\n")


def test_long_work_tells_on_stderr_how_far_it_is_in_lines() -> None:
    stream = io.StringIO()
    with Report("requeued", 2, each=False, as_json=False, progress=stream, seconds_between=0) as report:
        report.tell(1, "requeued")
        report.tell(2, "requeued")
    lines = stream.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines] == ["1 of 2", "2 of 2"]
    assert all(line.endswith("/s") for line in lines)


def test_on_a_terminal_it_is_one_line_that_changes_and_is_gone_at_the_end() -> None:
    stream = Terminal()
    with Report("requeued", 2, each=False, as_json=False, progress=stream, seconds_between=0) as report:
        report.tell(1, "requeued")
        report.tell(2, "requeued")
    first, second, last = stream.getvalue().split("\r\x1b[K")
    assert (first[:6], second[:6], last) == ("1 of 2", "2 of 2", "")


def test_short_work_tells_nothing_of_its_progress() -> None:
    stream = io.StringIO()
    with Report("requeued", 1, each=False, as_json=False, progress=stream) as report:
        report.tell(1, "requeued")
    assert stream.getvalue() == ""
