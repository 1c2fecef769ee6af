"""What a scenario did and what the checker found, and the table at the end."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from rich.console import Console
from rich.table import Table

from torture.checker import Findings

_SHOWN = 20


@dataclass
class Tally:
    """One scenario: the faults injected, by kind, and the findings when all had settled."""

    scenario: str
    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    findings: Findings = field(default_factory=Findings)
    seconds: float = 0.0

    def add(self, other: "Tally") -> None:
        """Add what another did and found."""
        self.faults += other.faults
        self.findings.add(other.findings)
        self.seconds += other.seconds

    def assert_faultless(self) -> None:
        """Raise AssertionError, with scenario, seed and the first differences, if anything is not as it must be."""
        wrong = self.findings.faults
        if wrong:
            shown = "\n".join(line[:500] for line in wrong[:_SHOWN])
            raise AssertionError(f"{self.scenario}, seed {self.seed}: {len(wrong)} differences\n{shown}")


_COLUMNS = (
    "scenario",
    "seed",
    "faults injected",
    "messages",
    "announcements",
    "lost",
    "duplicated",
    "reordered",
    "differing rows",
    "wrong answers",
    "wrong announcements",
    "seconds",
)


def show(tallies: Sequence[Tally], console: Console) -> None:
    """Print the table, a line for each scenario and one for all, and then what was wrong, if anything was."""
    table = Table(*_COLUMNS)
    for tally in tallies:
        table.add_row(tally.scenario, str(tally.seed), *_numbers([tally]))
    table.add_section()
    table.add_row("all", "", *_numbers(tallies))
    console.print(table)
    for tally in tallies:
        for line in tally.findings.faults[:_SHOWN]:
            console.print(f"{tally.scenario}: {line}", markup=False)


def _numbers(tallies: Sequence[Tally]) -> list[str]:
    findings = [tally.findings for tally in tallies]
    return [
        str(sum(tally.faults.total() for tally in tallies)),
        str(sum(each.messages for each in findings)),
        str(sum(each.announcements for each in findings)),
        str(sum(len(each.lost) for each in findings)),
        str(sum(each.duplicated for each in findings)),
        str(sum(len(each.reordered) for each in findings)),
        str(sum(len(each.differing_rows) for each in findings)),
        str(sum(len(each.wrong_answers) for each in findings)),
        str(sum(len(each.wrong_announcements) for each in findings)),
        f"{sum(tally.seconds for tally in tallies):.0f}",
    ]
