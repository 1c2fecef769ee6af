"""A member that is still at a poll shows its group that it lives, and changes nothing of what is fetched."""

import asyncio
from typing import Any

from aiokafka import TopicPartition
from pydantic import SecretStr

from result_aggregator_service.consumer.consumer import Consumer
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.settings import Settings
from tests.waiting import eventually

FETCHED, PAUSED, TAKEN_AWAY = (TopicPartition("topic", number) for number in range(3))


class Member:
    """A client of Kafka that loses a partition while it is looked at."""

    def __init__(self) -> None:
        self.assigned = {FETCHED, PAUSED, TAKEN_AWAY}
        self.not_fetched = {PAUSED}
        self.looks = 0

    def assignment(self) -> set[TopicPartition]:
        return set(self.assigned)

    def paused(self) -> set[TopicPartition]:
        return set(self.not_fetched)

    def pause(self, *partitions: TopicPartition) -> None:
        self.not_fetched |= set(partitions)

    def resume(self, *partitions: TopicPartition) -> None:
        assert self.assigned >= set(partitions), "the client raises where it is asked for another's"
        self.not_fetched -= set(partitions)

    async def getmany(self, *, timeout_ms: int) -> dict[TopicPartition, list[Any]]:
        assert self.not_fetched >= self.assigned, "nothing is fetched meanwhile"
        self.assigned.discard(TAKEN_AWAY)
        self.looks += 1
        return {}


async def test_what_was_paused_before_stays_so_and_what_was_taken_away_is_let_be() -> None:
    settings = Settings(
        database_url=SecretStr("postgresql://localhost/x"), environment="development", kafka_max_poll_interval_ms=1500
    )
    handler: Any = None
    consumer, member, done = Consumer(settings, handler, Metrics()), Member(), asyncio.Event()
    showing = asyncio.create_task(consumer._show_life(member, consumer._generation, done))
    await eventually(lambda: member.looks > 0)
    done.set()
    await showing
    assert member.paused() & member.assignment() == {PAUSED}
