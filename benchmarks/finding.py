"""What a section finds: figures by name, each over the rounds it was taken in, as a table and beside an earlier run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.box import MARKDOWN
from rich.table import Table

from benchmarks.figures import Spread
from benchmarks.report import spread

_FORMS = {"ms": ",.1f", "MiB": ",.1f", "times": ".3f", "s": ",.3f"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure of a section."""

    name: str
    unit: str
    value: Spread


class Findings:
    """Collects what each round finds, in the order in which a name was first told of."""

    def __init__(self) -> None:
        self._values: dict[tuple[str, str], list[float]] = {}

    def add(self, name: str, unit: str, value: float) -> None:
        """One figure of one round."""
        self._values.setdefault((name, unit), []).append(value)

    def share(self, name: str, of: str, beside: str) -> None:
        """How many times as much one was as the other, round by round."""
        (some, others) = (
            next(values for (each, _), values in self._values.items() if each == wanted) for wanted in (of, beside)
        )
        for one, other in zip(some, others, strict=True):
            self.add(name, "times", one / other)

    def over_rounds(self) -> list[Finding]:
        """What the rounds say together."""
        return [Finding(name, unit, Spread.of(values)) for (name, unit), values in self._values.items()]


def table(section: str, found: Sequence[Finding], before: Sequence[Mapping[str, Any]]) -> Table:
    """All figures; with those of an earlier run, also what they were."""
    table = Table(box=MARKDOWN)
    table.add_column(section, no_wrap=True)
    table.add_column("median (least-most)", justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    if before:
        table.add_column("before", justify="right", no_wrap=True)
    earlier = {each["name"]: each["value"]["median"] for each in before}
    for each in found:
        form = _FORMS.get(each.unit, ",.0f")
        row = [each.name, spread(each.value, form), each.unit]
        if before:
            then = earlier.get(each.name)
            row.append(f"{then:{form}} ({each.value.median / then - 1:+.0%})" if then else "")
        table.add_row(*row)
    return table
