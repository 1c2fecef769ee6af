"""`python -m benchmarks.drain`: how fast the shipped service takes in a backlog, beside what its parts can do alone.

Real Apache Kafka, and PostgreSQL that waits for the disk. The backlog is produced before the service starts: all topics
at once, in the mix of the demo's traffic, by a seed. Each round reads it anew, as another group, into a new database.
"""

import argparse
import asyncio
import json
import random
import sys
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition
from confluent_kafka import Consumer, KafkaException
from confluent_kafka import TopicPartition as Partition
from rich.box import MARKDOWN
from rich.table import Table

from benchmarks.figures import Spread
from benchmarks.report import Json, Terminal, spread, write_figures
from benchmarks.stage import Stage, cpu_seconds, stage
from demo.player import Player, PlayerError
from demo.stage import migrate
from demo.traffic import traffic
from demo.wire import PAYLOADS
from embedded import ServerError

_SEED = 1
_EVENTS_OF_A_BATCH = 80  # at the least
_DRAIN_SECONDS = 900.0
_POLL_SECONDS = 0.25
_ROWS_OF_A_STATEMENT = 500
_BARE_ROWS = 30_000
_PACKAGES = ("aiokafka", "asyncpg", "pydantic", "sqlalchemy")

_FACTS = """
CREATE TABLE facts (essay_id varchar(255) PRIMARY KEY, batch_id varchar(255), at timestamptz, event_id uuid,
                    status text, corrections integer, text_id text)
"""
_UPSERT = """
INSERT INTO facts AS t
SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::uuid[], $5::text[], $6::int[], $7::text[])
ON CONFLICT (essay_id) DO UPDATE SET at = excluded.at, event_id = excluded.event_id, status = excluded.status,
    corrections = excluded.corrections, text_id = excluded.text_id
WHERE (t.at, t.event_id) < (excluded.at, excluded.event_id)
"""
_ENTERED = "SELECT count(*) AS events, extract(epoch FROM max(processed_at))::float8 AS at FROM processed_events"


class BenchmarkError(RuntimeError):
    """The service does not do what was to be measured."""


@dataclass(frozen=True, slots=True)
class Round:
    """One taking: messages, messages or rows a second, and CPU seconds of the service for 1,000 messages."""

    service: float
    cpu_seconds_per_1000: float
    bare_drain: float
    bare_upsert: float


@dataclass(frozen=True, slots=True)
class Measured:
    """What the rounds say together."""

    section: str
    messages: int
    messages_per_second: Spread
    of_bare_drain: Spread
    of_bare_upsert: Spread
    cpu_seconds_per_1000: Spread
    bare_drain_per_second: Spread
    bare_upsert_per_second: Spread

    @classmethod
    def of(cls, messages: int, rounds: Sequence[Round]) -> "Measured":
        """Of at least one round; the ratios are taken round by round."""
        return cls(
            "backlog",
            messages,
            Spread.of([each.service for each in rounds]),
            Spread.of([each.service / each.bare_drain for each in rounds]),
            Spread.of([each.service / each.bare_upsert for each in rounds]),
            Spread.of([each.cpu_seconds_per_1000 for each in rounds]),
            Spread.of([each.bare_drain for each in rounds]),
            Spread.of([each.bare_upsert for each in rounds]),
        )


def run(messages: int, rounds: int, settings: Mapping[str, str], report: Terminal) -> Measured:
    """Start everything, measure, stop everything.

    Raises:
        ServerError, PlayerError: a server did not start, or did not do its part.
        BenchmarkError: the backlog was not drained.
    """
    with ExitStack() as running:
        report.say("Starting the servers ...")
        servers = running.enter_context(stage(writes=True))
        with servers.service():
            pass  # it makes the topics, with the partitions they come with
        with Player(servers.kafka.bootstrap_servers, "benchmark") as player:
            batches = -(-messages // _EVENTS_OF_A_BATCH)
            player.play(traffic(seed=_SEED, batches=batches, run="drain", broken=False), lambda _: None)
        backlog = _Backlog(servers)
        report.say(f"{backlog.messages:,} messages of {batches:,} batches lie in {len(backlog.ends)} partitions")
        found: list[Round] = []
        for number in range(1, rounds + 1):
            bare_drain = asyncio.run(backlog.drained_bare())
            bare_upsert = asyncio.run(_upserted(servers.postgres.url_for("postgres")))
            found.append(Round(*backlog.drained(number, settings), bare_drain, bare_upsert))
            report.say(f"Round {number} of {rounds}: {found[-1].service:,.0f} messages/s")
    return Measured.of(backlog.messages, found)


class _Backlog:
    """The messages that lie in Kafka, to be read as often as wanted."""

    def __init__(self, servers: Stage) -> None:
        self._servers = servers
        self.ends = self._find_ends()
        self.messages = sum(self.ends.values())

    def _find_ends(self) -> dict[tuple[str, int], int]:
        reader = self._client("benchmark")
        try:
            topics = reader.list_topics(timeout=20.0).topics
            found = [(topic, number) for topic in PAYLOADS for number in topics[topic].partitions]
            return {each: reader.get_watermark_offsets(Partition(*each), timeout=20.0)[1] for each in found}
        finally:
            reader.close()

    def _client(self, group: str) -> Consumer:
        """It joins no group: it only asks."""
        servers = self._servers.kafka.bootstrap_servers
        return Consumer({"bootstrap.servers": servers, "group.id": group, "enable.auto.commit": False})

    def drained(self, number: int, settings: Mapping[str, str]) -> tuple[float, float]:
        """Let the service take all in; messages a second, and its CPU seconds for 1,000 of them.

        Both from the first look at which there were some: the start of a process takes CPU time too.
        """
        group, database = f"drain-{number}", f"drain_{number}"
        asyncio.run(_execute(self._servers.postgres.url, f"CREATE DATABASE {database}"))
        url = self._servers.postgres.url_for(database)
        migrate(url, log=self._servers.folder / "alembic.log")
        reader = self._client(group)
        own = {"DATABASE_URL": url, "KAFKA_CONSUMER_GROUP_ID": group, **settings}
        try:
            with self._servers.service(**own) as service:
                deadline = time.monotonic() + _DRAIN_SECONDS
                while not (begun := asyncio.run(_ask(url, _ENTERED)))["events"]:
                    self._wait(deadline)
                cpu_begun = cpu_seconds(service)
                while self._committed(reader) < self.messages:
                    self._wait(deadline)
                cpu = cpu_seconds(service) - cpu_begun
                ended = asyncio.run(_ask(url, _ENTERED))
        finally:
            reader.close()
            asyncio.run(_execute(self._servers.postgres.url, f"DROP DATABASE {database} WITH (FORCE)"))
        # The inbox holds each message once; of the messages some come twice.
        messages = self.messages * (ended["events"] - begun["events"]) / ended["events"]
        return messages / (ended["at"] - begun["at"]), 1000 * cpu / messages

    def _committed(self, reader: Consumer) -> int:
        found = reader.committed([Partition(*each) for each in self.ends], timeout=20.0)
        return sum(max(0, each.offset) for each in found)

    @staticmethod
    def _wait(deadline: float) -> None:
        if time.monotonic() > deadline:
            raise BenchmarkError(f"the backlog was not drained within {_DRAIN_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)

    async def drained_bare(self) -> float:
        """Read all with aiokafka and do nothing with it; messages a second."""
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self._servers.kafka.bootstrap_servers,
            auto_offset_reset="earliest",
            enable_auto_commit=False,
        )
        await consumer.start()
        try:
            consumer.assign([TopicPartition(*each) for each in self.ends])
            left, started = self.messages, time.monotonic()
            while left:
                left -= sum(map(len, (await consumer.getmany(timeout_ms=500, max_records=500)).values()))
            return self.messages / (time.monotonic() - started)
        finally:
            await consumer.stop()


async def _upserted(url: str) -> float:
    """Write one narrow facet of essays, each three times, 500 rows a transaction, on one connection; rows a second."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        await connection.execute("DROP TABLE IF EXISTS facts")
        await connection.execute(_FACTS)
        rng = random.Random(_SEED)
        statement = await connection.prepare(_UPSERT)
        now = await connection.fetchval("SELECT now()")
        took = 0.0
        for _ in range(_BARE_ROWS // _ROWS_OF_A_STATEMENT):
            numbers = sorted(rng.sample(range(_BARE_ROWS // 3), _ROWS_OF_A_STATEMENT))
            columns = (
                [f"essay-{number:08}-0123456789ab" for number in numbers],
                [f"batch-{number // 30:08}-0123456789ab" for number in numbers],
                [now] * len(numbers),
                [uuid.UUID(int=rng.getrandbits(128)) for _ in numbers],
                ["completed"] * len(numbers),
                numbers,
                [f"text-{number:08}-0123456789ab" for number in numbers],
            )
            started = time.monotonic()
            await statement.fetch(*columns)
            took += time.monotonic() - started
        return _BARE_ROWS / took
    finally:
        await connection.close()


async def _ask(url: str, query: str) -> asyncpg.Record:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        return (await connection.fetch(query))[0]
    finally:
        await connection.close()


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def show(report: Terminal, found: Measured, before: Sequence[Json]) -> None:
    """All figures; with those of an earlier run, also what they were."""
    table = Table(box=MARKDOWN)
    table.add_column("of a backlog", no_wrap=True)
    table.add_column(f"{found.messages:,} messages", justify="right", no_wrap=True)
    if before:
        table.add_column("before", justify="right", no_wrap=True)
    for name, what, form in (
        ("messages_per_second", "messages/s", ",.0f"),
        ("cpu_seconds_per_1000", "CPU s of the service for 1,000", ".3f"),
        ("of_bare_drain", "of a drain without work", ".3f"),
        ("of_bare_upsert", "of bare upserts", ".3f"),
        ("bare_drain_per_second", "drain without work, messages/s", ",.0f"),
        ("bare_upsert_per_second", "bare upserts, rows/s", ",.0f"),
    ):
        row = [what, spread(getattr(found, name), form)]
        if before:
            then = before[0][name]["median"]
            row.append(f"{then:{form}} ({getattr(found, name).median / then - 1:+.0%})")
        table.add_row(*row)
    report.show(table)


def main() -> int:
    """Measure and tell; the exit status is 1 if something else than what was to be measured came out."""
    arguments = _arguments()
    report = Terminal()
    messages, rounds = (5_000, 1) if arguments.quick else (arguments.messages, arguments.rounds)
    before = [] if arguments.baseline is None else json.loads(arguments.baseline.read_text())["measured"]
    settings = dict(each.split("=", 1) for each in arguments.set)
    try:
        found = run(messages, rounds, settings, report)
    except (ServerError, PlayerError, KafkaException, BenchmarkError) as error:
        report.fail(f"{type(error).__name__}: {error}")
        return 1
    show(report, found, before)
    if arguments.json is not None:
        write_figures(arguments.json, [asdict(found)], _PACKAGES)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.drain", description="How fast the shipped service takes in a backlog."
    )
    parser.add_argument("--rounds", type=int, default=3, help="how often it is taken in (default 3)")
    parser.add_argument("--messages", type=int, default=100_000, help="at the least (default 100000)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the service")
    parser.add_argument("--quick", action="store_true", help="so short that it shows only that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="compare with the figures of an earlier run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
