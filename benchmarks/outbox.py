"""`python -m benchmarks.outbox`: how fast the shipped service publishes its outbox, beside a bare aiokafka producer.

Real Apache Kafka, and PostgreSQL that waits for the disk. Servers, service and load are processes of their own, on this
machine. Everything is taken in turn, round after round, so that a noisy machine disturbs all alike. Needs Linux.
"""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import asyncpg
from rich.box import MARKDOWN
from rich.table import Table

from benchmarks.errors import ERRORS, BenchmarkError
from benchmarks.figures import Spread
from benchmarks.outbox_load import Fill, KeepWaiting, Offer, Produce, Row
from benchmarks.read_model import ReadModel
from benchmarks.report import Json, Terminal, spread, write_figures
from benchmarks.stage import GROUP_ID, Stage, cpu_seconds, stage
from benchmarks.worker import Took, Worker
from demo.player import Player
from demo.stage import ServiceProcess

_ESSAYS = 30
_ANNOUNCED = 4  # of a batch: its assessment, its results, and what its teacher is told of each
_DRAIN_SECONDS = 600.0
_POLL_SECONDS = 0.2
_PACKAGES = ("aiokafka", "asyncpg", "sqlalchemy")

_ORIGINALS = """
SELECT event_id, aggregate_type, aggregate_id, event_type, event_data::text AS event_data, event_key, topic, traceparent
FROM event_outbox ORDER BY id
"""
_FIRST_WAITING = "SELECT min(id) FROM event_outbox WHERE published_at IS NULL"  # not their number: that takes a while
_LAST = "SELECT coalesce(max(id), 0) FROM event_outbox"
# By PostgreSQL's clock on both sides. `inserted` is when the last of the rows was made.
_PUBLISHED = """
WITH taken AS (
    SELECT created_at, published_at, max(created_at) OVER () AS inserted FROM event_outbox WHERE id > $1
)
SELECT extract(epoch FROM published_at - created_at)::float8 AS latency,
       extract(epoch FROM published_at - min(published_at) OVER ())::float8 AS at,
       published_at > inserted AS waited
FROM taken ORDER BY latency
"""


@dataclass(frozen=True, slots=True)
class Length:
    """How long a run is, and what is offered: rows made before the start, rows kept waiting, rows a second."""

    rounds: int
    seconds: float
    bare_seconds: float
    drain: int
    waiting: int
    rates: Sequence[int] = (100, 500, 1_000, 2_000)


QUICK = Length(rounds=1, seconds=1.0, bare_seconds=0.3, drain=1_000, waiting=200, rates=(100, 500))


@dataclass(frozen=True, slots=True)
class Slice:
    """One taking of one section. Seconds for the latencies, of which there may be none, and for how long the rows' own
    transactions took (they wait for the same disk); of the service, its CPU time, and the rows not published when the
    last was inserted.
    """

    rows_per_second: float
    p50: float | None = None
    p95: float | None = None
    p99: float | None = None
    insert_p50: float | None = None
    insert_p99: float | None = None
    waiting: int | None = None
    cpu_seconds_per_1000: float | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """What all slices of a section say, and its rows a second as a share of the bare producer's in the same round."""

    section: str
    rows_per_second: Spread
    p50_ms: Spread | None
    p95_ms: Spread | None
    p99_ms: Spread | None
    insert_p50_ms: Spread | None
    insert_p99_ms: Spread | None
    waiting: Spread | None
    cpu_seconds_per_1000: Spread | None
    of_bare: Spread | None


@dataclass(frozen=True)
class Section:
    """What is taken once in each round. `beside` is the section whose share of rows a second is told."""

    name: str
    take: Callable[[], Slice]
    beside: str | None = None
    slices: list[Slice] = field(default_factory=list)


def measured(section: Section, beside: Section | None) -> Measured:
    """What the slices of a section say together, with those of another, round by round."""

    def over_rounds(values: Sequence[float | None], times: float = 1.0) -> Spread | None:
        there = [value * times for value in values if value is not None]
        return Spread.of(there) if there else None

    slices = section.slices
    shares = (
        [one.rows_per_second / other.rows_per_second for one, other in zip(slices, beside.slices, strict=True)]
        if beside is not None
        else []
    )
    return Measured(
        section=section.name,
        rows_per_second=Spread.of([each.rows_per_second for each in slices]),
        p50_ms=over_rounds([each.p50 for each in slices], 1000),
        p95_ms=over_rounds([each.p95 for each in slices], 1000),
        p99_ms=over_rounds([each.p99 for each in slices], 1000),
        insert_p50_ms=over_rounds([each.insert_p50 for each in slices], 1000),
        insert_p99_ms=over_rounds([each.insert_p99 for each in slices], 1000),
        waiting=over_rounds([each.waiting for each in slices]),
        cpu_seconds_per_1000=over_rounds([each.cpu_seconds_per_1000 for each in slices]),
        of_bare=Spread.of(shares) if shares else None,
    )


class Outbox:
    """Takes slices on one stage; the service is another process in each round."""

    def __init__(self, servers: Stage, worker: Worker, originals: Sequence[Row], teacher: str, batch_size: int) -> None:
        self._servers = servers
        self._worker = worker
        self._originals, self._teacher = originals, teacher
        self._batch_size = batch_size
        self._database_url = servers.postgres.url.replace("+asyncpg", "")
        self._service: ServiceProcess | None = None

    def start(self, running: ExitStack, rows: int) -> Slice:
        """Start the service on so many rows that are there already; from the first one published to the last."""
        last = self._ask(_LAST)[0][0]
        self._worker.put(Fill(self._originals, self._teacher, self._database_url, rows))
        settings = {"OUTBOX_BATCH_SIZE": str(self._batch_size)}
        self._service = running.enter_context(self._servers.service(**settings))
        at = [row["at"] for row in self._published(last)]
        # The time of the first batch lies before its rows are published.
        return Slice((rows - self._batch_size) / max(at))

    def kept_waiting(self, waiting: int, seconds: float) -> Slice:
        """As many rows come in as go out."""
        took, rows, cpu = self._while(KeepWaiting(self._originals, self._teacher, self._database_url, waiting, seconds))
        published = [row for row in rows if not row["waited"]]
        return Slice(len(published) / took.seconds, waiting=len(rows) - len(published), cpu_seconds_per_1000=cpu)

    def offered(self, rate: int, rows_of_a_transaction: int, seconds: float) -> Slice:
        """Rows come in at a rate."""
        took, rows, cpu = self._while(
            Offer(self._originals, self._teacher, self._database_url, rate, rows_of_a_transaction, seconds)
        )
        latencies = Took(len(rows), took.seconds, [row["latency"] for row in rows])
        return replace(
            _with_latencies(latencies),
            insert_p50=took.percentile(50),
            insert_p99=took.percentile(99),
            waiting=sum(row["waited"] for row in rows),
            cpu_seconds_per_1000=cpu,
        )

    def bare(self, batch: int, seconds: float, rate: int | None = None, *, waits: bool = True) -> Slice:
        """The same messages without an outbox."""
        order = Produce(
            self._originals, self._teacher, self._servers.kafka.bootstrap_servers, batch, seconds, rate, waits
        )
        return _with_latencies(self._worker.put(order))

    def _while(self, order: KeepWaiting | Offer) -> tuple[Took, list[asyncpg.Record], float]:
        """Put a load on the service; what its rows say once they are published, and CPU seconds for 1,000 of them."""
        assert self._service is not None
        last, cpu = self._ask(_LAST)[0][0], cpu_seconds(self._service)
        took = self._worker.put(order)
        rows = self._published(last)
        return took, rows, 1000 * (cpu_seconds(self._service) - cpu) / len(rows)

    def _published(self, after: int) -> list[asyncpg.Record]:
        """The rows after that id, once they are published all.

        Raises:
            BenchmarkError: they are not.
        """
        deadline = time.monotonic() + _DRAIN_SECONDS
        while first := self._ask(_FIRST_WAITING)[0][0]:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"row {first} and maybe others were not published within {_DRAIN_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)
        return self._ask(_PUBLISHED, after)

    def _ask(self, query: str, *arguments: object) -> list[asyncpg.Record]:
        return ask(self._database_url, query, *arguments)


def ask(database_url: str, query: str, *arguments: object) -> list[asyncpg.Record]:
    """The rows of a query, on a connection of its own."""

    async def fetch() -> list[asyncpg.Record]:
        connection = await asyncpg.connect(database_url)
        try:
            return await connection.fetch(query, *arguments)
        finally:
            await connection.close()

    return asyncio.run(fetch())


def _with_latencies(took: Took) -> Slice:
    p50, p95, p99 = (took.percentile(percent) for percent in (50, 95, 99))
    return Slice(took.rows / took.seconds, p50, p95, p99)


def run(length: Length, batch_size: int, rows_of_a_transaction: int, report: Terminal) -> list[Measured]:
    """Start everything, measure, stop everything.

    Raises:
        ServerError, PlayerError: a server did not start, or did not do its part.
        LoadError, BenchmarkError: something else than what was to be measured came out.
    """
    with ExitStack() as running:
        report.say("Starting the servers ...")
        servers = running.enter_context(stage(writes=True))
        worker = running.enter_context(Worker())
        originals, teacher = _announce(servers)
        sizes = ", ".join(f"{len(row.event_data):,}" for row in originals)
        report.say(f"Rows are copies of the {len(originals)} of a batch of {_ESSAYS} essays; bytes: {sizes}")
        outbox = Outbox(servers, worker, originals, teacher, batch_size)
        of_round = running.enter_context(ExitStack())

        def drain() -> Slice:
            of_round.close()
            return outbox.start(of_round, length.drain)

        sections = _sections(outbox, drain, length, batch_size, rows_of_a_transaction)
        for number in range(1, length.rounds + 1):
            for section in sections:
                os.sync()  # or what earlier ones left in the page cache is written while this one waits for the disk
                section.slices.append(section.take())
            report.say(f"Round {number} of {length.rounds}")
    by_name = {section.name: section for section in sections}
    return [measured(section, by_name[section.beside] if section.beside else None) for section in sections]


def _sections(
    outbox: Outbox, drain: Callable[[], Slice], length: Length, batch_size: int, rows_of_a_transaction: int
) -> list[Section]:
    """All sections, in the order they are taken in."""
    bare = f"bare producer, {batch_size:,} at a time"
    sections = [
        Section(f"relay, {length.drain:,} rows made before", drain, beside=bare),
        Section(bare, lambda: outbox.bare(batch_size, length.bare_seconds)),
        Section(
            f"relay, {length.waiting:,} rows kept waiting",
            lambda: outbox.kept_waiting(length.waiting, length.seconds),
            beside=bare,
        ),
        Section(
            "bare producer, not waiting for each batch",
            lambda: outbox.bare(batch_size, length.bare_seconds, waits=False),
        ),
    ]
    for rate in length.rates:
        sections += [
            Section(
                f"relay, {rate:,} rows/s offered",
                lambda rate=rate: outbox.offered(rate, rows_of_a_transaction, length.seconds),  # type: ignore[misc]
            ),
            Section(
                f"bare producer, {rate:,} rows/s offered",
                lambda rate=rate: outbox.bare(rows_of_a_transaction, length.bare_seconds, rate),  # type: ignore[misc]
            ),
        ]
    return sections


def _announce(servers: Stage) -> tuple[list[Row], str]:
    """Let the service announce a batch; its rows and its teacher."""
    database_url = servers.postgres.url.replace("+asyncpg", "")
    with servers.service(), Player(servers.kafka.bootstrap_servers, GROUP_ID) as player:
        teacher = ReadModel(player, servers.postgres.url).play(_ESSAYS)
        deadline = time.monotonic() + _DRAIN_SECONDS
        while len(rows := ask(database_url, _ORIGINALS)) < _ANNOUNCED or ask(database_url, _FIRST_WAITING)[0][0]:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"{len(rows)} rows were announced of a batch, not {_ANNOUNCED}")
            time.sleep(_POLL_SECONDS)
    return [Row(**row) for row in rows], teacher.user_id


def show(report: Terminal, found: Sequence[Measured], before: Sequence[Json]) -> None:
    """All figures; with those of an earlier run, also how much rows a second, share of bare and p99 changed."""
    table = Table(box=MARKDOWN)
    table.add_column("section", no_wrap=True)
    names = ["rows/s", "of bare", "p50 ms", "p95 ms", "p99 ms"]
    names += ["insert p50 ms", "insert p99 ms", "left at the end", "CPU s/1000"]
    changes = ["rows/s, before", "of bare, before", "p99 ms, before"] if before else []
    for name in names + changes:
        table.add_column(name, justify="right", no_wrap=True)
    earlier = {each["section"]: each for each in before}
    for each in found:
        row = [
            each.section,
            spread(each.rows_per_second, ",.0f"),
            _spread_if_any(each.of_bare, ".2f"),
            *(_spread_if_any(value, ".1f") for value in (each.p50_ms, each.p95_ms, each.p99_ms)),
            "" if each.insert_p50_ms is None else f"{each.insert_p50_ms.median:.1f}",
            _spread_if_any(each.insert_p99_ms, ".1f"),
            _spread_if_any(each.waiting, ",.0f"),
            "" if each.cpu_seconds_per_1000 is None else f"{each.cpu_seconds_per_1000.median:.2f}",
        ]
        if before:
            then: Json = earlier.get(each.section, {})
            pairs = ((each.rows_per_second, "rows_per_second"), (each.of_bare, "of_bare"), (each.p99_ms, "p99_ms"))
            row += [_change(now, then.get(name)) for now, name in pairs]
        table.add_row(*row)
    report.show(table)


def _spread_if_any(values: Spread | None, form: str) -> str:
    return "" if values is None else spread(values, form)


def _change(now: Spread | None, then: Json | None) -> str:
    if now is None or not then or not then["median"]:
        return ""
    return f"{then['median']:,.2f} ({now.median / then['median'] - 1:+.0%})"


def main() -> int:
    """Measure and tell; the exit status is 1 if something else than what was to be measured came out."""
    arguments = _arguments()
    report = Terminal()
    length = (
        QUICK
        if arguments.quick
        else Length(arguments.rounds, arguments.seconds, arguments.seconds / 2, arguments.drain, arguments.waiting)
    )
    before: list[Any] = [] if arguments.baseline is None else json.loads(arguments.baseline.read_text())["measured"]
    try:
        found = run(length, arguments.batch_size, arguments.rows, report)
    except ERRORS as error:
        report.fail(f"{type(error).__name__}: {error}")
        return 1
    show(report, found, before)
    if arguments.json is not None:
        write_figures(arguments.json, [asdict(each) for each in found], _PACKAGES)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.outbox",
        description="How fast the shipped service publishes its outbox, beside a bare aiokafka producer.",
    )
    parser.add_argument("--rounds", type=int, default=5, help="slices of each (default 5)")
    parser.add_argument(
        "--seconds", type=float, default=4.0, help="length of a slice (default 4; of the bare ones half)"
    )
    parser.add_argument("--drain", type=int, default=50_000, help="rows made before the start (default 50000)")
    parser.add_argument("--waiting", type=int, default=1_000, help="rows kept waiting (default 1000)")
    parser.add_argument(
        "--rows", type=int, default=8, help="rows of a transaction, where a rate is offered (default 8)"
    )
    parser.add_argument("--batch-size", type=int, default=100, help="OUTBOX_BATCH_SIZE (default 100, as shipped)")
    parser.add_argument("--quick", action="store_true", help="so short that it shows only that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="compare with the figures of an earlier run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
