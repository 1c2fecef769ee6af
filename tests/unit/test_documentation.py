"""The documentation says what the code does: every setting with its default, every link, every name in a diagram."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from result_aggregator_service.settings import Settings
from tests.unit.markdown import PAGES, ROOT, anchors_of, fences_of, links_of

SETTINGS_TABLE = (ROOT / "docs" / "settings.md").read_text()
ROWS = dict(re.findall(r"^\| `([A-Z_]+)` \| (.+?) \|", SETTINGS_TABLE, re.MULTILINE))
PACKAGE = ROOT / "result_aggregator_service"

_PARTICIPANT = re.compile(r"participant (\w+) as (.+)")
_MODULE = re.compile(r"([A-Za-z]+) \(([a-z_/]+\.py)\)")
_MESSAGE = re.compile(r"(\w+)(->>|-->>|-x|--x)(\w+): (.+)")
_NOTE = re.compile(r"Note (?:over|left of|right of) (\w+)(?:,(\w+))?: (.+)")
_OPENS = re.compile(r"(?:loop|alt|opt|par|break|critical) (.+)")
_DIVIDES = re.compile(r"(?:else|and|option) (.+)")


def _named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_every_setting_is_documented_and_nothing_else() -> None:
    assert sorted(ROWS) == sorted(name.upper() for name in Settings.model_fields)


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, field in Settings.model_fields.items()
        if isinstance(field.default, (int, float)) and field.default
    ],
)
def test_the_documented_default_of_a_number_is_the_real_one(name: str) -> None:
    default = Settings.model_fields[name].default
    documented = ROWS[name.upper()].strip("`")
    assert documented == (
        str(default).lower()
        if isinstance(default, bool)
        else f"{default:g}"
        if isinstance(default, float)
        else str(default)
    )


@pytest.mark.parametrize("page", PAGES, ids=_named)
def test_links_lead_to_a_file_and_a_heading_that_are_there(page: Path) -> None:
    for target in links_of(page.read_text()):
        if re.match(r"[a-z]+:", target):
            continue  # elsewhere: not fetched
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{_named(page)} links to {target}, which is not there"
        if anchor:
            assert file.suffix == ".md", f"{_named(page)} links to {target}, which has no headings"
            assert anchor in anchors_of(file.read_text()), f"{_named(page)} links to {target}: no such heading there"


def test_the_readme_leads_to_every_page() -> None:
    readme = ROOT / "README.md"
    linked = {(ROOT / target.partition("#")[0]).resolve() for target in links_of(readme.read_text())}
    assert [_named(page) for page in PAGES if page != readme and page.resolve() not in linked] == []


def test_anchors_are_made_as_github_makes_them() -> None:
    text = "# A `code`, and [a link](x.md)\n## Twice\n## Twice\n```\n# no heading\n```\n## What's _so_ done-by? A/B\n"
    assert anchors_of(text) == {"a-code-and-a-link", "twice", "twice-1", "whats-so-done-by-ab"}


def test_links_are_found_in_every_form_and_not_in_code() -> None:
    text = (
        "[a](a.md) ![b](b.png) [c][d] [E][] `[no](f.md)`\n\n[d]: d.md#x\n[e]: <e f.md>\n\n"
        '```\n[no](g.md)\n```\n[over\nlines](h.md "title") <a href="i.md">i</a>\n'
    )
    assert sorted(links_of(text)) == ["a.md", "b.png", "d.md#x", "e f.md", "h.md", "i.md"]
    with pytest.raises(AssertionError, match="nowhere"):
        list(links_of("[a][nowhere]"))


def _diagrams() -> Iterator[tuple[str, list[str]]]:
    for page in PAGES:
        for number, (language, text) in enumerate(fences_of(page.read_text()), start=1):
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            if language == "mermaid" and lines[0] == "sequenceDiagram":
                yield f"{_named(page)}, block {number}", lines[1:]


def check_sequence(lines: list[str]) -> None:
    """The grammar of Mermaid's sequence diagrams, as far as it is used, and that what is named is there in the code.

    A participant `Name (folder/module.py)` is a class or function of that module of the package; a message to it that
    says `name(...)` calls a function there.
    """
    sources: dict[str, str | None] = {}
    depth = 0
    for line in lines:
        assert ";" not in line, f"Mermaid ends a line at a semicolon: {line}"
        assert "#" not in line, f"Mermaid takes what follows a # for an entity: {line}"
        if match := _PARTICIPANT.fullmatch(line):
            sources[match[1]] = None
            if module := _MODULE.fullmatch(match[2]):
                sources[match[1]] = (PACKAGE / module[2]).read_text()
                assert re.search(rf"^(?:class|def|async def) {module[1]}\b", sources[match[1]] or "", re.MULTILINE), (
                    line
                )
        elif match := _MESSAGE.fullmatch(line):
            assert {match[1], match[3]} <= sources.keys(), f"not a participant: {line}"
            assert not re.search(r"\bend\b", match[4]), f"Mermaid takes `end` for the end of a block: {line}"
            source = sources[match[3]]
            for name in re.findall(r"(\w+)\(", match[4]) if source is not None else ():
                assert re.search(rf"def {name}\(", source or ""), f"no function {name} there: {line}"
        elif match := _NOTE.fullmatch(line):
            assert {match[1], match[2] or match[1]} <= sources.keys(), f"not a participant: {line}"
        elif _OPENS.fullmatch(line):
            depth += 1
        elif _DIVIDES.fullmatch(line):
            assert depth, f"nothing is open: {line}"
        else:
            assert line == "end", f"not a line of a sequence diagram: {line}"
            depth -= 1
            assert depth >= 0, "an `end` too many"
    assert depth == 0, "an `end` is missing"


@pytest.mark.parametrize(("where", "lines"), [pytest.param(*d, id=d[0]) for d in _diagrams()])
def test_sequence_diagrams_can_be_drawn_and_name_what_is_in_the_code(where: str, lines: list[str]) -> None:
    check_sequence(lines)


@pytest.mark.parametrize(
    "line",
    ["A->>C: hello", "A->B: hello", "loop for ever", "end", "A->>B: no_such(thing)", "A->>B: a; b", "else or"],
)
def test_a_wrong_diagram_is_found(line: str) -> None:
    right = ["participant A as Kafka", "participant B as Relay (publishing/relay.py)", "A->>B: run()", "B-->>A: done"]
    check_sequence(right)
    with pytest.raises(AssertionError):
        check_sequence([*right, line])
