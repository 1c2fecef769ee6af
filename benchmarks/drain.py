"""`python -m benchmarks.drain`: how fast the shipped service takes in messages, beside what its parts can do alone.

Real Apache Kafka, and PostgreSQL that waits for the disk. A backlog is produced before the service starts: all topics
at once, in the mix of the demo's traffic, by a seed. Each round reads it anew, as another group, into a new database.
Then the same process is given steady streams, to see which it keeps up with.
"""

import argparse
import asyncio
import json
import random
import sys
import time
import uuid
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from benchmarks.deployment import Deployment, Offsets, TakenIn, deployed, topic_ends
from benchmarks.errors import ERRORS
from benchmarks.finding import Finding, Findings, table
from benchmarks.report import Terminal, write_figures
from benchmarks.stage import GROUP_ID, Stage, stage
from benchmarks.steady import Produce
from benchmarks.worker import Worker
from demo.player import Player
from demo.traffic import traffic

_SEED = 1
_EVENTS_OF_A_BATCH = 80  # at the least
_ROWS_OF_A_STATEMENT = 500
_PACKAGES = ("aiokafka", "asyncpg", "pydantic", "sqlalchemy")
_BACKLOG, _CPU = "a backlog is taken in", "CPU for 1,000 messages"
_SKEWED = "a backlog in one partition of each topic is taken in"
_BARE_DRAIN = "drain without work"
_BARE_UPSERTS, _OWN_UPSERTS = "bare upserts, a narrow table", "bare upserts, the service's essays"

_FACTS = """
CREATE TABLE facts (essay_id varchar(255) PRIMARY KEY, batch_id varchar(255), at timestamptz, event_id uuid,
                    status text, corrections integer, text_id text)
"""
_READ = (
    "SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::uuid[], $5::text[], $6::int[], $7::text[])"
    " AS r(essay_id, batch_id, at, event_id, status, corrections, text_id)"
)
_UPSERT_FACTS = f"""
INSERT INTO facts AS t {_READ}
ON CONFLICT (essay_id) DO UPDATE SET at = excluded.at, event_id = excluded.event_id, status = excluded.status,
    corrections = excluded.corrections, text_id = excluded.text_id
WHERE (t.at, t.event_id) < (excluded.at, excluded.event_id)
"""
_UPSERT_ESSAYS = f"""
INSERT INTO essay_results AS t (essay_id, batch_id, heard_at, spellcheck_at, spellcheck_event_id, spellcheck_status,
    spellcheck_correction_count, spellcheck_corrected_text_storage_id)
SELECT essay_id, batch_id, at, at, event_id, status, corrections, text_id FROM ({_READ}) AS r
ON CONFLICT (essay_id) DO UPDATE SET heard_at = excluded.heard_at, spellcheck_at = excluded.spellcheck_at,
    spellcheck_event_id = excluded.spellcheck_event_id, spellcheck_status = excluded.spellcheck_status,
    spellcheck_correction_count = excluded.spellcheck_correction_count,
    spellcheck_corrected_text_storage_id = excluded.spellcheck_corrected_text_storage_id
WHERE (t.spellcheck_at, t.spellcheck_event_id) < (excluded.spellcheck_at, excluded.spellcheck_event_id)
"""


@dataclass(frozen=True, slots=True)
class Length:
    """How long a run is: messages of the backlog, rows of the bare upserts, seconds of streams at these rates."""

    rounds: int
    messages: int
    rows: int
    seconds: float
    rates: Sequence[int]


FULL = Length(rounds=5, messages=100_000, rows=120_000, seconds=5.0, rates=(2_000, 4_000, 6_000, 8_000))
QUICK = Length(rounds=1, messages=5_000, rows=3_000, seconds=0.5, rates=(2_000,))


def measure(servers: Stage, quick: bool, report: Terminal) -> list[Finding]:
    """Take in a backlog and streams in each round, the service with its settings the defaults.

    Raises:
        ServerError, PlayerError: a server did not start, or did not do its part.
        LoadError, BenchmarkError: the messages were not taken in.
    """
    return drained(servers, QUICK if quick else FULL, {}, report)


def drained(servers: Stage, length: Length, settings: dict[str, str], report: Terminal) -> list[Finding]:
    """The same with other lengths, and other settings of the service."""
    backlog, found = produced(servers, length.messages), Findings()
    report.say(f"{backlog.messages:,} messages lie in {len(backlog.ends)} partitions")
    with Worker() as worker:
        for number in range(1, length.rounds + 1):
            bare_drain = asyncio.run(backlog.drained_bare(servers))
            bare_upserts = asyncio.run(_upserted(servers.postgres.url, "facts", _UPSERT_FACTS, length.rows))
            own_upserts = asyncio.run(_upserted(servers.postgres.url, "essay_results", _UPSERT_ESSAYS, length.rows))
            with deployed(servers, begin=backlog.begin, settings=settings) as deployment:
                taken = deployment.take_in_backlog(backlog.messages)
                _tell(taken, found)
                found.add(_BARE_DRAIN, "messages/s", bare_drain)
                found.add(_BARE_UPSERTS, "rows/s", bare_upserts)
                found.add(_OWN_UPSERTS, "rows/s", own_upserts)
            report.say(f"Round {number} of {length.rounds}: {taken.messages_per_second:,.0f} messages/s")
        # Not before: what is produced for them would lie behind the backlog.
        skewed = produced(servers, length.messages // 2, key=b"one for all")
        for _ in range(length.rounds):
            with deployed(servers, begin=skewed.begin, settings=settings) as deployment:
                found.add(_SKEWED, "messages/s", deployment.take_in_backlog(skewed.messages).messages_per_second)
        for number in range(1, length.rounds + 1):
            with deployed(servers, settings=settings) as deployment:
                for rate in length.rates:
                    _stream(worker, deployment, rate, length.seconds, f"stream-{number}-{rate}", found)
    for bare in (_BARE_DRAIN, _BARE_UPSERTS, _OWN_UPSERTS):
        found.share(f"{_BACKLOG} beside {bare}", _BACKLOG, bare)
    return found.over_rounds()


def _tell(taken: TakenIn, found: Findings) -> None:
    found.add(_BACKLOG, "messages/s", taken.messages_per_second)
    of_all = taken.cpu_per_1000
    for name, seconds in (
        ("the service", of_all.service),
        ("PostgreSQL", of_all.postgres),
        ("Kafka", of_all.kafka),
        ("Redis", of_all.redis),
    ):
        found.add(f"{_CPU}: {name}", "s", seconds)


def _stream(worker: Worker, deployment: Deployment, rate: int, seconds: float, run_label: str, found: Findings) -> None:
    took = worker.put(Produce(deployment.servers.kafka.bootstrap_servers, run_label, rate, seconds))
    ended = time.monotonic()
    deployment.wait_until_taken_in()
    found.add(f"{rate:,} messages/s for {seconds:g} s: really produced", "messages/s", took.rows / took.seconds)
    found.add(f"{rate:,} messages/s for {seconds:g} s: behind at the end", "s", time.monotonic() - ended)


@dataclass(frozen=True, slots=True)
class Backlog:
    """Messages that lie in Kafka, to be read as often as wanted."""

    begin: Offsets
    ends: Offsets

    @property
    def messages(self) -> int:
        """How many."""
        return sum(self.ends.values()) - sum(self.begin.values())

    async def drained_bare(self, servers: Stage) -> float:
        """Read all with aiokafka and do nothing with it; messages a second."""
        consumer = AIOKafkaConsumer(bootstrap_servers=servers.kafka.bootstrap_servers, enable_auto_commit=False)
        await consumer.start()
        try:
            consumer.assign([TopicPartition(*each) for each in self.begin])
            for each, offset in self.begin.items():
                consumer.seek(TopicPartition(*each), offset)
            left, started = self.messages, time.monotonic()
            while left > 0:
                left -= sum(map(len, (await consumer.getmany(timeout_ms=500, max_records=500)).values()))
            return self.messages / (time.monotonic() - started)
        finally:
            await consumer.stop()


def produced(servers: Stage, messages: int, *, key: bytes | None = None) -> Backlog:
    """At least so many messages, behind what the topics hold already; under the key of each, or all under one."""
    begin = topic_ends(servers)
    with Player(servers.kafka.bootstrap_servers, GROUP_ID) as player:
        batches = -(-messages // _EVENTS_OF_A_BATCH)
        played = traffic(seed=_SEED, batches=batches, run="drain", broken=False)
        player.play([each._replace(key=key or each.key) for each in played], lambda _: None)
    return Backlog(begin, topic_ends(servers))


async def _upserted(url: str, table: str, upsert: str, rows: int) -> float:
    """Write one facet of essays, each three times, 500 rows a transaction, on one connection; rows a second.

    Each statement is a transaction of its own, whose commit waits for the disk; each states everything later than those
    before, so that every row is written. Its time holds all that the driver does with it: arguments are encoded in it,
    too. What is left out is only to make the columns.
    """
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        await connection.execute(f"DROP TABLE IF EXISTS facts; {_FACTS}")
        rng = random.Random(_SEED)
        statement = await connection.prepare(upsert)
        now = await connection.fetchval("SELECT now()")
        took = 0.0
        for place in range(rows // _ROWS_OF_A_STATEMENT):
            numbers = sorted(rng.sample(range(rows // 3), _ROWS_OF_A_STATEMENT))
            columns = (
                [f"essay-{number:08}-0123456789ab" for number in numbers],
                [f"batch-{number // 30:08}-0123456789ab" for number in numbers],
                [now + timedelta(milliseconds=place)] * len(numbers),
                [uuid.UUID(int=rng.getrandbits(128)) for _ in numbers],
                ["completed"] * len(numbers),
                numbers,
                [f"text-{number:08}-0123456789ab" for number in numbers],
            )
            started = time.monotonic()
            await statement.fetch(*columns)
            took += time.monotonic() - started
        return rows / took
    finally:
        # The stage's own database is what every new one is a copy of.
        await connection.execute(f"TRUNCATE {table}; DROP TABLE facts")
        await connection.close()


def main() -> int:
    """Measure and tell; the exit status is 1 if something else than what was to be measured came out."""
    arguments = _arguments()
    report = Terminal()
    length = QUICK if arguments.quick else Length(arguments.rounds, arguments.messages, FULL.rows, FULL.seconds, ())
    before = [] if arguments.baseline is None else json.loads(arguments.baseline.read_text())["measured"]
    settings = dict(each.split("=", 1) for each in arguments.set)
    try:
        with stage(writes=True) as servers:
            with servers.service():
                pass  # it makes the topics, with the partitions they come with
            found = drained(servers, length, settings, report)
    except ERRORS as error:
        report.fail(f"{type(error).__name__}: {error}")
        return 1
    report.show(table("drain", found, before))
    if arguments.json is not None:
        write_figures(arguments.json, [asdict(each) for each in found], _PACKAGES)
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.drain", description="How fast the shipped service takes in a backlog; no streams."
    )
    parser.add_argument("--rounds", type=int, default=FULL.rounds, help="how often it is taken in (default 5)")
    parser.add_argument("--messages", type=int, default=FULL.messages, help="at the least (default 100000)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a setting of the service")
    parser.add_argument("--quick", action="store_true", help="so short that it shows only that it works")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--baseline", type=Path, metavar="FILE", help="compare with the figures of an earlier run")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
