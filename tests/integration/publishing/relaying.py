"""Announcements to put into the outbox, a relay to publish them, and what can be seen of both."""

import asyncio
import dataclasses
from collections import defaultdict
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid5

from aiokafka.structs import ConsumerRecord
from dishka import AsyncContainer

from result_aggregator_service.domain.announcements import Announcement
from result_aggregator_service.domain.event import Event
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.publishing.election import Election
from result_aggregator_service.publishing.outbox_manager import OutboxManager
from result_aggregator_service.publishing.outbox_queue import OutboxQueue, OutboxRow
from result_aggregator_service.publishing.relay import Relay
from result_aggregator_service.publishing.sender import Sender
from result_aggregator_service.resilience.circuit_breaker import CircuitBreaker
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import Database, connect_directly
from tests.integration.service.wiring import envelope_of, value
from tests.unit.domain import messages as say
from tests.unit.domain.model import read_model
from tests.waiting import eventually

UNPUBLISHED = "SELECT count(*) FROM event_outbox WHERE published_at IS NULL"


def announcement(batch: str, number: int = 0, *, padding: str = "") -> Announcement:
    """The results of a batch, `number` telling one apart from another."""
    history: list[Event] = [
        say.registered(["e1"], batch, class_id=padding[:255] or None),
        say.spellcheck("e1", batch),
        say.outcome("spellcheck", ["e1"], batch=batch, at=100),
        say.outcome("cj_assessment", batch=batch, at=200),
    ]
    [made] = read_model(*history).announced
    envelope = made.envelope.model_copy(update={"event_id": uuid5(made.event_id, str(number))})
    if padding:
        data = envelope.data.model_copy(update={"user_id": padding})
        envelope = envelope.model_copy(update={"data": data})
    return dataclasses.replace(made, envelope=envelope)


async def enqueue(container: AsyncContainer, *announcements: Announcement) -> None:
    database, outbox = await container.get(Database), await container.get(OutboxManager)
    async with database.transaction() as session:
        await outbox.enqueue(session, announcements)


async def nothing_left(container: AsyncContainer, *, within: float = 20.0) -> None:
    database = await container.get(Database)

    async def probe() -> bool:
        return bool(await value(database, UNPUBLISHED) == 0)

    await eventually(probe, within=within, what="an empty outbox")


@asynccontextmanager
async def queue_of(container: AsyncContainer) -> AsyncIterator[OutboxQueue]:
    """What the elected relay has."""
    connection = await connect_directly(await container.get(Settings))
    yield OutboxQueue(connection, parked_key_policy="block")
    await connection.close()


class ForgetfulQueue(OutboxQueue):
    """Once it fails to mark what Kafka has acknowledged, as if the process had died in between. For one test each."""

    marks = 0

    async def mark_published(self, ids: Collection[int]) -> list[float]:
        type(self).marks += 1
        if self.marks == 1:
            self._connection.terminate()
        return await super().mark_published(ids)


class SlowQueue(OutboxQueue):
    """What it has claimed it gives only when the test says so. For one test each."""

    claimed: asyncio.Event
    go_on: asyncio.Event

    async def claim(self, *, limit: int, in_flight: Collection[int] = ()) -> list[OutboxRow]:
        rows = await super().claim(limit=limit, in_flight=in_flight)
        if rows:
            self.claimed.set()
            await self.go_on.wait()
        return rows


def slow_queue() -> type[SlowQueue]:
    """One of the test's own."""
    return type("SlowQueueOfTheTest", (SlowQueue,), {"claimed": asyncio.Event(), "go_on": asyncio.Event()})


def forgetful_queue() -> type[ForgetfulQueue]:
    """One of the test's own."""
    return type("ForgetfulQueueOfTheTest", (ForgetfulQueue,), {})


async def relay_with(
    container: AsyncContainer,
    *,
    queue: type[OutboxQueue] = OutboxQueue,
    breaker: CircuitBreaker | None = None,
    **patience: Any,
) -> Relay:
    """The service's relay with a breaker that is soon tried again."""
    settings = await container.get(Settings)
    return Relay(
        settings,
        Election(settings, queue, **patience),
        Sender(settings),
        await container.get(Metrics),
        breaker or CircuitBreaker(seconds_open=0.5),
    )


async def elected(container: AsyncContainer, *, within: float = 10.0) -> None:
    metrics = await container.get(Metrics)
    await eventually(lambda: sample(metrics, "ras_outbox_relay_active") == 1, within=within, what="an elected relay")


def sample(metrics: Metrics, name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(name, labels) or 0.0


def ids(records: Sequence[ConsumerRecord[bytes, bytes]]) -> list[str]:
    return [str(envelope_of(record)["event_id"]) for record in records]


def ids_by_key(records: Sequence[ConsumerRecord[bytes, bytes]]) -> dict[str, list[str]]:
    by_key: dict[str, list[str]] = defaultdict(list)
    for record in records:
        assert record.key is not None
        by_key[record.key.decode()].append(str(envelope_of(record)["event_id"]))
    return by_key
