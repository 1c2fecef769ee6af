"""In which order a replay takes what lies in several partitions."""

from collections import deque
from dataclasses import dataclass

from aiokafka import TopicPartition

from result_aggregator_service.consumer.replayer import _oldest
from result_aggregator_service.projection.projector import KafkaRecord

ONE, TWO, THREE = (TopicPartition("topic", number) for number in range(3))


@dataclass(frozen=True)
class Lying:
    """A record, as far as its place in time matters."""

    partition: int
    offset: int
    timestamp: int
    topic: str = "topic"
    key: bytes | None = None
    value: bytes | None = None
    headers: tuple[()] = ()


def lying(partition: TopicPartition, *timestamps: int) -> deque[KafkaRecord]:
    return deque(Lying(partition.partition, offset, at) for offset, at in enumerate(timestamps))


def test_the_oldest_of_all_partitions_are_taken_until_one_has_none_left_to_compare() -> None:
    unread = {ONE: lying(ONE, 1, 5, 6), TWO: lying(TWO, 2, 3), THREE: lying(THREE, 4, 9)}
    assert [(r.partition, r.timestamp) for r in _oldest(unread, 100)] == [(0, 1), (1, 2), (1, 3)]
    assert {partition: len(records) for partition, records in unread.items()} == {ONE: 2, TWO: 0, THREE: 2}


def test_no_more_are_taken_than_a_poll_holds() -> None:
    unread = {ONE: lying(ONE, 1, 3), TWO: lying(TWO, 2, 4)}
    assert [r.timestamp for r in _oldest(unread, 2)] == [1, 2]
    assert [r.timestamp for r in _oldest(unread, 2)] == [3]


def test_within_a_partition_the_order_is_that_of_the_offsets_whatever_their_times() -> None:
    unread = {ONE: lying(ONE, 7, 1, 2), TWO: lying(TWO, 5, 8)}
    assert [(r.partition, r.offset) for r in _oldest(unread, 100)] == [(1, 0), (0, 0), (0, 1), (0, 2)]
