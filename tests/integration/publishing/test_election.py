"""Who publishes: one at a time, by tenures or by turns; another as soon as that one is gone, and not before."""

import asyncio
import signal
import time
from pathlib import Path

import pytest
from dishka import AsyncContainer

from result_aggregator_service.publishing.election import Election
from result_aggregator_service.publishing.relay import Relay
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import Database
from tests.integration.publishing.relaying import (
    UNPUBLISHED,
    announcement,
    elected,
    enqueue,
    forgetful_queue,
    ids,
    ids_by_key,
    nothing_left,
    relay_with,
    slow_queue,
)
from tests.integration.service.process import ServiceProcess
from tests.integration.service.wiring import Wire, container_of, turning, value
from tests.servers import KafkaServer
from tests.waiting import eventually

#: Longer than any test waits.
NEVER = 600.0


@pytest.fixture
def by_turns(settings: Settings) -> Settings:
    return settings.model_copy(update={"outbox_listen": False, "outbox_poll_interval": 0.2})


async def test_a_standby_takes_over_at_once_when_the_elected_relay_resigns(settings: Settings, wire: Wire) -> None:
    """It is told so: by itself it would try again in ten minutes."""
    async with container_of(settings) as one, container_of(settings) as two:
        resigning, standby = await one.get(Relay), await relay_with(two, seconds_between_tries=NEVER)
        async with turning(resigning):
            await elected(one)
            async with turning(standby):
                await eventually(lambda: standby.heartbeat.state == "standing by")
                resigning.stop()
                await elected(two)
                await enqueue(two, announcement("b"))
                await wire.published(1)


async def test_a_standby_publishes_within_five_seconds_of_a_kill(
    settings: Settings, database_url: str, kafka_server: KafkaServer, own_folder: Path, wire: Wire
) -> None:
    environment = {
        "DATABASE_URL": database_url,
        "KAFKA_BOOTSTRAP_SERVERS": kafka_server.bootstrap_servers,
        "CACHE_ENABLED": "false",
    }
    async with container_of(settings) as container:
        with ServiceProcess(own_folder, **environment) as service:
            await eventually(lambda: service.metric("ras_outbox_relay_active"), within=60)
            async with turning(await container.get(Relay)):
                await enqueue(container, announcement("b", 1))
                await wire.published(1)
                service.process.send_signal(signal.SIGKILL)
                killed_at = time.monotonic()
                await enqueue(container, announcement("b", 2))
                await wire.published(2)
                assert time.monotonic() < killed_at + 5
                await nothing_left(container)


@pytest.mark.parametrize("listens", [True, False], ids=["tenure", "turn"])
async def test_one_that_waits_for_kafka_for_long_keeps_its_place(settings: Settings, listens: bool, wire: Wire) -> None:
    settings = settings.model_copy(update={"outbox_listen": listens, "outbox_poll_interval": 0.2})
    queue = slow_queue()
    async with container_of(settings) as one, container_of(settings) as two:
        await enqueue(one, announcement("b"))
        async with turning(await relay_with(one, queue=queue, seconds_of_silence=1)):
            await asyncio.wait_for(queue.claimed.wait(), 30)
            async with turning(standby := await relay_with(two, seconds_between_tries=0.1)):
                await eventually(lambda: standby.heartbeat.state == "standing by")
                since = time.monotonic()
                while time.monotonic() < since + 3.0:  # three times as long as a session may be silent
                    assert standby.heartbeat.state == "standing by"
                    await asyncio.sleep(0.05)
                queue.go_on.set()
                await nothing_left(one)
        assert len(await wire.published(1)) == 1


async def test_those_that_take_turns_publish_all_in_order(by_turns: Settings, wire: Wire) -> None:
    settings = by_turns.model_copy(update={"outbox_batch_size": 7, "outbox_poll_interval": 0.02})
    sent: dict[str, list[str]] = {}
    async with (
        container_of(settings) as one,
        container_of(settings) as two,
        turning(await one.get(Relay), await two.get(Relay)),
    ):
        for number in range(60):
            made = announcement(f"b{number % 3}", number)
            sent.setdefault(made.key, []).append(str(made.event_id))
            await enqueue(one, made)
        assert ids_by_key(await wire.published(60)) == sent
        await nothing_left(one)


async def test_turns_and_tenures_exclude_each_other(settings: Settings, by_turns: Settings) -> None:
    election = Election(settings)
    stopping, wake = asyncio.Event(), asyncio.Event()
    async with Election(by_turns).candidacy() as one, Election(by_turns).candidacy() as other:
        async with election.tenure(stopping=stopping, wake=wake, standing_by=lambda: None) as queue:
            assert queue is not None
            async with election.turn(one) as turn:
                assert turn is None
        async with election.turn(one) as mine:
            async with election.turn(other) as turn:
                assert (mine is None, turn is None) == (False, True)

            async with election.tenure(stopping=stopping, wake=wake, standing_by=stopping.set) as queue:
                assert queue is None
        async with election.turn(other) as turn:
            assert turn is not None


async def test_a_turn_that_ends_before_its_rows_are_marked_is_taken_again(by_turns: Settings, wire: Wire) -> None:
    queue = forgetful_queue()
    sent = [announcement("b", number) for number in range(3)]
    async with container_of(by_turns) as container:
        await enqueue(container, *sent)
        async with turning(await relay_with(container, queue=queue)):
            records = await wire.published(6)
            await nothing_left(container)
    assert queue.marks == 2
    assert ids(records) == [str(made.event_id) for made in sent] * 2


async def test_one_that_takes_turns_publishes_what_is_there_before_it_stops(
    by_turns: Settings, container: AsyncContainer, wire: Wire
) -> None:
    async with container_of(by_turns) as other:
        relay = await other.get(Relay)
        async with turning(relay):
            await eventually(lambda: relay.heartbeat.state == "publishing")
            await enqueue(container, *(announcement("b", number) for number in range(250)))
            relay.stop()
        assert await value(await container.get(Database), UNPUBLISHED) == 0
        assert len(await wire.published(250)) == 250
