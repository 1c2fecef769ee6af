"""`python -m benchmarks`: all sections in one run, each with its table, all figures in one file. Needs Linux.

Each section starts what it needs; those that are told only what there is to measure share one set of servers.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks import drain, freshness, growth, memory, outbox, reads, scale_out
from benchmarks.errors import ERRORS
from benchmarks.finding import Finding, table
from benchmarks.report import Json, Report, machine, with_figures, write_figures
from benchmarks.sections import SECTIONS as QUESTIONS
from benchmarks.stage import Stage, stage

_PACKAGES = ("aiokafka", "asyncpg", "httptools", "pydantic", "quart", "redis", "sqlalchemy", "uvicorn")

#: Shows its table beside what an earlier run found, and returns what is to be kept.
Section = Callable[[bool, Sequence[Json], Report], Sequence[Json]]
Measure = Callable[[Stage, bool, Report], list[Finding]]


def _reads(quick: bool, before: Sequence[Json], report: Report) -> Sequence[Json]:
    length = replace(reads.QUICK, many=200) if quick else reads.Length(rounds=5, seconds=0.6)
    found = reads.run(QUESTIONS, length, report)
    earlier = {(each["section"], each["connections"]): each for each in before}
    report.table(found, earlier or None)
    report.compare(found)
    return [asdict(each) for each in found]


def _outbox(quick: bool, before: Sequence[Json], report: Report) -> Sequence[Json]:
    full = outbox.Length(rounds=3, seconds=4.0, bare_seconds=2.0, drain=50_000, waiting=1_000)
    found = outbox.run(outbox.QUICK if quick else full, batch_size=100, rows_of_a_transaction=8, report=report)
    outbox.show(report, found, before)
    return [asdict(each) for each in found]


#: These start servers of their own.
ALONE: dict[str, Section] = {"reads": _reads, "outbox": _outbox}
#: These share servers. The one that takes longest is the last.
TOGETHER: dict[str, Measure] = {
    "drain": drain.measure,
    "freshness": freshness.measure,
    "growth": growth.measure,
    "scale-out": scale_out.measure,
    "memory": memory.measure,
}
SECTIONS = (*ALONE, *TOGETHER)
_WHAT = {
    "reads": "answers, beside a bare Quart route with the same bytes",
    "outbox": "announcements, beside a bare producer",
    "drain": "a backlog and streams, beside a drain without work and bare upserts",
    "freshness": "from produced to visible, and reads beside a backlog",
    "growth": "full tables beside nearly empty ones",
    "scale-out": "two replicas beside one",
    "memory": "the size of the process",
}


@contextmanager
def _shared_servers() -> Iterator[Stage]:
    with stage(writes=True) as servers:
        with servers.service():
            pass  # it makes the topics, with the partitions they come with
        yield servers


def run(
    chosen: Sequence[str], quick: bool, before: Sequence[Json], file: Path | None, page: Path | None, report: Report
) -> None:
    """Take sections one after another; what one has measured is told and written before the next begins.

    Raises:
        what `ERRORS` lists: something else than what was to be measured came out.
    """
    measured: list[Json] = []
    with ExitStack() as running:
        servers: Stage | None = None
        for name in chosen:
            report.say(f"\n{name}: {_WHAT[name]}")
            earlier, begun = [each for each in before if each.get("of") == name], time.monotonic()
            if name in ALONE:
                figures = ALONE[name](quick, earlier, report)
            else:
                servers = servers or running.enter_context(_shared_servers())
                found = TOGETHER[name](servers, quick, report)
                report.show(table(name, found, earlier))
                figures = [asdict(each) for each in found]
            report.say(f"{name} took {time.monotonic() - begun:.0f} s")
            measured += [{"of": name, **each} for each in figures]
            if file is not None:
                write_figures(file, measured, _PACKAGES)
            if page is not None:
                page.write_text(with_figures(page.read_text(), name, "\n\n".join(report.tables)))
            report.tables.clear()


def main() -> int:
    """Measure and tell; the exit status is 1 if something else than what was to be measured came out."""
    arguments = _arguments()
    report = Report()
    before = [] if arguments.baseline is None else json.loads(arguments.baseline.read_text())["measured"]
    report.say(", ".join(f"{name} {value}" for name, value in machine().items()))
    report.say(f"processes that wanted to run, mean of the last minute: {os.getloadavg()[0]:.2f} (quiet: below 0.5)")
    try:
        chosen = [name for name in SECTIONS if name in arguments.only]
        run(chosen, arguments.quick, before, arguments.json, arguments.markdown, report)
    except ERRORS as error:
        report.fail(f"{type(error).__name__}: {error}")
        return 1
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="What the shipped service does in a second, and beside what."
    )
    parser.add_argument(
        "--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="SECTION", help=f"of {', '.join(SECTIONS)}"
    )
    parser.add_argument("--quick", action="store_true", help="so short that it shows only that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--markdown", type=Path, metavar="PAGE", help="put each table under its heading on this page")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="compare with the figures of an earlier run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
