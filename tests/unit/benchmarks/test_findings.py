"""What the sections of the benchmarks find, and what they put in."""

import json
import re
from pathlib import Path

import pytest

from benchmarks.__main__ import SECTIONS
from benchmarks.figures import Spread
from benchmarks.finding import Finding, Findings, table
from benchmarks.freshness import late
from benchmarks.memory import with_large_ones
from benchmarks.read_model import FinishedBatch
from benchmarks.report import Terminal, with_figures


def test_a_figure_is_taken_over_the_rounds_in_the_order_of_its_first() -> None:
    found = Findings()
    for first, second in ((1.0, 10.0), (3.0, 30.0), (2.0, 20.0)):
        found.add("first", "ms", first)
        found.add("second", "MiB", second)
    assert found.over_rounds() == [
        Finding("first", "ms", Spread(2.0, 1.0, 3.0)),
        Finding("second", "MiB", Spread(20.0, 10.0, 30.0)),
    ]


def test_a_share_is_taken_round_by_round() -> None:
    found = Findings()
    for one, two in ((100.0, 150.0), (10.0, 20.0), (100.0, 110.0)):
        found.add("one", "messages/s", one)
        found.add("two", "messages/s", two)
    found.share("two beside one", of="two", beside="one")
    assert found.over_rounds()[-1] == Finding("two beside one", "times", Spread(1.5, 1.1, 2.0))


def test_a_share_of_figures_of_which_one_was_taken_less_often_is_refused() -> None:
    found = Findings()
    found.add("one", "ms", 1.0)
    found.add("one", "ms", 1.0)
    found.add("two", "ms", 1.0)
    with pytest.raises(ValueError, match="longer"):
        found.share("two beside one", of="two", beside="one")


def test_beside_an_earlier_run_a_figure_says_how_it_changed_and_a_new_one_says_nothing() -> None:
    found = [Finding("kept", "ms", Spread(15.0, 14.0, 16.0)), Finding("new", "ms", Spread(1.0, 1.0, 1.0))]
    columns = table("section", found, [{"name": "kept", "value": {"median": 10.0}}]).columns
    assert [list(column.cells) for column in columns] == [
        ["kept", "new"],
        ["15.0 (14.0-16.0)", "1.0 (1.0-1.0)"],
        ["ms", "ms"],
        ["10.0 (+50%)", ""],
    ]
    assert len(table("section", found, []).columns) == 3


def test_the_table_of_a_section_takes_the_place_of_what_stood_under_its_heading_and_nothing_else_changes() -> None:
    report = Terminal()
    report.show(table("drain", [Finding("kept", "ms", Spread(15.0, 14.0, 16.0))], []))
    page = "## Figures\n\n### Drain\n\n| old |\n\n### Scale-out\n\nolder\n\n## What they say\n\nmuch\n"
    changed = with_figures(with_figures(page, "drain", report.tables[0]), "scale-out", "newer")
    rows = ["| drain | median (least-most) |    |", "|-------|---------------------|----|"]
    rows.append("| kept  |    15.0 (14.0-16.0) | ms |")
    new = "\n".join(rows)
    assert changed == f"## Figures\n\n### Drain\n\n{new}\n\n### Scale-out\n\nnewer\n\n## What they say\n\nmuch\n"
    with pytest.raises(ValueError, match="no heading '### memory'"):
        with_figures(page, "memory", "")


def test_looks_that_were_late_are_those_between_two_scrapes() -> None:
    def scraped(looks: float, in_time: float) -> dict[str, float]:
        return {
            "ras_event_loop_lag_seconds_count": looks,
            'ras_event_loop_lag_seconds_bucket{le="0.02"}': in_time,
        }

    assert late(scraped(100, 40), scraped(300, 238)) == pytest.approx(1.0)


def test_large_messages_are_spread_over_the_others_and_say_what_they_said() -> None:
    messages = with_large_ones("test", 90, large=3)
    assert [number for number, message in enumerate(messages) if len(message.value or b"") > 900_000] == [0, 30, 60]
    assert all(len(message.value or b"") < 1_000_000 for message in messages)
    plain = with_large_ones("test", 90, large=1)[30]
    padded = json.loads(messages[30].value or b"")
    del padded["producer_notes"]
    assert padded == json.loads(plain.value or b"")


def test_no_message_of_a_very_large_batch_is_larger_than_kafka_takes() -> None:
    sizes = [len(message.value or b"") for message in FinishedBatch(0, 10_000, "test").messages()]
    assert max(sizes) < 1_000_000
    assert len(sizes) > 20_000


def test_every_section_is_documented_and_has_its_figures_in_the_order_it_is_taken_in() -> None:
    docs = Path(__file__).parents[3] / "docs"
    how, figures = (
        [heading.lower() for heading in re.findall(rf"^{level} (.+)$", (docs / page).read_text(), re.MULTILINE)]
        for page, level in (("benchmarks.md", "##"), ("performance.md", "###"))
    )
    assert how[: len(SECTIONS)] == list(SECTIONS)
    assert figures == list(SECTIONS)
