"""docs/logs.md lists every event that the service logs, with its levels and fields, and no other."""

import ast
import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGE = ROOT / "result_aggregator_service"
ROW = re.compile(r"^\| `(\w+)` \| ([a-z, ]+) \|[^|\n]+\|([^|\n]*)\|[^|\n]*\|$", re.MULTILINE)
LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}

Told = dict[str, tuple[set[str], set[str]]]
"""By event: its levels, its fields."""


def documented() -> Told:
    rows = ROW.findall((ROOT / "docs" / "logs.md").read_text())
    assert len({event for event, *_ in rows}) == len(rows), "an event has one row"
    return {event: (set(levels.split(", ")), fields_of(text)) for event, levels, text in rows}


def fields_of(text: str) -> set[str]:
    """The names before a colon; behind it stand values."""
    return {name for part in text.split(";") for name in re.findall(r"`(\w+)`", part.split(":")[0])}


def logged() -> tuple[Told, set[str]]:
    """What the code tells, and the events that have fields of which the code does not show the names."""
    told: Told = defaultdict(lambda: (set(), set()))
    open_ended: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        calls = {id(node.func): node for node in nodes if isinstance(node, ast.Call)}
        loggers = {
            ast.unparse(target)
            for node in nodes
            if isinstance(node, ast.Assign) and ast.unparse(node.value).startswith("structlog.get_logger")
            for target in node.targets
        }
        for node in nodes:
            if not (isinstance(node, ast.Attribute) and ast.unparse(node.value) in loggers):
                continue
            assert node.attr in LEVELS, f"{path}:{node.lineno}"
            assert id(node) in calls, f"{path}:{node.lineno}: a logger's method is called where it stands"
            call = calls[id(node)]
            assert len(call.args) == 1, f"{path}:{node.lineno}: one argument, the event; all else by name"
            named = call.args[0]
            for event in (named.body, named.orelse) if isinstance(named, ast.IfExp) else (named,):
                name = ast.unparse(event).strip("'")
                assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name), f"{path}:{node.lineno}: an event's name is written out"
                levels, fields = told[name]
                levels.add(node.attr)
                fields.update("exception" if k.arg == "exc_info" else k.arg for k in call.keywords if k.arg is not None)
                if any(k.arg is None for k in call.keywords):
                    open_ended.add(name)
    return dict(told), open_ended


def test_every_event_is_documented_and_every_documented_event_is_logged() -> None:
    assert documented().keys() == logged()[0].keys()


def test_levels_are_those_of_the_code() -> None:
    assert {event: levels for event, (levels, _) in documented().items()} == {
        event: levels for event, (levels, _) in logged()[0].items()
    }


def test_fields_are_those_of_the_code() -> None:
    told, open_ended = logged()
    for event, (_, fields) in documented().items():
        shown = told[event][1]
        assert shown <= fields if event in open_ended else shown == fields, event


def test_nothing_is_logged_past_structlog() -> None:
    """Such a line would be no event. (Commands that talk to an operator print by click.)"""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert not re.fullmatch(r"print|logging\.(debug|info|warning|error|exception)", called), path
