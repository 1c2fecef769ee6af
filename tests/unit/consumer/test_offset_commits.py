"""Commits beside the polls: one at a time, in order, and how each ends is heard."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from aiokafka.errors import CommitFailedError, KafkaError
from aiokafka.structs import TopicPartition

from result_aggregator_service.consumer.offset_commits import AbandonedError, OffsetCommits
from result_aggregator_service.heartbeat import Heartbeat
from result_aggregator_service.observability.metrics import Metrics
from tests.waiting import eventually

ONE, OTHER = TopicPartition("topic", 0), TopicPartition("topic", 1)


class Kafka:
    """What the commits ask of a client; each is answered when it may be, by the next of the answers."""

    def __init__(self, *answers: Exception) -> None:
        self._answers = list(answers)
        self.asked: list[Mapping[TopicPartition, int]] = []
        self.may = asyncio.Event()
        self.may.set()

    async def commit(self, offsets: Mapping[TopicPartition, int]) -> None:
        self.asked.append(offsets)
        await self.may.wait()
        if self._answers:
            raise self._answers.pop(0)


class Stand:
    def __init__(self, *answers: Exception) -> None:
        self.kafka: Any = Kafka(*answers)
        self.stopping = asyncio.Event()
        self.heartbeat = Heartbeat()
        self.commits = OffsetCommits(Metrics(), self.heartbeat, self.stopping)

    async def begin(self, offsets: Mapping[TopicPartition, int]) -> None:
        await self.commits.begin(self.kafka, offsets)

    async def asked(self, times: int) -> None:
        await eventually(lambda: len(self.kafka.asked) == times)


async def test_a_commit_is_not_waited_for_until_the_next_one_begins() -> None:
    stand = Stand()
    stand.kafka.may.clear()
    await stand.begin({ONE: 1})
    second = asyncio.create_task(stand.begin({ONE: 2, OTHER: 1}))
    await stand.asked(1)
    assert (stand.commits.is_under_way, second.done(), stand.commits.committed) == (True, False, {})
    stand.kafka.may.set()
    await second
    await stand.commits.settle()
    assert not stand.commits.is_under_way
    await stand.commits.done()
    assert stand.kafka.asked == [{ONE: 1}, {ONE: 2, OTHER: 1}]
    assert (stand.commits.is_under_way, stand.commits.times) == (False, 2)
    assert stand.commits.committed == {ONE: 2, OTHER: 1}


async def test_after_a_commit_that_the_group_refuses_the_next_one_is_not_begun() -> None:
    stand = Stand(CommitFailedError("rebalanced"))
    await stand.begin({ONE: 1})
    await stand.commits.settle()
    assert stand.commits.is_under_way
    with pytest.raises(AbandonedError, match="rebalanced"):
        await stand.begin({ONE: 2})
    assert (stand.kafka.asked, stand.commits.committed, stand.commits.times) == ([{ONE: 1}], {}, 0)
    await stand.begin({ONE: 3})  # the refusal has been heard
    await stand.commits.done()
    assert stand.commits.committed == {ONE: 3}


async def test_while_kafka_is_away_a_commit_is_tried_again() -> None:
    stand = Stand(KafkaError("no coordinator"), TimeoutError())
    await stand.begin({ONE: 1})
    await stand.asked(2)
    assert stand.heartbeat.state == "waiting for Kafka"
    await stand.commits.done()
    assert stand.kafka.asked == [{ONE: 1}] * 3
    assert stand.commits.committed == {ONE: 1}


async def test_who_stops_while_kafka_is_away_gives_the_commit_up() -> None:
    stand = Stand(*[KafkaError("no coordinator")] * 100)
    await stand.begin({ONE: 1})
    await stand.asked(1)
    stand.stopping.set()
    with pytest.raises(AbandonedError, match="the service stops while Kafka is away"):
        await stand.commits.done()


async def test_what_is_under_way_when_the_assignment_ends_is_given_up_and_whoever_waits_for_it_told() -> None:
    stand = Stand()
    stand.kafka.may.clear()
    await stand.begin({ONE: 1})
    await stand.asked(1)
    waiting = asyncio.create_task(stand.begin({ONE: 2}))
    await asyncio.sleep(0)
    stand.commits.forget()
    with pytest.raises(AbandonedError, match="the group was rebalanced"):
        await waiting
    stand.kafka.may.set()
    await stand.begin({OTHER: 7})
    await stand.commits.done()
    assert stand.kafka.asked == [{ONE: 1}, {OTHER: 7}]
    assert stand.commits.committed == {OTHER: 7}
