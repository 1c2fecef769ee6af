"""Late results: grace runs by stored facts, over restarts and replicas, while the group is caught up, and ends once.

Every batch here has ended its pipeline while the result of one processed essay stays away; what is done to it differs.
"""

import asyncio
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from types import TracebackType
from typing import Self

import asyncpg

from demo.batch import MINUTE, Batch
from demo.wire import RESULTS_READY, Message
from torture import rows
from torture.checker import check
from torture.replica import Replica
from torture.report import Tally
from torture.waiting import TortureError, wait_until
from torture.world import World

GRACE_SECONDS = 6.0
#: How much of a time in which nobody ticked the service may count.
_LONGEST_STEP_SECONDS = 3.0
#: The clock moves by a tick at a time, so of two readings one may be late by as much.
_TICK_SECONDS = 1.5
_POLL = 10
_FAR_BEHIND = 3 * _POLL
_ESSAYS = 4
_REPLICAS = 3
_WITHIN_SECONDS = 60.0

_READING = (
    "SELECT caught_up_seconds, caught_up, extract(epoch FROM clock_timestamp())::float8 AS now FROM service_state"
)
_DUE = "SELECT batch_id, grace_due FROM batch_results WHERE batch_id = ANY($1::text[]) AND grace_due IS NOT NULL"
_READY = "SELECT aggregate_id, count(*)::int AS times FROM event_outbox WHERE topic = $1 GROUP BY aggregate_id"


@dataclass(frozen=True)
class _Clock:
    """A reading of the caught-up clock: its seconds, whether it runs, and the database's time in seconds."""

    seconds: float
    runs: bool
    now: float


@dataclass(frozen=True)
class _Waiting:
    """A batch whose pipeline has ended, the result that is late, and what a second pipeline says of it."""

    batch_id: str
    messages: Sequence[Message]
    late: Sequence[Message]
    second_pipeline: Sequence[Message]

    @classmethod
    def of(cls, number: int, seed: int) -> Self:
        """The one of this number."""
        batch = Batch(number, seed, "late")
        batch.essays = batch.essays[:_ESSAYS]
        batch.alive = list(batch.essays)
        batch.spell_form = "rich"
        batch.register()
        batch.slots()
        absent = batch.alive[number % _ESSAYS]
        batch.alive.remove(absent)
        batch.spellcheck(outcome=False)
        batch.alive.append(absent)
        batch.outcome("spellcheck", batch.alive)
        batch.end("spellcheck")
        messages = _taken(batch)
        batch.spellchecked(absent)
        late = _taken(batch)
        batch.passes(5 * MINUTE, 9 * MINUTE)
        batch.nlp()
        batch.end("nlp")
        return cls(batch.batch_id, messages, late, _taken(batch))


def _taken(batch: Batch) -> list[Message]:
    said = [message for _, message in batch.said]
    batch.said.clear()
    return said


def _many_for_one_partition(batch: _Waiting) -> Iterator[Message]:
    """So many messages for one partition that it lags by more than a poll; they say nothing about the batch."""
    for number in range(_FAR_BEHIND):
        other = Batch(number, seed=0, run=f"beside {batch.batch_id}")
        other.slot(other.essays[0])
        for message in _taken(other):
            yield message._replace(key=b"one partition")


class _FoldingHeldUp:
    """For as long as the block lasts no message can be folded, though the clock could be moved on."""

    def __init__(self, database_url: str) -> None:
        self._database_url = database_url.replace("+asyncpg", "")
        self._held = threading.Event()
        self._release = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._hold()), name="holds folding up", daemon=True)

    async def _hold(self) -> None:
        connection = await asyncpg.connect(self._database_url, timeout=10)
        async with connection.transaction():
            await connection.execute("LOCK TABLE processed_events IN ACCESS EXCLUSIVE MODE")
            self._held.set()
            await asyncio.to_thread(self._release.wait)
        await connection.close(timeout=5)

    def __enter__(self) -> Self:
        self._thread.start()
        self._held.wait(_WITHIN_SECONDS)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._release.set()
        self._thread.join()


class _Grace:
    """What the database says about grace."""

    def __init__(self, world: World) -> None:
        self._world = world

    def clock(self) -> _Clock:
        """The caught-up clock."""
        [row] = rows.fetch(self._world.database_url, _READING)
        return _Clock(row["caught_up_seconds"], row["caught_up"], row["now"])

    def due(self, batches: Iterable[_Waiting]) -> dict[str, float]:
        """The reading at which grace runs out, for each of the batches that wait for it."""
        ids = [batch.batch_id for batch in batches]
        return {row["batch_id"]: row["grace_due"] for row in rows.fetch(self._world.database_url, _DUE, ids)}

    def times_ready(self, batches: Iterable[_Waiting]) -> list[int]:
        """How often the results of each of the batches have been announced."""
        found = {
            row["aggregate_id"]: row["times"] for row in rows.fetch(self._world.database_url, _READY, RESULTS_READY)
        }
        return [found.get(batch.batch_id, 0) for batch in batches]

    def say(self, messages: Iterable[Message]) -> None:
        """Have the platform say something."""
        self._world.feed.send(messages)

    def results(self, batch: _Waiting) -> int:
        """How many of its essays have their result."""
        query = "SELECT count(*) AS rows FROM essay_results WHERE batch_id = $1 AND spellcheck_status IS NOT NULL"
        return int(rows.fetch(self._world.database_url, query, batch.batch_id)[0]["rows"])

    def begin(self, batches: Sequence[_Waiting]) -> dict[str, float]:
        """Say all that is said of the batches before grace; returns, once it runs for each, when it will be over."""
        for batch in batches:
            self.say(batch.messages)
        found: dict[str, float] = {}

        def all_run() -> bool:
            found.update(self.due(batches))
            return len(found) == len(batches)

        wait_until(all_run, within=_WITHIN_SECONDS, what="grace runs")
        return found

    def wait_until_clock_shows(self, seconds: float) -> None:
        """Wait until so much caught-up time has passed."""
        wait_until(
            lambda: self.clock().seconds >= seconds,
            within=_WITHIN_SECONDS,
            what=f"the caught-up clock shows {seconds:.1f}",
        )

    def wait_until_over(self, batch: _Waiting, due: float) -> None:
        """Wait until a batch that nothing else can finish has been announced.

        Raises:
            TortureError: it was before its grace was over.
        """

        def announced() -> bool:
            times = self.times_ready([batch])
            if times != [0] and (clock := self.clock()).seconds < due:
                raise TortureError(f"grace is over at {due:.2f}, but the results were announced at {clock}")
            return times == [1]

        wait_until(announced, within=_WITHIN_SECONDS, what="grace runs out")

    def wait_until_all_ready(self, batches: Sequence[_Waiting], *, times: int = 1) -> None:
        """Wait until the results of each of the batches have been announced so often."""
        wait_until(
            lambda: all(each == times for each in self.times_ready(batches)),
            within=_WITHIN_SECONDS,
            what=f"results announced {times} times, of {len(batches)} batches",
        )


def late_results(seed: int, *, batches: int = 20, rounds: int = 1) -> Tally:
    """One replica that is killed and held up, then three, while so many batches wait for a result each.

    Raises:
        TortureError: grace ran out too early, or too late, or was counted or announced more than once.
    """
    started = time.monotonic()
    tally = Tally("late results", seed)
    settings = {"RESULTS_GRACE_SECONDS": f"{GRACE_SECONDS:g}", "KAFKA_MAX_POLL_RECORDS": str(_POLL)}
    with World(seed, messages=(), settings=settings) as world:
        grace = _Grace(world)
        replica = world.replica()
        replica.start()
        for number in range(rounds):
            first = number * (batches + 2)
            _outlives_the_only_replica(grace, replica, _Waiting.of(first, seed), tally)
            _stands_while_folding_is_held_up(grace, world, _Waiting.of(first + 1, seed), tally)
            many = [_Waiting.of(first + 2 + index, seed) for index in range(batches)]
            _runs_out_once_for_three_replicas(grace, world, many, tally)
        tally.findings = check(world)
    tally.seconds = time.monotonic() - started
    return tally


def _outlives_the_only_replica(grace: _Grace, replica: Replica, batch: _Waiting, tally: Tally) -> None:
    """The only replica dies while grace runs, and is away for longer than what is left of it."""
    [due] = grace.begin([batch]).values()
    grace.wait_until_clock_shows(due - GRACE_SECONDS + 0.5)
    replica.kill()
    tally.faults["killed while grace runs"] += 1
    killed = grace.clock()
    time.sleep(GRACE_SECONDS)
    replica.start()
    if grace.due([batch]) not in ({batch.batch_id: due}, {}):
        raise TortureError(f"a restart changed when grace is over: {due} before, {grace.due([batch])} after")
    grace.wait_until_over(batch, due)
    over = grace.clock()
    away = GRACE_SECONDS - _LONGEST_STEP_SECONDS - _TICK_SECONDS
    if over.seconds - killed.seconds > over.now - killed.now - away:
        raise TortureError(f"time in which nobody was there has been counted: {killed} at the kill, {over} at the end")


def _stands_while_folding_is_held_up(grace: _Grace, world: World, batch: _Waiting, tally: Tally) -> None:
    """More messages wait in a partition than a poll holds: the late result may be among them, and is."""
    due = grace.begin([batch])
    with _FoldingHeldUp(world.database_url):
        tally.faults["folding held up while grace runs"] += 1
        grace.say([*_many_for_one_partition(batch), *batch.late])
        standing = wait_until(
            lambda: reading if not (reading := grace.clock()).runs else None,
            within=_WITHIN_SECONDS,
            what="the clock stands while a partition lags by more than a poll",
        )
        time.sleep(GRACE_SECONDS)
        after = grace.clock()
        if after.runs or after.seconds != standing.seconds:
            raise TortureError(f"the clock ran while the group lagged: {standing}, then {after}")
        if grace.times_ready([batch]) != [0] or grace.due([batch]) != due:
            raise TortureError("a batch was finished whose result waited in Kafka")
    # Its grace was not over; the result that was waiting in Kafka finishes it.
    grace.wait_until_all_ready([batch])


def _runs_out_once_for_three_replicas(grace: _Grace, world: World, batches: Sequence[_Waiting], tally: Tally) -> None:
    """Three replicas tick, one dies; results come before, in and after the last moment; a second pipeline follows."""
    while len(world.replicas) < _REPLICAS:
        world.replica().start_unawaited()
    for replica in world.replicas:
        replica.wait_until_ready()
    wait_until(
        lambda: all(replica.metric("ras_consumer_group_caught_up") == 1.0 for replica in world.replicas),
        within=_WITHIN_SECONDS,
        what="all replicas tick",
    )
    begun = grace.clock()
    due = grace.begin(batches)
    world.replicas[-1].kill()
    tally.faults["one of three killed while grace runs"] += 1

    end = max(due.values())
    hopeless, *others = world.random.sample(batches, len(batches))
    for offset, batch in sorted(((world.random.uniform(-1.5, 1.5), batch) for batch in others), key=itemgetter(0)):
        grace.wait_until_clock_shows(end + offset)
        grace.say(batch.late)
        tally.faults["result in the last moment"] += 1
    grace.wait_until_over(hopeless, due[hopeless.batch_id])
    grace.wait_until_all_ready(batches)
    over = grace.clock()
    if over.seconds - begun.seconds > over.now - begun.now + _TICK_SECONDS:
        raise TortureError(f"the replicas counted the same time more than once: {begun}, then {over}")

    grace.say(hopeless.late)
    tally.faults["result after the grace"] += 1
    wait_until(
        lambda: all(grace.results(batch) == _ESSAYS for batch in batches),
        within=_WITHIN_SECONDS,
        what="all late results are stored",
    )
    if set(grace.times_ready(batches)) != {1}:
        raise TortureError(f"a late result announced something again: {grace.times_ready(batches)}")

    again = batches[::2]
    for batch in again:
        grace.say(batch.second_pipeline)
        tally.faults["second pipeline"] += 1
    grace.wait_until_all_ready(again, times=2)
    world.replicas[-1].start_unawaited()
