"""A group of replicas that read a log of partitions, with all that may befall them, as a machine of Hypothesis.

What Kafka promises stands here and nothing more: a partition keeps its order, and whoever is assigned it begins at the
offset that was committed last. Where messages are folded is the subclass's choice: in memory, or in a real database.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from uuid import UUID

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from result_aggregator_service.domain.announcements import pipeline_results_id, results_announcement
from result_aggregator_service.domain.event import Event
from tests.unit.domain.histories import lives, seeds, soup_message, soups
from tests.unit.domain.messages import EXPECTED, SERVICE
from tests.unit.domain.model import ReadModel

PARTITIONS = 3
REPLICAS = 2

replicas = st.integers(0, REPLICAS - 1)
partitions = st.integers(0, PARTITIONS - 1)


@dataclass
class Replica:
    """A consumer: where it reads next in the partitions it was assigned, and the poll that it has in hand."""

    position: dict[int, int] = field(default_factory=dict)
    hand: list[Event] = field(default_factory=list)


class Group(RuleBasedStateMachine):
    """The log, its readers, and the rules by which both move on."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[list[Event]] = [[] for _ in range(PARTITIONS)]
        self.committed = [0] * PARTITIONS
        self.replicas = [Replica() for _ in range(REPLICAS)]
        self.assign([partition % REPLICAS for partition in range(PARTITIONS)])

    # Where messages are folded.

    def fold(self, events: Sequence[Event]) -> None:
        """Fold a poll, as a message comes for the first time or again."""
        raise NotImplementedError

    def fold_in_vain(self, events: Sequence[Event]) -> None:
        """Fold a poll in a transaction that breaks before its commit."""
        raise NotImplementedError

    def fold_again(self, events: Sequence[Event]) -> None:
        """Fold a poll whatever is known of its messages."""
        raise NotImplementedError

    def forget_what_was_seen(self) -> None:
        """The inbox and the marks are lost or cleaned up."""
        raise NotImplementedError

    def run_grace(self) -> None:
        """The grace of every batch that waits runs out."""
        raise NotImplementedError

    def announced(self) -> list[UUID]:
        """The identities announced so far, notifications left out."""
        raise NotImplementedError

    def assert_holds(self, events: Sequence[Event], *, exactly: bool) -> None:
        """All of these messages' facts are in the state; `exactly`: and nothing else is."""
        raise NotImplementedError

    def assert_is(self, model: ReadModel) -> None:
        """The settled state is the model's; it is not used any more."""
        raise NotImplementedError

    # What the producers do.

    @initialize(history=soups() | lives(), seed=seeds)
    def produce(self, history: list[Event], seed: int) -> None:
        """A history is spread over the partitions; none of it has been read yet."""
        dice = Random(seed)
        for event in history:
            self.log[dice.randrange(PARTITIONS)].append(event)

    @rule(partition=partitions, seed=seeds)
    def produce_more(self, partition: int, seed: int) -> None:
        self.log[partition].append(soup_message(seed, number=1000 + len(self.told())))

    @rule(partition=partitions, seed=seeds)
    def produce_again(self, partition: int, seed: int) -> None:
        """A producer sends a message a second time, perhaps to another partition."""
        if told := self.told():
            self.log[partition].append(told[seed % len(told)])

    def told(self) -> list[Event]:
        """All that has been produced."""
        return [event for each in self.log for event in each]

    def read(self) -> list[Event]:
        """All that the committed offsets cover."""
        return [event for partition, each in enumerate(self.log) for event in each[: self.committed[partition]]]

    # What the replicas do.

    def assign(self, owners: Sequence[int]) -> None:
        """Give each partition to a replica, which reads it from where it was committed."""
        for number, replica in enumerate(self.replicas):
            replica.position = {p: self.committed[p] for p, owner in enumerate(owners) if owner == number}

    def restart(self, replica: Replica) -> None:
        """What a replica had in memory is gone; its partitions are read on from where they were committed."""
        replica.hand = []
        replica.position = {partition: self.committed[partition] for partition in replica.position}

    @rule(number=replicas, most=st.integers(1, 6))
    def poll(self, number: int, most: int) -> None:
        """A replica that has nothing in hand takes what comes next in each of its partitions."""
        replica = self.replicas[number]
        if replica.hand:
            return
        for partition, position in replica.position.items():
            taken = self.log[partition][position : position + most]
            replica.hand += taken
            replica.position[partition] = position + len(taken)

    @rule(number=replicas)
    def project_and_commit(self, number: int) -> None:
        """All goes well. After a rebalance the replica stands where it was committed, so its old offsets are lost."""
        replica = self.replicas[number]
        self.fold(replica.hand)
        replica.hand = []
        for partition, position in replica.position.items():
            self.committed[partition] = position

    @rule(number=replicas)
    def crash_before_the_commit(self, number: int) -> None:
        replica = self.replicas[number]
        self.fold_in_vain(replica.hand)
        self.restart(replica)

    @rule(number=replicas)
    def crash_before_the_offsets_are_committed(self, number: int) -> None:
        replica = self.replicas[number]
        self.fold(replica.hand)
        self.restart(replica)

    @rule(owners=st.lists(replicas, min_size=PARTITIONS, max_size=PARTITIONS))
    def rebalance(self, owners: list[int]) -> None:
        """Partitions are assigned anew; a replica goes on with what it has in hand, though another may read it too."""
        self.assign(owners)

    @rule()
    def let_the_grace_run_out(self) -> None:
        self.run_grace()

    @rule()
    def forget(self) -> None:
        self.forget_what_was_seen()

    @rule(size=st.integers(1, 8))
    def replay(self, size: int) -> None:
        """What was committed is folded once more, from the beginning, past inbox and marks."""
        read = self.read()
        for start in range(0, len(read), size):
            self.fold_again(read[start : start + size])

    # What must hold.

    @invariant()
    def nothing_is_announced_twice(self) -> None:
        announced = self.announced()
        assert len(announced) == len(set(announced))

    @invariant()
    def what_was_committed_is_in_the_state(self) -> None:
        self.assert_holds(self.read(), exactly=False)

    def teardown(self) -> None:
        """Everything is read to its end, and the grace runs out: then the state is that of the set of messages."""
        for replica in self.replicas:
            self.restart(replica)
        self.assign([0] * PARTITIONS)
        while any(self.committed[p] < len(told) for p, told in enumerate(self.log)):
            self.poll(0, 1)
            self.project_and_commit(0)
        self.run_grace()
        told = self.told()[::-1]  # an order in which nobody has read it
        note(f"{len(told)} messages")
        expected = ReadModel()
        expected.poll(*told)
        expected.run_grace()
        self.assert_holds(told, exactly=True)
        self.nothing_is_announced_twice()
        announced = set(self.announced())
        for batch_id, view in expected.views().items():
            if view.finished_by is not None and view.facts.registration is not None:
                final = results_announcement(view.facts, view.status, EXPECTED, SERVICE)
                assert final is not None
                assert {final.event_id, pipeline_results_id(view.facts, view.status)} & announced, batch_id
        self.assert_is(expected)
