"""The ledger decides what enters the outbox, whoever asks, and however often."""

import pytest
from dishka import AsyncContainer

from result_aggregator_service.publishing.event_publisher import EventPublisher
from result_aggregator_service.storage.engine import Database
from tests.integration.publishing.relaying import UNPUBLISHED, announcement
from tests.integration.service.wiring import value

FIRST, SECOND = announcement("b"), announcement("b", 1)


async def test_what_the_ledger_has_already_is_not_announced_again(container: AsyncContainer) -> None:
    database, publisher = await container.get(Database), await container.get(EventPublisher)
    async with database.transaction() as session:
        await publisher.announce(session, [(FIRST, None)])
    async with database.transaction() as session:
        await publisher.announce(session, [(FIRST, None), (SECOND, None)])
        assert await publisher.known(session, [FIRST.event_id, SECOND.event_id]) == {FIRST.event_id, SECOND.event_id}
    assert await value(database, UNPUBLISHED) == 4, "each once, with what the teacher is told of it"


async def test_what_was_rolled_back_is_neither_in_the_ledger_nor_in_the_outbox(container: AsyncContainer) -> None:
    database, publisher = await container.get(Database), await container.get(EventPublisher)

    async def announce_in_vain() -> None:
        async with database.transaction() as session:
            await publisher.announce(session, [(FIRST, None)])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await announce_in_vain()
    async with database.transaction() as session:
        assert await publisher.known(session, [FIRST.event_id]) == set()
    assert await value(database, UNPUBLISHED) == 0
