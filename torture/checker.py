"""The independent checker: whatever was done to the service, this is what must hold once the dust has settled.

1. No gap in offsets: the group's committed offsets are the ends of all partitions.
2. No fact lost: every message that was played is in the inbox, or in quarantine with the very same bytes.
3. The rows of the read model, inbox and quarantine are those of the shadow, which met no fault.
4. The API answers what the oracle computes from the messages.
5. Every announcement of the ledger is on its topic; the same event id always has the same key and bytes; nothing else
   is there; and the oracle finds each right.
6. For each topic, key and batch the announcements first appear in the order in which they were committed.
"""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import orjson
from confluent_kafka import KafkaException

from demo.observer import Observer
from demo.oracle import Oracle
from demo.player import Player, PlayerError
from demo.verdict import Difference, Published, batch_differences, published_differences
from demo.wire import read
from torture import rows
from torture.replica import API_KEY
from torture.waiting import TortureError, wait_until
from torture.world import GROUP, World

_FOLD_SECONDS = 180.0
_GRACE_SECONDS = 60.0
_PUBLISH_SECONDS = 60.0


@dataclass
class Findings:
    """What the checker counted. Everything but `messages`, `announcements` and `duplicated` has to be nothing."""

    messages: int = 0
    announcements: int = 0
    duplicated: int = 0
    lost: list[str] = field(default_factory=list)
    reordered: list[str] = field(default_factory=list)
    differing_rows: list[rows.RowDifference] = field(default_factory=list)
    wrong_answers: list[Difference] = field(default_factory=list)
    wrong_announcements: list[str] = field(default_factory=list)

    def add(self, other: "Findings") -> None:
        """Add those of another world."""
        for each in fields(self):
            setattr(self, each.name, getattr(self, each.name) + getattr(other, each.name))

    @property
    def faults(self) -> list[str]:
        """Everything that is not as it must be, one line each."""
        return [
            *self.lost,
            *self.reordered,
            *map(str, self.differing_rows),
            *map(str, self.wrong_answers),
            *self.wrong_announcements,
        ]


def check(world: World, *, early_grace: bool = True) -> Findings:
    """Settle the traffic and compare. At least one replica must be up, by itself or by whoever restarted it.

    `early_grace`: the grace may have run out between a pipeline's end and what it overtook.

    Raises:
        TortureError: the service did not get to the end of the traffic.
    """
    world.feed.settle()
    wait_until_folded(world)
    with Player(world.kafka.bootstrap_servers, GROUP) as player:
        with Player(world.shadow.bootstrap_servers, "result-aggregator-group") as shadow:
            _wait_until_folded(shadow, _FOLD_SECONDS)
        for url in (world.database_url, world.shadow.database_url):
            # A grace is invalidated after its commit, and what a crash left of that within about a second.
            wait_until(lambda url=url: rows.is_settled(url), within=_GRACE_SECONDS, what="all grace ran out")  # type: ignore[misc]
        wait_until(lambda: not rows.unpublished(world.database_url), within=_PUBLISH_SECONDS, what="an empty outbox")
        published = player.published()

    oracle = Oracle(world.feed.played)
    findings = Findings(messages=len(world.feed.played))
    _facts(world, oracle, findings)
    findings.differing_rows = rows.row_differences(world.shadow.database_url, world.database_url)
    _answers(world, oracle, findings)
    _announcements(world, oracle, published, findings, early_grace=early_grace)
    return findings


def wait_until_folded(world: World, within: float = _FOLD_SECONDS) -> None:
    """Wait until the group's committed offsets are the ends of all partitions.

    Raises:
        TortureError: they were not in time.
    """
    with Player(world.kafka.bootstrap_servers, GROUP) as player:
        _wait_until_folded(player, within)


def _wait_until_folded(player: Player, within: float) -> None:
    left: list[object] = []

    def probe() -> bool:
        try:
            left.append(player.left())
        except (KafkaException, PlayerError) as error:
            left.append(error)
        return left[-1] == 0

    try:
        wait_until(probe, within=within, what="all offsets are committed")
    except TortureError as error:
        raise TortureError(f"{error}; messages left at last: {left[-1]}") from None


def _facts(world: World, oracle: Oracle, findings: Findings) -> None:
    """Every message is in the inbox, or in quarantine with its bytes."""
    played = world.feed.played
    known = rows.known_events(world.database_url)
    expected: Counter[tuple[str, bytes | None, bytes | None]] = Counter()
    for index, message in enumerate(played):
        if index in oracle.quarantined:
            expected[message.topic, message.key, message.value] += 1
        elif str(read(message).id) not in known:
            findings.lost.append(f"message {index} on {message.topic} is not in the inbox: {world.feed.places[index]}")
    actual = rows.quarantined(world.database_url)
    for topic, key, value in (expected - actual).elements():
        findings.lost.append(f"not in quarantine: a message on {topic}, key {key!r}: {(value or b'')[:80]!r}")
    for topic, key, value in (actual - expected).elements():
        findings.lost.append(f"in quarantine for no reason: a message on {topic}, key {key!r}: {(value or b'')[:80]!r}")


def _answers(world: World, oracle: Oracle, findings: Findings) -> None:
    replica = next(replica for replica in world.replicas if replica.is_running)
    replica.wait_until_ready()
    with Observer(replica.url, API_KEY) as observer:
        for batch_id in filter(str.isprintable, oracle.batch_ids()):  # of others the API does not want to hear
            findings.wrong_answers += batch_differences(oracle, batch_id, observer.batch(batch_id))


def _announcements(
    world: World, oracle: Oracle, published: Sequence[Published], findings: Findings, *, early_grace: bool
) -> None:
    committed = rows.outbox(world.database_url)
    ledger = rows.identities(world.database_url)
    by_id: dict[str, list[Published]] = defaultdict(list)
    for message in published:
        by_id[orjson.loads(message.value)["event_id"]].append(message)
    findings.announcements = len(by_id)
    findings.duplicated = len(published) - len(by_id)
    for row in committed:
        if row["event_id"] not in by_id:
            findings.lost.append(f"announcement {row['event_id']} of batch {row['aggregate_id']} is on no topic")
    for event_id in sorted(ledger - {row["event_id"] for row in committed}):
        findings.lost.append(f"announcement {event_id} is in the ledger and not in the outbox")
    known = {row["event_id"] for row in committed}
    for event_id, copies in by_id.items():
        if event_id not in known:
            findings.wrong_announcements.append(f"announcement {event_id} was committed by nobody")
        if len({(copy.topic, copy.key, copy.value) for copy in copies}) > 1:
            findings.wrong_announcements.append(f"announcement {event_id} was sent with different contents")
    once = [copies[0] for copies in by_id.values()]
    findings.wrong_announcements += map(str, published_differences(oracle, once, early_grace=early_grace))

    wanted = _lines([((r["topic"], r["event_key"], r["aggregate_id"]), r["event_id"]) for r in committed])
    got = _lines([(_line_of(message), orjson.loads(message.value)["event_id"]) for message in published])
    for line, event_ids in wanted.items():
        if set(got[line]) == set(event_ids) and got[line] != event_ids:
            findings.reordered.append(f"{line}: committed as {event_ids}, published as {got[line]}")


_Line = tuple[str, str, str]
"""Topic, key and batch: what is announced along it keeps its order."""


def _line_of(message: Published) -> _Line:
    return message.topic, (message.key or b"").decode(), orjson.loads(message.value)["data"]["batch_id"]


def _lines(announced: Sequence[tuple[_Line, str]]) -> dict[_Line, list[str]]:
    """The event ids along each line, in the order in which they first appear."""
    found: dict[_Line, list[str]] = defaultdict(list)
    for line, event_id in announced:
        if event_id not in found[line]:
            found[line].append(event_id)
    return found
