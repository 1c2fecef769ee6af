"""What came of a run: a table (which is Markdown), the same figures as JSON, and what changed since an earlier run."""

import io
import json
import os
import platform
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.box import MARKDOWN
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from benchmarks.figures import Figures, Spread
from benchmarks.sections import COMPARISONS

_WIDTH_WITHOUT_TERMINAL = 300
PACKAGES = ("quart", "uvicorn", "httptools", "redis", "sqlalchemy", "asyncpg")

Json = dict[str, Any]
Key = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Measured:
    """A section with some connections: the service, the bare route, and the share of its speed that the service has."""

    section: str
    connections: int
    body_bytes: int
    service: Figures
    bare: Figures
    ratio: Spread


def write_figures(file: Path, measured: Sequence[Json], packages: Sequence[str]) -> None:
    """Keep the figures, and on what machine and with which packages they were taken."""
    content = {
        "taken_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {**machine(), **{name: version(name) for name in packages}},
        "measured": measured,
    }
    rounded = json.loads(json.dumps(content), parse_float=lambda digits: round(float(digits), 4))
    file.write_text(json.dumps(rounded, indent=1) + "\n")


def machine() -> Json:
    """What the figures were taken on."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def read_figures(file: Path) -> dict[Key, Json]:
    """The figures of an earlier run, by section and number of connections."""
    return {(each["section"], each["connections"]): each for each in json.loads(file.read_text())["measured"]}


class Terminal:
    """Writes to the console, and keeps the tables that it showed."""

    def __init__(self) -> None:
        self.tables: list[str] = []
        self._console = Console(highlight=False)
        if not self._console.is_terminal:
            self._console.width = _WIDTH_WITHOUT_TERMINAL

    def say(self, text: str) -> None:
        """One line."""
        self._console.print(escape(text), soft_wrap=True)

    def fail(self, text: str) -> None:
        """Why there is no result."""
        self._console.print(escape(text), style="bold red", soft_wrap=True)

    def show(self, table: Table) -> None:
        """A table."""
        self._console.print(table)
        text = io.StringIO()
        Console(file=text, width=_WIDTH_WITHOUT_TERMINAL).print(table)
        self.tables.append("\n".join(line.rstrip() for line in text.getvalue().splitlines() if line.strip()))


class Report(Terminal):
    """What came of reads."""

    def table(self, found: Sequence[Measured], before: Mapping[Key, Json] | None) -> None:
        """All figures; with those of an earlier run, also how those changed that a machine's speed matters least to."""
        table = Table(box=MARKDOWN)
        table.add_column("section", no_wrap=True)
        for name in ("at once", "bytes", "requests/s", "p50 ms", "p99 ms", "bare requests/s", "of bare"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("CPU s/1000", justify="right", no_wrap=True)
        if before is not None:
            table.add_column("of bare, before", justify="right", no_wrap=True)
            table.add_column("CPU s/1000, before", justify="right", no_wrap=True)
        for each in found:
            row = [
                each.section,
                str(each.connections),
                f"{each.body_bytes:,}",
                spread(each.service.requests_per_second, ",.0f"),
                f"{each.service.p50_ms.median:.2f}",
                f"{each.service.p99_ms.median:.2f}",
                f"{each.bare.requests_per_second.median:,.0f}",
                spread(each.ratio, ".3f"),
                f"{each.service.cpu_seconds_per_1000:.2f}",
            ]
            if before is not None:
                row += _before(each, before.get((each.section, each.connections)))
            table.add_row(*row)
        self.show(table)

    def compare(self, found: Sequence[Measured]) -> None:
        """Sections beside each other, one request at a time."""
        p50 = {each.section: each.service.p50_ms.median for each in found if each.connections == 1}
        for section, other, what in COMPARISONS:
            if section in p50 and other in p50:
                share = p50[section] / p50[other]
                self.say(f"{what}: {p50[section]:.2f} ms beside {p50[other]:.2f} ms, {share:.2f} times as long")


def with_figures(page: str, section: str, text: str) -> str:
    """A page on which a text has taken the place of what stood under the heading of a section.

    Raises:
        ValueError: there is no such heading.
    """
    heading = re.compile(rf"^(### {section}\n).*?(?=^##|\Z)", re.MULTILINE | re.DOTALL | re.IGNORECASE)
    changed, found = heading.subn(lambda match: f"{match[1]}\n{text}\n\n", page)
    if not found:
        raise ValueError(f"the page has no heading '### {section}'")
    return changed


def spread(values: Spread, form: str) -> str:
    """The median, with the least and the most."""
    return f"{values.median:{form}} ({values.least:{form}}-{values.most:{form}})"


def _before(measured: Measured, before: Json | None) -> list[str]:
    if before is None:
        return ["", ""]
    pairs = (
        (measured.ratio.median, before["ratio"]["median"]),
        (measured.service.cpu_seconds_per_1000, before["service"]["cpu_seconds_per_1000"]),
    )
    return [f"{then:.3f} ({now / then - 1:+.0%})" if then else "" for now, then in pairs]


def _processor() -> str:
    """The processor's name; its architecture where the system does not tell."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
