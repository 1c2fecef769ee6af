"""`python -m benchmarks.profile`: where the service's CPU time goes while it takes in a backlog, by kind of work.

py-spy looks at the running process a hundred times a second, from outside and without stopping it, and notes every
thread that is at work. What is noted belongs to the innermost frame that says something: a library counts as itself,
whoever called it. `make profile` fetches py-spy.
"""

import argparse
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.box import MARKDOWN
from rich.table import Table

from benchmarks.deployment import deployed
from benchmarks.drain import produced
from benchmarks.errors import ERRORS, BenchmarkError
from benchmarks.report import Terminal
from benchmarks.stage import cpu_seconds, stage
from demo.stage import ServiceProcess

_LOOKS_A_SECOND = 100
_WARM_UP_SECONDS = 2.0

#: Kinds of work by a frame, `function (file:line)`; the first that fits.
_KINDS = {
    "announcements": r"publishing/(event_publisher|outbox_manager)\.py|domain/(announcements|notification_proj\w+)\.py",
    "relay": r"publishing/",
    "decode: bytes to messages": r"consumer/decoder\.py|contracts/|pydantic",
    "SQL: rows made and encoded": r"\bto_row \(|storage/upserts\.py",
    "fold": r"domain/(fold|facets|event)\.py",
    "judge batches": r"domain/|projection/completion\.py",
    "SQL: the driver": r"asyncpg/|storage/session\.py",
    "SQL: begin, commit, connections": r"storage/engine\.py|sqlalchemy/",
    "SQL: statements and their results": r"storage/|projection/",
    "Kafka client": r"aiokafka/|kafka/|consumer/",
    "Redis": r"redis/|cache/",
    "logs": r"observability/logging\.py|structlog/|logging/",
    "metrics": r"observability/|prometheus_client/",
    "HTTP": r"uvicorn/|quart/|api/",
}
_RULES = [(kind, re.compile(pattern)) for kind, pattern in _KINDS.items()]
_EVENT_LOOP = re.compile(r"asyncio/|selectors\.py")


def kind_of(stack: str) -> str:
    """What a stack is about: its frames from the outermost on, between semicolons."""
    frames = stack.split(";")
    for frame in reversed(frames):
        for kind, pattern in _RULES:
            if pattern.search(frame):
                return kind
    return "event loop, waking and waiting" if any(map(_EVENT_LOOP.search, frames)) else "other"


def shares(stacks: Iterable[tuple[str, int]]) -> dict[str, float]:
    """The share of each kind in the samples, the largest first."""
    samples: Counter[str] = Counter()
    for stack, count in stacks:
        samples[kind_of(stack)] += count
    return {kind: count / samples.total() for kind, count in samples.most_common()}


def stacks_of(raw: str) -> Iterator[tuple[str, int]]:
    """What py-spy wrote as `raw`: a line for each stack, with how often it was seen."""
    for line in raw.splitlines():
        stack, _, count = line.rpartition(" ")
        yield stack, int(count)


def _profile(py_spy: str, service: ServiceProcess, seconds: int, file: Path) -> tuple[dict[str, float], float]:
    """The shares, and for which part of the time the process was at work.

    Raises:
        BenchmarkError: py-spy did not do its part.
    """
    cpu_begun, begun = cpu_seconds(service), time.monotonic()
    command = [py_spy, "record", "--pid", str(service.pid), "--duration", str(seconds), "--rate", str(_LOOKS_A_SECOND)]
    command += ["--nonblocking", "--format", "raw", "--output", str(file)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0 or not file.exists():
        raise BenchmarkError(f"py-spy ended with status {done.returncode}: {done.stderr.strip()}")
    at_work = (cpu_seconds(service) - cpu_begun) / (time.monotonic() - begun)
    return shares(stacks_of(file.read_text())), at_work


def _show(report: Terminal, found: dict[str, float], at_work: float, per_1000: float) -> None:
    table = Table(box=MARKDOWN)
    table.add_column("where the time goes", no_wrap=True)
    table.add_column("share", justify="right", no_wrap=True)
    table.add_column("CPU ms for 1,000 messages", justify="right", no_wrap=True)
    for kind, share in found.items():
        table.add_row(kind, f"{share:.1%}", f"{1000 * share * per_1000:.1f}")
    report.show(table)
    report.say(f"The process was at work for {at_work:.0%} of the time; the rest it waited")


def main() -> int:
    """Profile a drain; the exit status is 1 if there was none."""
    arguments = _arguments()
    report = Terminal()
    try:
        with stage(writes=True) as servers:
            with servers.service():
                pass  # it makes the topics, with the partitions they come with
            backlog = produced(servers, arguments.messages)
            with deployed(servers, begin=backlog.begin) as deployment:
                time.sleep(_WARM_UP_SECONDS)
                file = arguments.raw or servers.folder / "stacks.raw"
                found, at_work = _profile(arguments.py_spy, deployment.service, arguments.seconds, file)
                if not deployment.left():
                    raise BenchmarkError("the backlog was taken in before the time was over: use more --messages")
            with deployed(servers, begin=backlog.begin) as deployment:
                taken = deployment.take_in_backlog(backlog.messages)
    except ERRORS as error:
        report.fail(f"{type(error).__name__}: {error}")
        return 1
    _show(report, found, at_work, taken.cpu_per_1000.service)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.profile", description="Where the service's CPU time goes while it drains."
    )
    parser.add_argument("--py-spy", default="py-spy", metavar="FILE", help="the program (`make profile` fetches it)")
    parser.add_argument("--messages", type=int, default=150_000, help="of the backlog, at the least (default 150000)")
    parser.add_argument("--seconds", type=int, default=10, help="to look at it (default 10)")
    parser.add_argument("--raw", type=Path, metavar="FILE", help="keep the stacks, for a flame graph")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
