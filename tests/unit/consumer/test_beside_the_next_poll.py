"""What is left of a poll that was handled is done beside the next one: its marks are made, its messages are freed."""

import asyncio
import weakref
from typing import Any

import pytest
from pydantic import SecretStr

from result_aggregator_service.consumer.consumer import Consumer, _Taken
from result_aggregator_service.consumer.poll_handler import PollHandler
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.projection.projector import Message, Poll, Projected
from result_aggregator_service.resilience.circuit_breaker import CircuitBreaker
from result_aggregator_service.settings import Settings
from tests.unit.domain import messages as say
from tests.waiting import eventually

A_POLL = Poll((), ())


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


class Freed:
    """Something of which one can tell whether it is still there."""


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


async def test_all_of_a_handled_poll_is_freed_before_the_next_one_is_taken(handler: PollHandler) -> None:
    settings = Settings(database_url=SecretStr("postgresql://localhost/x"), environment="development")
    consumer = Consumer(settings, handler, Metrics())
    records: list[Any] = [Freed() for _ in range(1_000)]
    there = weakref.WeakSet(records)
    poll = Poll([Message(say.slot(f"e{number}"), record) for number, record in enumerate(records)], ())
    consumer._handled = _Taken(records, poll, 0, 0.0)
    del records, poll
    assert len(there) == 1_000
    await consumer._let_go()
    assert len(there) == 0
    await consumer._let_go()
