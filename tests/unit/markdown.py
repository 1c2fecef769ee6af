"""Markdown as the tests of the documentation read it: pages, headings, links, code."""

import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: Folders that hold what others wrote, or what a run leaves.
_NOT_OURS = {
    ".git",
    ".venv",
    ".tools",
    ".demo",
    ".hypothesis",
    ".pytest_cache",
    ".mypy_cache",
    ".ruff_cache",
    "htmlcov",
}
#: Every Markdown file of the repository.
PAGES = sorted(
    page
    for folder in (ROOT, *(f for f in ROOT.iterdir() if f.is_dir() and f.name not in _NOT_OURS))
    for page in (folder.glob("*.md") if folder == ROOT else folder.rglob("*.md"))
)

_FENCE = re.compile(r"^ {0,3}```([\w-]*)[^\n]*\n(.*?)^ {0,3}```[ ]*$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:\A|\n\n)((?: {4}[^\n]*\n|\n(?= {4}))+)")
_CODE = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
_INLINE_LINK = re.compile(r"\[(?:[^\[\]]|\[[^\[\]]*\](?:\([^)]*\))?)*\]\((?:<([^>]*)>|([^\s)]*))(?:\s+\"[^\"]*\")?\)")
_DEFINITION = re.compile(r"^ {0,3}\[([^\]]+)\]:\s*(?:<([^>]*)>|(\S+))", re.MULTILINE)
_REFERENCE = re.compile(r"\[([^\[\]]+)\]\[([^\[\]]*)\]")
_HREF = re.compile(r"(?:href|src)=\"([^\"]*)\"")


def fences_of(text: str) -> Iterator[tuple[str, str]]:
    """Language and text of each fenced block."""
    return ((match[1], match[2]) for match in _FENCE.finditer(text))


def indented_of(text: str) -> Iterator[str]:
    """Each block of code that is set in by four spaces; not the lines of a list."""
    for match in _INDENTED.finditer(_FENCE.sub("", text)):
        yield re.sub(r"^ {4}", "", match[1], flags=re.MULTILINE)


def spans_of(text: str) -> Iterator[str]:
    """What stands between backticks, in one line each."""
    for match in _CODE.finditer(_without_blocks(text)):
        yield " ".join(match[2].split())


def _without_blocks(text: str) -> str:
    return _INDENTED.sub("\n\n", _FENCE.sub("", text))


def links_of(text: str) -> Iterator[str]:
    """Where the links and images of a page lead, written in the line or by reference.

    Raises AssertionError for a reference that is defined nowhere.
    """
    prose = _CODE.sub("", _without_blocks(text))
    defined = {match[1].lower(): match[2] or match[3] for match in _DEFINITION.finditer(prose)}
    for match in _INLINE_LINK.finditer(prose):
        yield match[1] or match[2]
    for match in _REFERENCE.finditer(_DEFINITION.sub("", _INLINE_LINK.sub("", prose))):
        name = (match[2] or match[1]).lower()
        assert name in defined, f"the reference [{name}] is defined nowhere"
        yield defined[name]
    yield from _HREF.findall(prose)


def anchors_of(text: str) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    anchors: set[str] = set()
    for heading in re.findall(r"^#{1,6} +(.+?)(?: +#+)? *$", _FENCE.sub("", text), re.MULTILINE):
        shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        shown = re.sub(r"(?<!\w)_([^_]+)_(?!\w)", r"\1", shown)
        anchor = re.sub(r"[^\w\- ]", "", shown.lower()).replace(" ", "-")
        times, name = 0, anchor
        while name in anchors:
            times += 1
            name = f"{anchor}-{times}"
        anchors.add(name)
    return anchors
