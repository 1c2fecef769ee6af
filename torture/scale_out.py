"""Scale-out: replicas of one group share the work while they are killed, added, restarted, misnamed and frozen.

A frozen process (SIGSTOP) stands for a machine that vanishes or hangs: its connections stay open, PostgreSQL and Kafka
are not told, and it goes on where it was when nobody expects it any more.
"""

import time
from collections.abc import Iterator, Sequence
from itertools import chain

from confluent_kafka import KafkaException

from demo.batch import MINUTE, SECOND, Batch
from demo.player import Player, PlayerError
from demo.stories import STORIES, Story
from demo.traffic import traffic
from demo.wire import Message
from torture import rows
from torture.checker import check
from torture.replica import Replica
from torture.report import Tally
from torture.waiting import TortureError, wait_until
from torture.watch import RELAY_ACTIVE, Watch
from torture.world import GROUP, World

MESSAGES_PER_SECOND = 80.0
#: From the moment the relay's replica is gone until another publishes; PostgreSQL gives a silent one up after 10 s.
TAKEOVER_SECONDS = 10.0
TAKEOVER_FROM_FROZEN_SECONDS = 25.0
#: Longer than `max.poll.interval` and the session timeout together, as the world has them.
FROZEN_SECONDS = 11.0
_PROGRESS_SECONDS = 40.0
_SHARES_SECONDS = 60.0
_TRIES_TO_FREEZE = 150
_SECONDS_TO_TELL = 40.0
#: What the service logs when another member has joined the group under its name.
NAME_IS_SHARED = "group_instance_id_shared"

# The eight bytes of the relay's lock, as PostgreSQL shows them: two halves, unsigned.
_HOLDERS = """
    SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1
        AND classid::bigint = ((-4158831258090969055::bigint >> 32) & 4294967295)
        AND objid::bigint = (-4158831258090969055::bigint & 4294967295)
"""
# A transaction that has written to batches and whose client says nothing.
_SILENT_TRANSACTIONS = """
    SELECT activity.pid FROM pg_stat_activity activity
    WHERE activity.state = 'idle in transaction' AND activity.state_change < clock_timestamp() - interval '0.3 s'
        AND EXISTS (SELECT FROM pg_locks held WHERE held.pid = activity.pid
            AND held.relation = 'batch_results'::regclass AND held.mode = 'RowExclusiveLock')
"""


# -- traffic in which replicas meet ------------------------------------------------------------------------------------


def swapped(batch: Batch) -> None:
    """Two batches that swap essays to and fro, and list each other's: a message about one touches both."""
    other = Batch(batch.number, batch.seed, f"{batch.run}/other")
    other.user_id, other.now = batch.user_id, batch.now
    for one in (batch, other):
        one.essays = one.essays[:8]
        one.alive = list(one.essays)
    batch.register(essays=[*batch.essays, *other.essays[:3]])
    other.register(essays=[*other.essays, *batch.essays[:3]])
    for _ in range(3):
        for ours, theirs in zip(batch.essays, other.essays, strict=True):
            batch.slot(theirs)
            other.slot(ours)
        batch.now = other.now = max(batch.now, other.now) + SECOND
        batch.slots()
        other.slots()
        batch.register()
        other.register()
    for one in (batch, other):
        one.spellcheck(failing=1)
        one.comparative_judgment()
        one.end("spellcheck", "cj_assessment")
    batch.now = other.now = max(batch.now, other.now) + MINUTE
    other.slot(batch.essays[0])
    batch.slot(other.essays[0])
    batch.said.extend(other.said)


def entangled(seed: int, batches: int = 100_000) -> Iterator[Message]:
    """Traffic in which every other batch swaps essays with a second one, each message on a partition of its own."""
    stories: Sequence[Story] = tuple(chain.from_iterable((story, swapped) for story in STORIES))
    for number, message in enumerate(traffic(seed=seed, batches=batches, run="entangled", stories=stories)):
        yield message._replace(key=b"%s/%d" % (message.key, number))


# -- the replicas ------------------------------------------------------------------------------------------------------


class _Fleet:
    """The replicas of a world, and what must hold of them together."""

    def __init__(self, world: World, player: Player, tally: Tally) -> None:
        self.world = world
        self._player = player
        self._tally = tally
        self._frozen: set[Replica] = set()
        self._once_frozen: set[Replica] = set()

    def add(self, *, static: bool, instance_id: str | None = None) -> Replica:
        """Start another replica, without waiting for it."""
        replica = self.world.replica()
        if instance_id is not None:
            replica.settings["KAFKA_GROUP_INSTANCE_ID"] = instance_id
        elif not static:
            del replica.settings["KAFKA_GROUP_INSTANCE_ID"]
        replica.start_unawaited()
        return replica

    def askable(self) -> list[Replica]:
        """The replicas that run and are not frozen."""
        return [replica for replica in self.world.replicas if replica.is_running and replica not in self._frozen]

    def injected(self, fault: str) -> None:
        """Count a fault."""
        self._tally.faults[fault] += 1

    def relay(self, within: float, *, other_than: int | None = None) -> tuple[Replica, int]:
        """The one replica that publishes, with the PostgreSQL process that holds its lock, once there is just one.

        Raises:
            TortureError: there is none, or more than one, or only that other one.
        """

        def probe() -> tuple[Replica, int] | None:
            holders = [int(row["pid"]) for row in rows.fetch(self.world.database_url, _HOLDERS)]
            if len(holders) > 1:
                raise TortureError(f"two sessions hold the lock of the relay: {holders}")
            if not holders or holders[0] == other_than:
                return None
            active = [replica for replica in self.askable() if replica.metric(RELAY_ACTIVE) == 1.0]
            return (active[0], holders[0]) if len(active) == 1 else None

        return wait_until(probe, within=within, what=f"one relay takes over\n{self._tails()}")

    def wait_until_all_work(self) -> None:
        """Every replica has folded polls since its last start."""
        for replica in self.askable():
            replica.wait_until_ready()
        wait_until(
            lambda: all(replica.metric("ras_poll_records_count") > 0 for replica in self.askable()),
            within=_SHARES_SECONDS,
            what=f"every replica has its share of the partitions\n{self._tails()}",
        )

    def wait_for_progress(self) -> None:
        """The group has committed as much as had been produced when this was asked, wherever its partitions are now."""
        played = sum(place is not None for place in self.world.feed.places)
        wait_until(
            lambda: self._committed() >= played,
            within=_PROGRESS_SECONDS,
            what=f"{played} messages handled\n{self._tails()}",
        )

    def _committed(self) -> int:
        try:
            return self._player.folded()
        except (KafkaException, PlayerError):
            return 0

    def freeze_in_transaction(self, replica: Replica) -> None:
        """SIGSTOP while it holds locks on batches in a transaction.

        Raises:
            TortureError: it was never met in one.
        """
        self._frozen.add(replica)
        for _ in range(_TRIES_TO_FREEZE):
            replica.pause()
            time.sleep(0.5)
            if rows.fetch(self.world.database_url, _SILENT_TRANSACTIONS):
                self.injected("replica frozen in a transaction")
                return
            replica.resume()
            time.sleep(self.world.random.uniform(0.01, 0.1))
        raise TortureError(f"{replica.label} was never met in a transaction")

    def thaw(self, replica: Replica) -> None:
        """SIGCONT: it goes on where it was."""
        self._once_frozen.add(replica)
        replica.resume()
        self._frozen.discard(replica)

    def assert_no_relay_was_deposed_for_nothing(self) -> None:
        """No relay but a frozen one lost its lock.

        Raises:
            TortureError: one did.
        """
        for replica in self.world.replicas:
            trouble = replica.logged("relay_trouble")
            if trouble and replica not in self._once_frozen:
                raise TortureError(f"the relay of {replica.label}, which was never frozen, had trouble: {trouble}")

    def _tails(self) -> str:
        return "\n".join(f"-- {replica.label}\n{replica.log_tail()}" for replica in self.world.replicas)


# -- what is done to them ----------------------------------------------------------------------------------------------


def scaled_out(seed: int, *, static: Sequence[bool] = (True, True, False), rounds: int = 1) -> Tally:
    """Three replicas, more or fewer on the way; `static`: which of them are members by KAFKA_GROUP_INSTANCE_ID.

    Raises:
        TortureError: work stood still, a wait lasted, or the relay was nobody's or two replicas'.
    """
    started = time.monotonic()
    tally = Tally("scale-out", seed)
    with World(seed, messages=entangled(seed)) as world, Player(world.kafka.bootstrap_servers, GROUP) as player:
        fleet = _Fleet(world, player, tally)
        for is_static in static:
            fleet.add(static=is_static)
        with Watch(world.database_url, fleet.askable) as watch:
            world.feed.start(MESSAGES_PER_SECOND)
            fleet.wait_until_all_work()
            for number in range(rounds):
                _kill_one_and_add_one(fleet, static=static[number % len(static)])
                _restart_all_in_turn(fleet)
                _give_two_the_same_name(fleet)
                _freeze_the_relay(fleet)
            tally.findings = check(world)
            watch.assert_quiet()
            fleet.assert_no_relay_was_deposed_for_nothing()
    tally.seconds = time.monotonic() - started
    return tally


def _kill_one_and_add_one(fleet: _Fleet, *, static: bool) -> None:
    """The relay's replica is killed; another comes in its place, under another name."""
    relay, holder = fleet.relay(TAKEOVER_SECONDS)
    relay.kill()
    fleet.injected("replica killed")
    fleet.relay(TAKEOVER_SECONDS, other_than=holder)
    fleet.wait_for_progress()
    fleet.add(static=static)
    fleet.injected("replica added")
    fleet.wait_until_all_work()


def _restart_all_in_turn(fleet: _Fleet) -> None:
    """A rolling restart: SIGTERM, wait for the end, start, wait until it is ready, the next."""
    for replica in fleet.askable():
        replica.stop()
        replica.start_unawaited()
        fleet.injected("replica restarted")
        replica.wait_until_ready()
        fleet.relay(TAKEOVER_SECONDS)
    fleet.wait_for_progress()


def _give_two_the_same_name(fleet: _Fleet) -> None:
    """A replica is added by somebody who copied another's settings, its KAFKA_GROUP_INSTANCE_ID too, if one has any."""
    named = next((replica for replica in fleet.askable() if "KAFKA_GROUP_INSTANCE_ID" in replica.settings), None)
    if named is None:
        return
    told_before = len(named.logged(NAME_IS_SHARED))
    namesake = fleet.add(static=True, instance_id=named.settings["KAFKA_GROUP_INSTANCE_ID"])
    fleet.injected("two replicas of one name")
    namesake.wait_until_ready()
    wait_until(
        lambda: len(named.logged(NAME_IS_SHARED)) > told_before and namesake.logged(NAME_IS_SHARED),
        within=_SECONDS_TO_TELL,
        what=f"both tell that they share a name\n{named.log_tail()}\n{namesake.log_tail()}",
    )
    fleet.wait_for_progress()
    namesake.stop()
    fleet.wait_for_progress()


def _freeze_the_relay(fleet: _Fleet) -> None:
    """The relay's replica is frozen in the middle of a transaction, thawed when all has been taken from it."""
    relay, holder = fleet.relay(TAKEOVER_SECONDS)
    fleet.freeze_in_transaction(relay)
    frozen_at = time.monotonic()
    wait_until(
        lambda: not rows.fetch(fleet.world.database_url, _SILENT_TRANSACTIONS),
        within=TAKEOVER_FROM_FROZEN_SECONDS,
        what="PostgreSQL ends the transaction of a client that has gone silent",
    )
    fleet.relay(TAKEOVER_FROM_FROZEN_SECONDS, other_than=holder)
    fleet.wait_for_progress()
    time.sleep(max(frozen_at + FROZEN_SECONDS - time.monotonic(), 0.0))
    fleet.thaw(relay)
    fleet.relay(TAKEOVER_SECONDS)
    fleet.wait_for_progress()
    relay.wait_until_ready()
