"""Failpoints: each stands in one place, reaching one does nothing until it is armed, and then what was asked for."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import result_aggregator_service
from result_aggregator_service.failpoints import Action, Armed, Failpoint, arm, failpoint

PACKAGE = Path(result_aggregator_service.__file__).parent
TWICE = """
from result_aggregator_service.failpoints import Armed, Failpoint, arm, failpoint
arm([Armed.parse("relay.send.after=kill@2")])
for turn in range(3):
    failpoint(Failpoint.RELAY_SEND_BEFORE)
    failpoint(Failpoint.RELAY_SEND_AFTER)
    print("turn", turn, flush=True)
"""


@pytest.fixture(autouse=True)
def _unarmed() -> Iterator[None]:
    yield
    arm(())


def test_every_failpoint_stands_in_exactly_one_place() -> None:
    sources = [path.read_text() for path in PACKAGE.rglob("*.py")]
    reached = [name for source in sources for name in re.findall(r"\bfailpoint\(Failpoint\.(\w+)\)", source)]
    assert sorted(reached) == sorted(Failpoint.__members__)


@pytest.mark.parametrize("point", Failpoint)
def test_a_failpoint_is_named_by_part_step_and_side(point: Failpoint) -> None:
    assert re.fullmatch(r"[a-z]+\.[a-z]+\.(before|after)", point)
    assert point.name == point.upper().replace(".", "_")


def test_an_unarmed_failpoint_does_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    for point in Failpoint:
        failpoint(point)
    assert capfd.readouterr() == ("", "")


def test_one_that_logs_says_each_time_that_it_is_reached_and_others_say_nothing(
    capfd: pytest.CaptureFixture[str],
) -> None:
    arm([Armed(Failpoint.POLL_DECODE_BEFORE, Action.LOG), Armed(Failpoint.RELAY_MARK_AFTER, Action.LOG, at=2)])
    for _ in range(3):
        failpoint(Failpoint.POLL_DECODE_BEFORE)
        failpoint(Failpoint.POLL_DECODE_AFTER)
        failpoint(Failpoint.RELAY_MARK_AFTER)
    assert capfd.readouterr().err.splitlines() == [
        "failpoint poll.decode.before reached, time 1: log",
        "failpoint poll.decode.before reached, time 2: log",
        "failpoint relay.mark.after reached, time 2: log",
        "failpoint poll.decode.before reached, time 3: log",
    ]


def test_arming_counts_from_the_beginning_and_forgets_what_was_armed(capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        arm([Armed(Failpoint.POLL_DECODE_BEFORE, Action.LOG, at=1)])
        failpoint(Failpoint.POLL_DECODE_BEFORE)
    arm([Armed(Failpoint.POLL_DECODE_AFTER, Action.LOG)])
    failpoint(Failpoint.POLL_DECODE_BEFORE)
    assert capfd.readouterr().err.splitlines() == ["failpoint poll.decode.before reached, time 1: log"] * 2


def test_one_that_kills_ends_the_process_at_its_time_without_any_farewell() -> None:
    ended = subprocess.run([sys.executable, "-c", TWICE], capture_output=True, text=True, check=False)
    assert ended.returncode == -9
    assert ended.stdout == "turn 0\n"
    assert ended.stderr == "failpoint relay.send.after reached, time 2: kill\n"


@pytest.mark.parametrize(
    ("text", "armed"),
    [
        ("relay.send.after=kill", Armed(Failpoint.RELAY_SEND_AFTER, Action.KILL)),
        ("offsets.commit.before=log@12", Armed(Failpoint.OFFSETS_COMMIT_BEFORE, Action.LOG, 12)),
    ],
)
def test_what_is_armed_is_read_from_text(text: str, armed: Armed) -> None:
    assert Armed.parse(text) == armed


@pytest.mark.parametrize(
    "text",
    ["relay.send.after", "=kill", "relay.send.after=kill@0", "relay.send.after=kill@", "relay.send.after=kill 3"],
)
def test_text_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not <failpoint>=<action>"):
        Armed.parse(text)
