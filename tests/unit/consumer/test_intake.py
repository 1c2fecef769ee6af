"""In which order a poll is taken of what lies in several partitions, and what is left for the next one."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

from aiokafka import TopicPartition

from result_aggregator_service.consumer.intake import Intake
from result_aggregator_service.projection.projector import KafkaRecord

ONE, TWO, THREE = (TopicPartition("topic", number) for number in range(3))


@dataclass(frozen=True)
class Lying:
    """A record, as far as its place in time matters."""

    partition: int
    offset: int
    timestamp: int
    value: bytes = b"{}"
    topic: str = "topic"


class Fetched:
    """A client of Kafka that has fetched messages; it empties one partition after the other, `at_once` at a time.

    As far as it knows, what Kafka has are those messages; of the `silent` partitions Kafka has not said anything, and
    in the `lost` ones the client is still to learn where to go on.
    """

    def __init__(self, **timestamps: Sequence[int]) -> None:
        self.at_once = 1000
        self.silent: set[TopicPartition] = set()
        self.lost: set[TopicPartition] = set()
        self.waits_ms: list[int] = []
        self._paused: set[TopicPartition] = set()
        self.records = {
            partition: [Lying(partition.partition, offset, at) for offset, at in enumerate(timestamps.get(name, ()))]
            for name, partition in (("one", ONE), ("two", TWO), ("three", THREE))
        }

    @property
    def _subscription(self) -> Any:
        assignment = SimpleNamespace(tps=self.assignment(), state_value=self._state)
        return SimpleNamespace(subscription=SimpleNamespace(assignment=assignment))

    def _state(self, partition: TopicPartition) -> Any:
        lying = self.records[partition]
        highwater = None if partition in self.silent else len(lying)
        position = None if partition in self.lost else 0
        return SimpleNamespace(highwater=highwater, has_valid_position=position is not None, position=position)

    def assignment(self) -> set[TopicPartition]:
        return set(self.records)

    def paused(self) -> set[TopicPartition]:
        return set(self._paused)

    def pause(self, *partitions: TopicPartition) -> None:
        self._paused |= set(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        assert self.assignment() >= set(partitions), "the client raises where it is asked for another's"
        self._paused -= set(partitions)

    async def getmany(
        self, *partitions: TopicPartition, timeout_ms: int, max_records: int = 1_000_000
    ) -> dict[TopicPartition, list[Lying]]:
        taken = {}
        for partition in partitions or tuple(self.records):
            number, lying = min(max_records, self.at_once), self.records[partition]
            found, self.records[partition] = lying[:number], lying[number:]
            max_records -= len(found)
            if found:
                assert partition not in self._paused, "the client throws away what it fetched of a paused partition"
                taken[partition] = found
        if not taken:
            self.waits_ms.append(timeout_ms)
            await asyncio.sleep(0)
        return taken


async def take(intake: Intake, consumer: Any) -> Sequence[KafkaRecord]:
    async with asyncio.timeout(10):
        return await intake.take(consumer)


async def times(intake: Intake, consumer: Fetched) -> list[int]:
    return [record.timestamp for record in await take(intake, consumer)]


async def test_of_a_backlog_the_oldest_messages_of_all_partitions_come_first() -> None:
    consumer, intake = Fetched(one=[1, 4, 7], two=[2, 5, 8], three=[3, 6, 9]), Intake(3)
    assert [await times(intake, consumer) for _ in range(4)] == [[1, 2, 3], [4, 5, 6], [7, 8, 9], []]


async def test_nearly_a_whole_poll_may_be_of_one_partition() -> None:
    consumer, intake = Fetched(one=range(700), two=range(1000, 1700)), Intake(300)
    assert await times(intake, consumer) == [*range(300)]
    assert await times(intake, consumer) == [*range(300, 600)]
    assert await times(intake, consumer) == [*range(600, 700), *range(1000, 1200)]


async def test_without_a_backlog_everything_is_taken_at_once_and_nothing_is_held_back() -> None:
    consumer, intake = Fetched(one=[5], two=[1, 2]), Intake(4)
    assert sorted(await times(intake, consumer)) == [1, 2, 5]
    assert not intake


async def test_without_a_backlog_nothing_is_fetched_before_the_next_poll_is_taken_or_about_to_be() -> None:
    consumer, intake = Fetched(one=[5], two=[1, 2]), Intake(4)
    await take(intake, consumer)
    assert consumer.paused() == {ONE, TWO, THREE}
    del consumer.records[TWO]  # it is given to another member meanwhile
    intake.fetch_on(consumer)
    assert consumer.paused() == {TWO}
    assert await take(intake, consumer) == []
    assert consumer.paused() == {TWO}, "while there is nothing, everything is fetched"


async def test_a_partition_that_somebody_else_paused_stays_so() -> None:
    consumer, intake = Fetched(one=[5]), Intake(4)
    consumer.pause(TWO)
    await take(intake, consumer)
    assert consumer.paused() == {ONE, TWO, THREE}
    intake.fetch_on(consumer)
    assert consumer.paused() == {TWO}


async def test_in_a_backlog_fetching_goes_on_all_the_time() -> None:
    consumer, intake = Fetched(one=range(10)), Intake(4)
    await take(intake, consumer)
    assert not consumer.paused()


async def test_of_what_there_is_enough_at_hand_nothing_is_fetched_until_there_is_not() -> None:
    consumer, intake = Fetched(one=range(60), two=range(100, 160)), Intake(2)
    consumer.at_once = 20
    await take(intake, consumer)
    assert consumer.paused() == {ONE, TWO}, "of the third one Kafka has none, and more may come"
    held = []
    for _ in range(8):
        await take(intake, consumer)
        held.append(ONE in consumer.paused())
    assert held == [True] * 6 + [False, True], "from 22 on down to less than 8, its half of eight polls, and then more"
    assert TWO in consumer.paused()


async def test_only_partitions_that_are_behind_share_in_what_is_at_hand() -> None:
    consumer, intake = Fetched(one=range(1000)), Intake(2)
    consumer.at_once = 10
    await take(intake, consumer)
    assert not consumer.paused(), "ten at hand, of eight polls of two"
    await take(intake, consumer)
    assert consumer.paused() == {ONE}, "eighteen"


class AnsweringLate(Fetched):
    """What it has of the second partition comes once that is waited for."""

    def __init__(self, **timestamps: Sequence[int]) -> None:
        super().__init__(**timestamps)
        self._late, self.records[TWO] = self.records[TWO], []
        self.silent.add(TWO)

    async def getmany(self, *partitions: TopicPartition, **options: int) -> dict[TopicPartition, list[Lying]]:
        found = await super().getmany(*partitions, **options)
        if options["timeout_ms"] and not found:
            self.silent.clear()
            self.records[TWO] = self._late
        return found


async def test_a_partition_that_is_behind_and_has_none_at_hand_is_waited_for_as_its_may_be_the_oldest() -> None:
    consumer, intake = AnsweringLate(one=range(100, 110), two=range(3)), Intake(4)
    assert await times(intake, consumer) == [0, 1, 2, 100]


async def test_meanwhile_nothing_is_read_of_what_is_held() -> None:
    consumer, intake = AnsweringLate(one=range(100, 200), two=range(3)), Intake(2)
    consumer.at_once = 20
    assert await times(intake, consumer) == [0, 1]
    assert ONE in consumer.paused()


async def test_one_in_which_the_client_is_to_learn_where_to_go_on_is_waited_for_as_well() -> None:
    consumer, intake = Fetched(one=range(10)), Intake(4)
    consumer.lost.add(TWO)
    assert await times(intake, consumer) == [0, 1, 2, 3]
    assert max(consumer.waits_ms) > 0


async def test_but_not_for_long() -> None:
    consumer, intake = Fetched(one=range(10)), Intake(4)
    consumer.silent.add(TWO)
    assert await times(intake, consumer) == [0, 1, 2, 3]
    assert 0 < max(consumer.waits_ms) <= 50


async def test_nor_where_everything_at_hand_is_taken_anyway() -> None:
    consumer, intake = Fetched(one=range(3)), Intake(4)
    consumer.silent.add(TWO)
    assert await times(intake, consumer) == [0, 1, 2]
    assert consumer.waits_ms == [0], "a look into the client's buffers"
    assert not consumer.paused(), "what is behind is fetched meanwhile"


async def test_nor_for_one_that_somebody_else_paused() -> None:
    consumer, intake = Fetched(one=range(10)), Intake(4)
    consumer.silent.add(TWO)
    consumer.pause(TWO)
    assert await times(intake, consumer) == [0, 1, 2, 3]
    assert not consumer.waits_ms


async def test_within_a_partition_the_order_is_that_of_the_offsets_whatever_their_times() -> None:
    consumer, intake = Fetched(one=[9, 1, 2], two=[5, 6]), Intake(2)
    taken = [record for _ in range(4) for record in await take(intake, consumer)]
    assert [record.offset for record in taken if record.partition == 0] == [0, 1, 2]
    assert len(taken) == 5


async def test_a_partition_that_has_none_left_to_compare_does_not_make_the_others_wait() -> None:
    consumer, intake = Fetched(one=range(100, 400), two=[1]), Intake(150)
    assert [len(await times(intake, consumer)) for _ in range(3)] == [150, 150, 1]


async def test_large_messages_are_not_piled_up_to_be_compared() -> None:
    consumer, intake = Fetched(one=range(9), two=range(9), three=range(9)), Intake(3)
    consumer.at_once = 1
    large = bytes(5_000_000)
    for partition, lying in consumer.records.items():
        consumer.records[partition] = [replace(record, value=large) for record in lying]
    for taken in (3, 6, 9):
        assert len(await take(intake, consumer)) == 3
        assert sum(map(len, consumer.records.values())) == 27 - taken


async def test_where_there_are_enough_large_ones_at_hand_no_more_are_waited_for_to_fill_the_poll() -> None:
    consumer, intake = Fetched(one=range(9)), Intake(100)
    consumer.at_once = 1
    consumer.records[ONE] = [replace(record, value=bytes(13_000_000)) for record in consumer.records[ONE]]
    assert await times(intake, consumer) == [0]
    assert not consumer.waits_ms


def made_large(records: Sequence[Lying]) -> list[Lying]:
    return [replace(record, value=bytes(3_000_000)) for record in records]


async def test_large_messages_that_were_taken_do_not_keep_later_ones_from_being_compared() -> None:
    consumer, intake = Fetched(one=[0, 1, 10, 11], two=range(20, 30)), Intake(2)
    consumer.records[ONE][:2] = made_large(consumer.records[ONE][:2])
    assert await times(intake, consumer) == [0, 1]
    assert await times(intake, consumer) == [10, 11]


async def test_large_messages_that_were_forgotten_do_not_either() -> None:
    consumer, intake = Fetched(one=range(4), two=range(20, 30)), Intake(2)
    consumer.records[ONE][2:] = made_large(consumer.records[ONE][2:])
    assert await times(intake, consumer) == [0, 1]
    intake.forget()
    consumer.records = Fetched(one=range(4), two=range(20, 30)).records
    assert [await times(intake, consumer) for _ in range(2)] == [[0, 1], [2, 3]]


async def test_what_was_read_of_another_assignment_is_forgotten() -> None:
    consumer, intake = Fetched(one=[1, 4, 7], two=[2, 5, 8]), Intake(2)
    await take(intake, consumer)
    assert intake.begun == {ONE: 0, TWO: 0}
    intake.forget()
    assert not intake
    assert intake.begun == {}
    assert await times(intake, consumer) == []
