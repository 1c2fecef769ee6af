"""What is left of a poll that was handled is done beside the next one: its marks are made, its messages are freed."""

import asyncio
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.structs import TopicPartition
from pydantic import SecretStr

from result_aggregator_service.consumer.consumer import Consumer
from result_aggregator_service.consumer.poll_handler import Handled, PollHandler
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.projection.projector import Message, Poll, Projected
from result_aggregator_service.resilience.circuit_breaker import CircuitBreaker
from result_aggregator_service.settings import Settings
from tests.unit.domain import messages as say
from tests.waiting import eventually

A_POLL = Poll((), ())
A_FULL_POLL = 100
PARTITION = TopicPartition("topic", 0)


class MarkingWhenItMay:
    """A projector that marks a poll when it may."""

    def __init__(self) -> None:
        self.may_mark = asyncio.Event()
        self.projected = 0
        self.marked = 0

    async def project(self, _poll: Poll, **_how: object) -> Projected:
        self.projected += 1
        return Projected()

    async def mark(self, _projected: Projected) -> None:
        await self.may_mark.wait()
        self.marked += 1


class ARecord:
    """A record of which one can tell whether it is still there."""

    topic, partition, offset, timestamp, value = PARTITION.topic, PARTITION.partition, 0, 0, b""


@pytest.fixture
def projector() -> MarkingWhenItMay:
    return MarkingWhenItMay()


@pytest.fixture
def handler(projector: Any) -> PollHandler:
    unused: Any = None
    return PollHandler(unused, projector, unused, unused, Metrics(), CircuitBreaker(seconds_open=1.0))


async def never_wait(_seconds: float) -> None:
    pytest.fail("PostgreSQL is not in trouble")


async def test_a_poll_is_handled_though_it_is_not_marked_yet(handler: PollHandler, projector: MarkingWhenItMay) -> None:
    async with asyncio.timeout(5):
        await handler.handle_poll(A_POLL, never_wait)
    assert (projector.projected, projector.marked) == (1, 0)
    projector.may_mark.set()
    await handler.settle()
    assert projector.marked == 1
    await handler.settle()


async def test_the_next_poll_is_projected_meanwhile_and_polls_are_marked_one_after_the_other(
    handler: PollHandler, projector: MarkingWhenItMay
) -> None:
    async with asyncio.timeout(5):
        await handler.handle_poll(A_POLL, never_wait)
    second = asyncio.create_task(handler.handle_poll(A_POLL, never_wait))
    await eventually(lambda: projector.projected == 2)
    for _ in range(10):
        await asyncio.sleep(0)
    assert not second.done()
    projector.may_mark.set()
    await second
    await handler.settle()
    assert projector.marked == 2


async def test_who_hands_records_in_has_them_marked(handler: PollHandler, projector: MarkingWhenItMay) -> None:
    projector.may_mark.set()
    await handler.handle([], never_wait)
    assert projector.marked == 1


async def test_a_poll_is_freed_while_the_next_one_is_handled_and_the_last_is_marked_before_the_consumer_ends() -> None:
    polled: list[weakref.WeakSet[ARecord]] = []
    handled = settled = 0

    async def getmany(**_: object) -> dict[TopicPartition, list[ARecord]]:
        if handled == 2:
            consumer.stop()
        records = [ARecord() for _ in range(A_FULL_POLL)]
        polled.append(weakref.WeakSet(records))
        return {PARTITION: records}

    async def decode(records: list[Any]) -> Poll:
        return Poll([Message(say.slot("e"), record) for record in records], ())

    async def prepare(poll: Poll) -> Poll:
        return poll

    async def handle_poll(poll: Poll, *_: object, **__: object) -> Handled:
        nonlocal handled
        handled += 1
        if handled == 2:
            assert len(polled[0]) == A_FULL_POLL
            await eventually(lambda: len(polled[0]) == 0, what="the first poll freed")
            assert len(polled[1]) == A_FULL_POLL
        return Handled()

    async def settle() -> None:
        nonlocal settled
        settled += 1

    async def commit(_: object) -> None:
        pass

    handler: Any = SimpleNamespace(decode=decode, prepare=prepare, handle_poll=handle_poll, settle=settle)
    member: Any = SimpleNamespace(
        assignment=set,
        paused=set,
        pause=lambda *_: None,
        resume=lambda *_: None,
        getmany=getmany,
        commit=commit,
        _subscription=SimpleNamespace(subscription=SimpleNamespace(assignment=None)),
    )
    settings = Settings(
        database_url=SecretStr("postgresql://localhost/x"),
        environment="development",
        kafka_max_poll_records=A_FULL_POLL,
    )
    consumer = Consumer(settings, handler, Metrics())
    await consumer._poll_until_stopped(member)
    assert handled >= 2
    assert settled == 1
