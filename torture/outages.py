"""Outages: PostgreSQL, Kafka and Redis are stopped, killed, hung, cut off, slowed down, filled up, two at once.

All are real: signals to server processes, a full disk, a standby, other sessions' locks, and network faults made by a
TCP proxy between the service and each server. Traffic goes on meanwhile, and nobody restarts the service.
"""

import asyncio
import contextlib
import itertools
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Self

import asyncpg
import redis

from demo.stories import ordinary
from demo.traffic import traffic
from demo.wire import PAYLOADS, PUBLISHED_TOPICS
from embedded import ApacheKafkaCluster, EmbeddedPostgres, TcpProxy
from embedded.process import free_port
from torture import rows
from torture.checker import check, wait_until_folded
from torture.probe import Probe
from torture.replica import Replica
from torture.report import Tally
from torture.waiting import TortureError, wait_until
from torture.world import World

_MESSAGES_PER_SECOND = 60.0
_FIRST_MESSAGES = 200
_OUTAGES_IN_A_WORLD = 8
_SMALL_DISK_BYTES = 96 * 1024 * 1024
_SECONDS_TO_NOTICE = 3.0
# `/readyz` answers with what it found up to half a second ago: on the way into an outage that is another state.
_SECONDS_OF_HINDSIGHT = 1.0
_SECONDS_TO_RECOVER = 60.0
_SLOWEST_READ_SECONDS = 9.0
_REDIS_SLOW_SECONDS = 2.0


class OutageWorld(World):
    """A world with a proxy before each server, two brokers of which the second can be away, and a disk to fill."""

    kafka: ApacheKafkaCluster

    def __enter__(self) -> Self:
        self.proxies = ExitStack()
        self.kafka_proxies = (self._proxy(free_port()), self._proxy(free_port()))
        super().__enter__()
        self.postgres_proxy = self._proxy(self.postgres.port)
        self.redis_proxy = self._proxy(self.valkey.port)
        return self

    def __exit__(self, *error: object) -> None:
        with self.proxies:
            super().__exit__(None, None, None)

    def _proxy(self, target_port: int) -> TcpProxy:
        return self.proxies.enter_context(TcpProxy(target_port))

    def make_postgres(self) -> EmbeddedPostgres:
        return EmbeddedPostgres(self.folder / "postgres", durable=False, small_disk=_SMALL_DISK_BYTES)

    def make_kafka(self) -> ApacheKafkaCluster:
        return ApacheKafkaCluster(self.folder / "kafka", proxies=self.kafka_proxies)

    def make_topics(self) -> None:
        for topic in (*PAYLOADS, *PUBLISHED_TOPICS):
            self.kafka.create_topic(topic, [1, 1, 1, 2])

    def service_settings(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.postgres.url_for("postgres", port=self.postgres_proxy.port),
            "REDIS_URL": f"redis://127.0.0.1:{self.redis_proxy.port}/0",
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.proxied_bootstrap_servers,
            # So that what was cached before an outage is cached during it.
            "REDIS_CACHE_TTL_SECONDS": "86400",
            # A machine that is busy with all this is not a Redis that is slow.
            "REDIS_TIMEOUT_SECONDS": "1",
        }


# -- the outages: each begins when its block is entered and is over when it is left --------------------------------


@contextmanager
def postgres_stopped(world: OutageWorld) -> Iterator[None]:
    world.postgres.stop()
    yield
    world.postgres.start()


@contextmanager
def postgres_killed(world: OutageWorld) -> Iterator[None]:
    world.postgres.kill()
    yield
    world.postgres.start()


@contextmanager
def postgres_hung(world: OutageWorld) -> Iterator[None]:
    world.postgres.pause()
    yield
    world.postgres.resume()


@contextmanager
def postgres_read_only(world: OutageWorld) -> Iterator[None]:
    """Failed over to a standby, which is promoted only later."""
    world.postgres.restart_read_only()
    yield
    world.postgres.promote()


@contextmanager
def postgres_unreachable(world: OutageWorld) -> Iterator[None]:
    """The network swallows everything: no refusal, no end."""
    world.postgres_proxy.hang()
    yield
    # What was swallowed does not come late: the connections are gone.
    world.postgres_proxy.cut()
    world.postgres_proxy.pass_on()


@contextmanager
def postgres_connections_cut(world: OutageWorld) -> Iterator[None]:
    """Again and again all connections are reset after some more bytes: in the midst of transactions and answers."""
    ending = threading.Event()

    def cut() -> None:
        source = random.Random(world.seed)
        while not ending.wait(0.2):
            world.postgres_proxy.cut_after(source.randrange(20_000))

    with _beside(cut, ending):
        yield
    world.postgres_proxy.pass_on()


@contextmanager
def postgres_disk_full(world: OutageWorld) -> Iterator[None]:
    world.postgres.fill_disk()
    yield
    world.postgres.free_disk()


@contextmanager
def postgres_deadlocks(world: OutageWorld) -> Iterator[None]:
    """Another session locks an essay and then its batch: the opposite of the service's order, and never the victim."""

    async def lock(connection: asyncpg.Connection) -> None:
        async with connection.transaction():
            row = await connection.fetchrow(
                "SELECT essay_id, batch_id FROM essay_results WHERE batch_id IS NOT NULL "
                "ORDER BY heard_at DESC LIMIT 1 FOR UPDATE SKIP LOCKED"
            )
            await asyncio.sleep(0.5)
            if row is not None:
                await connection.execute("SELECT FROM batch_results WHERE batch_id = $1 FOR UPDATE", row["batch_id"])

    with _another_session(world, lock, "SET deadlock_timeout = '1min'"):
        yield


@contextmanager
def postgres_serialization_failures(world: OutageWorld) -> Iterator[None]:
    """Transactions are REPEATABLE READ, and another session keeps updating the rows that they want."""

    async def update(connection: asyncpg.Connection) -> None:
        await connection.execute(
            "UPDATE batch_results SET heard_at = heard_at WHERE batch_id IN "
            "(SELECT batch_id FROM batch_results ORDER BY heard_at DESC LIMIT 10)"
        )
        await asyncio.sleep(0.02)

    _set_isolation(world, "repeatable read")
    with _another_session(world, update, "SET default_transaction_isolation = 'read committed'"):
        yield
    _set_isolation(world, "read committed")


@contextmanager
def kafka_stopped(world: OutageWorld) -> Iterator[None]:
    world.kafka.stop()
    yield
    world.kafka.start()


@contextmanager
def kafka_killed(world: OutageWorld) -> Iterator[None]:
    world.kafka.second.kill()
    world.kafka.first.kill()
    yield
    world.kafka.start()


@contextmanager
def kafka_leader_unavailable(world: OutageWorld) -> Iterator[None]:
    """A quarter of all partitions have no leader; the group's coordinator is there."""
    world.kafka.second.kill()
    yield
    world.kafka.second.start()


@contextmanager
def kafka_unreachable(world: OutageWorld) -> Iterator[None]:
    for proxy in world.kafka_proxies:
        proxy.hang()
    yield
    for proxy in world.kafka_proxies:
        proxy.cut()
        proxy.pass_on()


@contextmanager
def kafka_connections_cut(world: OutageWorld) -> Iterator[None]:
    ending = threading.Event()

    def cut() -> None:
        source = random.Random(world.seed)
        while not ending.wait(0.3):
            source.choice(world.kafka_proxies).cut_after(source.randrange(20_000))

    with _beside(cut, ending):
        yield
    for proxy in world.kafka_proxies:
        proxy.pass_on()


@contextmanager
def redis_stopped(world: OutageWorld) -> Iterator[None]:
    world.valkey.stop()
    yield
    world.valkey.start()


@contextmanager
def redis_hung(world: OutageWorld) -> Iterator[None]:
    world.valkey.pause()
    yield
    world.valkey.resume()


@contextmanager
def redis_slow(world: OutageWorld) -> Iterator[None]:
    """Seconds for each answer."""
    world.redis_proxy.delay(_REDIS_SLOW_SECONDS / 2)
    yield
    world.redis_proxy.pass_on()


@contextmanager
def redis_full(world: OutageWorld) -> Iterator[None]:
    """It reads, and refuses to be given anything."""
    with redis.Redis.from_url(world.valkey.url) as client:
        client.config_set("maxmemory", "1")
        yield
        client.config_set("maxmemory", "0")


@contextmanager
def redis_flushed(world: OutageWorld) -> Iterator[None]:
    """It forgets everything, again and again."""
    ending = threading.Event()

    def flush() -> None:
        with redis.Redis.from_url(world.valkey.url) as client:
            while not ending.wait(0.1):
                client.flushall()

    with _beside(flush, ending):
        yield


Outage = Callable[[OutageWorld], AbstractContextManager[None]]


@dataclass(frozen=True)
class Expected:
    """What the service owes its users during an outage, apart from losing nothing.

    `away` is the dependency that its health has to name; `served`: whether reads still have to be served.
    """

    away: str | None
    served: bool = True


OUTAGES: Mapping[Outage, Expected] = {
    postgres_stopped: Expected("postgres", served=False),
    postgres_killed: Expected("postgres", served=False),
    postgres_hung: Expected("postgres", served=False),
    postgres_unreachable: Expected("postgres", served=False),
    postgres_connections_cut: Expected(None, served=False),
    postgres_read_only: Expected(None),
    postgres_disk_full: Expected(None),
    postgres_deadlocks: Expected(None),
    postgres_serialization_failures: Expected(None),
    kafka_stopped: Expected("kafka"),
    kafka_killed: Expected("kafka"),
    kafka_leader_unavailable: Expected(None),
    kafka_unreachable: Expected("kafka"),
    kafka_connections_cut: Expected(None),
    redis_stopped: Expected("redis"),
    redis_hung: Expected("redis"),
    redis_slow: Expected("redis"),
    redis_full: Expected(None),
    redis_flushed: Expected(None),
}


# -- the scenario --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Planned:
    """Outages at the same time, for so many seconds."""

    outages: Sequence[Outage]
    seconds: float

    def __str__(self) -> str:
        return f"{' and '.join(outage.__name__ for outage in self.outages)} for {self.seconds:g} s"


def long_outages(seed: int, *, pairs: int = 20) -> Tally:
    """Each outage for one second and for eight, one of each server for forty, and so many pairs drawn by the seed.

    A pair is of two servers. All is compared after each; a new world is made now and then, as the checker looks at
    everything that was ever played in one.
    """
    short = [Planned([outage], seconds) for outage in OUTAGES for seconds in (1, 8)]
    long = [Planned([outage], 40) for outage in (postgres_unreachable, kafka_stopped, redis_hung)]
    of_two = [
        Planned(two, 8)
        for two in itertools.combinations(OUTAGES, 2)
        if len({outage.__name__.partition("_")[0] for outage in two}) == 2
    ]
    source = random.Random(f"plan/{seed}")
    plan = [*short, *long, *source.sample(of_two, pairs)]
    source.shuffle(plan)
    total = Tally("outages", seed)
    for number, start in enumerate(range(0, len(plan), _OUTAGES_IN_A_WORLD)):
        total.add(outages(seed * 1000 + number, plan[start : start + _OUTAGES_IN_A_WORLD], check_each=True))
    return total


def outages(seed: int, plan: Sequence[Planned], *, check_each: bool = False) -> Tally:
    """Go through a plan, one entry after the other, under traffic; the service is started once.

    Args:
        seed: of the traffic and of what is random in an outage.
        plan: what happens.
        check_each: whether all is compared after each entry, not only that everything was folded.

    Raises:
        TortureError: the service did not recover, or told or gave its users something else than it had to.
    """
    started = time.monotonic()
    tally = Tally("outages", seed)
    with OutageWorld(seed) as world:
        replica = world.replica()
        replica.start()
        world.feed.send(traffic(seed=seed, batches=1, run="quiet", stories=[ordinary], broken=False))
        world.feed.settle()
        wait_until_folded(world)
        wait_until(lambda: rows.is_settled(world.database_url), within=_SECONDS_TO_RECOVER, what="a quiet batch")
        quiet = _registered(world)
        lively: list[str] = []
        while not lively:
            world.feed.play(_FIRST_MESSAGES)
            world.feed.settle()
            wait_until_folded(world)
            lively = [batch_id for batch_id in _registered(world) if batch_id not in quiet]
        with Probe(replica, cached=quiet[0], uncached=lively) as probe:
            for planned in plan:
                probe.wait_until_served(_SECONDS_TO_RECOVER)
                world.feed.start(_MESSAGES_PER_SECOND)
                _suffer(world, planned, replica, probe)
                tally.faults[str(planned)] += 1
                world.feed.settle()
                try:
                    wait_until_folded(world, within=_SECONDS_TO_RECOVER)
                except TortureError as error:
                    raise TortureError(f"{planned}: {error}\n{replica.log_tail()}") from None
                if check_each:
                    tally.findings = check(world)
                    tally.assert_faultless()
        tally.findings = check(world)
    tally.seconds = time.monotonic() - started
    return tally


def _suffer(world: OutageWorld, planned: Planned, replica: Replica, probe: Probe) -> None:
    with ExitStack() as stack:
        for outage in planned.outages:
            stack.enter_context(outage(world))
        began = time.monotonic()
        time.sleep(planned.seconds)
        ended = time.monotonic()
    if not replica.is_running:
        raise TortureError(f"{planned}: the service has ended\n{replica.log_tail()}")
    try:
        _assert_truth(planned, probe, began, ended)
        probe.wait_until_served(_SECONDS_TO_RECOVER)
    except TortureError as error:
        raise TortureError(f"{planned}: {error}") from None


def _assert_truth(planned: Planned, probe: Probe, began: float, ended: float) -> None:
    """Whether the service told what is the matter, and served what could be reached."""
    expected = [OUTAGES[outage] for outage in planned.outages]
    served = all(each.served for each in expected)
    redis_there = not any(outage.__name__.startswith("redis") for outage in planned.outages)
    for answer in probe.answers("live", began, ended):
        if answer.status != 200:
            raise TortureError(f"/livez answered {answer.status}: {answer.body}")
    noticed = began + _SECONDS_TO_NOTICE
    for away in {each.away for each in expected} - {None}:
        for answer in probe.answers("ready", noticed, ended):
            if answer.status is None or answer.body["dependencies"][away]["ok"]:
                raise TortureError(f"/readyz says that {away} is there: {answer.status} {answer.body}")
            wanted = 503 if away == "postgres" else None
            if wanted is not None and answer.status != wanted:
                raise TortureError(f"/readyz answered {answer.status} while {away} was away")
    if served:
        for answer in probe.answers("ready", began + _SECONDS_OF_HINDSIGHT, ended):
            if answer.status != 200:
                raise TortureError(f"/readyz answered {answer.status} though reads could be served: {answer.body}")
    for question in ("cached", "uncached"):
        always = served or (question == "cached" and redis_there)
        for answer in probe.answers(question, began, ended):
            if answer.status not in ((200,) if always else (200, 503)):
                raise TortureError(f"a read ({question}) was answered {answer.status}: {answer.body}")
            if answer.seconds > _SLOWEST_READ_SECONDS:
                raise TortureError(f"a read ({question}) took {answer.seconds:.1f} s")


def _registered(world: OutageWorld) -> list[str]:
    """Batches that the API knows."""
    found = rows.fetch(world.database_url, "SELECT batch_id FROM batch_results WHERE user_id IS NOT NULL")
    return [row["batch_id"] for row in found]


@contextmanager
def _beside(work: Callable[[], None], ending: threading.Event) -> Iterator[None]:
    """Work in a thread until the block is left."""
    thread = threading.Thread(target=work, name="outage", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ending.set()
        thread.join()


@contextmanager
def _another_session(
    world: OutageWorld, work: Callable[[asyncpg.Connection], Awaitable[None]], first: str
) -> Iterator[None]:
    """Another session of PostgreSQL, not through the proxy, that works again and again until the block is left."""
    ending = threading.Event()

    async def keep_working() -> None:
        connection = await asyncpg.connect(world.database_url.replace("+asyncpg", ""))
        try:
            await connection.execute(first)
            while not ending.is_set():
                with contextlib.suppress(asyncpg.PostgresError):
                    await work(connection)
        finally:
            await connection.close()

    with _beside(lambda: asyncio.run(keep_working()), ending):
        yield


def _set_isolation(world: OutageWorld, level: str) -> None:
    """For all sessions of the service, which have to be made anew for it."""
    rows.fetch(world.database_url, f"ALTER DATABASE postgres SET default_transaction_isolation TO '{level}'")
    rows.fetch(
        world.database_url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = 'postgres'",
    )
