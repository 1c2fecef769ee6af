"""What a full read model costs, beside a nearly empty one; a very large batch, and a user of very many batches."""

import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice

import httpx
from redis import Redis

from benchmarks.deployment import Deployment, copied_database, deployed, execute
from benchmarks.finding import Finding, Findings
from benchmarks.read_model import FinishedBatch, ReadModel, Teacher
from benchmarks.report import Terminal
from benchmarks.sections import BATCHES
from benchmarks.stage import GROUP_ID, Stage
from demo.player import Player
from demo.traffic import traffic

ESSAYS = 33
_EVENTS_OF_A_BATCH = 85
_FEW = 5
_WARM_UP = 2
_SMALL = "nearly empty"
_BACKLOG, _BATCH = "a backlog is taken in", f"a batch of {ESSAYS} essays, missed"
_PAGES = {"first page by cursor": "&cursor=", "first page by offset": ""}
# What the service keeps beside the read model: the messages that it has had, rankings as they were announced, the
# ledger, the archive of the outbox.
_INBOX = """
INSERT INTO processed_events (event_id, topic, partition, "offset", processed_at)
SELECT gen_random_uuid(), 'huleedu.els.essay.slot.assigned.v1', number % 4, number / 4, now() - interval '1 day'
FROM generate_series(1, $1::bigint) number
"""
_BESIDE = (
    """
    INSERT INTO cj_assessments (
        batch_id, job_id, graded, assessed_at, rankings, correlation_id, announcement_id, event_id
    )
    SELECT b.batch_id, 'job', false, now() - interval '1 hour', original.rankings, gen_random_uuid(), gen_random_uuid(),
           gen_random_uuid()
    FROM batch_results b, (SELECT rankings FROM cj_assessments LIMIT 1) original
    """,
    """
    INSERT INTO announcements (event_id, topic, batch_id, announced_at)
    SELECT unnest(ARRAY[announcement_id, event_id]), 'huleedu.ras.batch.results.ready.v1', batch_id,
           now() - interval '1 hour'
    FROM cj_assessments WHERE job_id = 'job'
    """,
    """
    INSERT INTO event_outbox (
        event_id, aggregate_type, aggregate_id, event_type, event_data, event_key, topic, created_at, published_at
    )
    SELECT event_id, 'batch', batch_id, topic, json_build_object('data', repeat('x', 800)), batch_id, topic,
           announced_at, announced_at
    FROM announcements ON CONFLICT DO NOTHING
    """,
)


@dataclass(frozen=True, slots=True)
class Length:
    """How long a run is, and how much there is in the tables."""

    rounds: int
    batches: int
    many: int
    messages: int
    large: int
    asked: int
    asked_for_large: int

    def sizes(self) -> tuple[int, int]:
        """Of the batches that are taken in for their size."""
        return self.large, self.large // 10


_FULL = Length(rounds=5, batches=30_000, many=50_000, messages=60_000, large=10_000, asked=30, asked_for_large=5)
_QUICK = Length(rounds=1, batches=300, many=500, messages=2_000, large=1_000, asked=5, asked_for_large=2)


@dataclass(frozen=True, slots=True)
class Filled:
    """A database that nobody is connected to, and whom there is to ask about in it."""

    name: str
    some: Teacher
    few: Teacher
    many: Teacher


def measure(servers: Stage, quick: bool, report: Terminal) -> list[Finding]:
    """Fill two databases; in each round, let the service work on a copy of each.

    Raises:
        ServerError, PlayerError: a server did not start, or did not do its part.
        httpx.HTTPError, BenchmarkError: something else than what was to be measured came out.
    """
    length = _QUICK if quick else _FULL
    large = f"{length.batches * ESSAYS:,} essays"
    found = Findings()
    with ExitStack() as filled:
        databases = {
            _SMALL: filled.enter_context(filled_database(servers, "small", length.batches // 100, length.many // 100)),
            large: filled.enter_context(filled_database(servers, "large", length.batches, length.many)),
        }
        report.say(f"The larger database holds {large} in {length.batches:,} batches, and a user of {length.many:,}")
        for number in range(1, length.rounds + 1):
            # Whoever is first has the colder start.
            for name, database in list(databases.items())[:: 1 if number % 2 else -1]:
                with copied_database(servers, database.name) as copy, deployed(servers, database=copy) as deployment:
                    _beside(deployment, name, database, f"growth-{number}-{len(name)}", length, found)
                    if name != _SMALL:
                        _lists(deployment, database, length, found)
                        _large_batch(deployment, f"growth-large-{number}", length, found)
            report.say(f"Round {number} of {length.rounds}")
    for what in (_BACKLOG, _BATCH):
        found.share(f"{what}: {large} beside {_SMALL}", f"{what}, {large}", f"{what}, {_SMALL}")
    found.share("taken in: the large batch beside one of a tenth", *(_large(essays) for essays in length.sizes()))
    for how in _PAGES:
        found.share(f"{how}: many batches beside {_FEW}", f"{how}, {length.many:,} batches", f"{how}, {_FEW} batches")
    return found.over_rounds()


@contextmanager
def filled_database(servers: Stage, name: str, batches: int, many: int) -> Iterator[Filled]:
    """A database with so many batches of 33 essays, a user of `many` batches, and all that the service keeps beside.

    Raises:
        ServerError, PlayerError, BenchmarkError: the batches that the others are copies of were not taken in.
    """
    with copied_database(servers) as database:
        with deployed(servers, database=database) as deployment:
            url = deployment.database_url
            with Player(servers.kafka.bootstrap_servers, GROUP_ID) as player:
                read_model = ReadModel(player, url, run=f"growth-{name}")
                of_some, of_few = read_model.play(ESSAYS), read_model.play(_FEW)
                deployment.wait_until_taken_in()
        filled = Filled(
            database,
            some=read_model.copy(of_some, batches, "teacher-of-some"),
            few=read_model.copy(of_few, _FEW, "teacher-of-few", minutes_apart=1),
            many=read_model.copy(of_few, many, "teacher-of-many", minutes_apart=1),
        )
        execute(url, _INBOX, batches * _EVENTS_OF_A_BATCH)
        for statement in _BESIDE:
            execute(url, statement)
        execute(url, "VACUUM (ANALYZE)")  # what autovacuum would do in the midst of a measurement
        yield filled


def _beside(deployment: Deployment, name: str, database: Filled, run: str, length: Length, found: Findings) -> None:
    """What is measured on both databases."""
    messages = list(islice(traffic(batches=length.messages, run=run, broken=False), length.messages))
    found.add(f"{_BACKLOG}, {name}", "messages/s", deployment.take_in(messages).messages_per_second)
    asked = _Asked(deployment, f"{BATCHES}/{database.some.batch_ids[0]}/status")
    found.add(f"{_BATCH}, {name}", "ms", asked.milliseconds(length.asked))


def _lists(deployment: Deployment, database: Filled, length: Length, found: Findings) -> None:
    for how, page in _PAGES.items():
        for teacher in (database.few, database.many):
            asked = _Asked(deployment, f"{BATCHES}/user/{teacher.user_id}?limit={_FEW}&view=summary{page}")
            name = f"{how}, {len(teacher.batch_ids):,} batches"
            found.add(name, "ms", asked.milliseconds(length.asked))


def _large_batch(deployment: Deployment, run: str, length: Length, found: Findings) -> None:
    for essays in length.sizes():
        batch = FinishedBatch(essays, essays, run)
        taken = deployment.take_in(batch.messages())
        found.add(_large(essays), "messages/s", taken.messages_per_second)
        if essays == length.large:
            for encoding in ("identity", "gzip"):
                asked = _Asked(deployment, f"{BATCHES}/{batch.batch_id}/status", encoding)
                found.add(f"the large batch, {encoding}", "bytes", asked.bytes_on_the_wire())
                times = length.asked_for_large
                found.add(f"the large batch, {encoding}, missed", "ms", asked.milliseconds(times))
                found.add(f"the large batch, {encoding}, again", "ms", asked.milliseconds(times, missed=False))


def _large(essays: int) -> str:
    return f"a batch of {essays:,} essays is taken in"


class _Asked:
    """A path, asked for again and again over one connection."""

    def __init__(self, deployment: Deployment, path: str, encoding: str = "identity") -> None:
        self._deployment = deployment
        self._path = path
        self._encoding = encoding

    def milliseconds(self, times: int, *, missed: bool = True) -> float:
        """The median until the whole answer was there; Redis is emptied before each, unless it is to be a hit."""
        servers, took = self._deployment.servers, []
        with servers.api(self._deployment.service) as api, Redis.from_url(servers.valkey.url) as redis:
            for _ in range(_WARM_UP):
                self._get(api)
            for _ in range(times):
                if missed:
                    redis.flushall()
                started = time.perf_counter()
                self._get(api)
                took.append(time.perf_counter() - started)
        return 1000 * statistics.median(took)

    def bytes_on_the_wire(self) -> int:
        """The length of the body as it was sent."""
        with self._deployment.servers.api(self._deployment.service) as api:
            return self._get(api).num_bytes_downloaded

    def _get(self, api: httpx.Client) -> httpx.Response:
        return api.get(self._path, headers={"Accept-Encoding": self._encoding}).raise_for_status()
