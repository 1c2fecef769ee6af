"""The relay on real servers: in order, by one at a time, at least once under one id, whatever goes away."""

import asyncio
import dataclasses
from collections import defaultdict
from pathlib import Path

import pytest
from dishka import AsyncContainer

from embedded import ApacheKafka
from result_aggregator_service.contracts.topics import BATCH_ASSESSMENT_COMPLETED, BATCH_RESULTS_READY
from result_aggregator_service.domain.announcements import Announcement
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.publishing.election import ELECTION_LOCK
from result_aggregator_service.publishing.outbox_manager import OutboxManager
from result_aggregator_service.publishing.relay import Relay
from result_aggregator_service.resilience.circuit_breaker import CircuitBreaker
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
    sample,
)
from tests.integration.service.process import in_thread
from tests.integration.service.wiring import Wire, container_of, envelope_of, rows, settings_for, turning, value
from tests.servers import Servers, create_topics, leave_out_for
from tests.unit.domain import messages as say
from tests.waiting import eventually

TOO_LARGE = "x" * (1024 * 1024)


async def test_a_message_goes_out_with_its_key_its_headers_and_the_trace_of_its_cause(
    container: AsyncContainer, wire: Wire
) -> None:
    sent = announcement("b")
    async with turning(await container.get(Relay)):
        await enqueue(container, sent)
        [record] = await wire.published(1)
        await nothing_left(container)
    assert record.topic == BATCH_RESULTS_READY
    assert record.key == b"b"
    assert envelope_of(record) == sent.envelope.model_dump(mode="json")
    assert dict(record.headers) == {
        "event_id": str(sent.event_id).encode(),
        "event_type": BATCH_RESULTS_READY.encode(),
        "source_service": say.SERVICE.encode(),
        "schema_version": b"1",
        "occurred_at": envelope_of(record)["event_timestamp"].encode(),
        "trace_id": str(sent.envelope.correlation_id).encode(),
        "content_type": b"application/json",
        "traceparent": (sent.traceparent or "").encode(),
    }
    assert sent.traceparent
    metrics = await container.get(Metrics)
    assert sample(metrics, "ras_events_published_total", topic=BATCH_RESULTS_READY, result="published") == 1
    assert sample(metrics, "ras_outbox_commit_to_ack_seconds_count") == 1


async def test_the_order_of_each_key_is_the_order_of_commit(settings: Settings, wire: Wire) -> None:
    settings = settings.model_copy(update={"outbox_batch_size": 7})
    sent: dict[str, list[str]] = defaultdict(list)
    async with container_of(settings) as container, turning(await container.get(Relay)):
        for number in range(40):
            made = announcement(f"b{number % 3}", number)
            sent[made.key].append(str(made.event_id))
            await enqueue(container, made)
        assert ids_by_key(await wire.published(40)) == sent
        await nothing_left(container)


async def test_more_than_one_batch_of_the_client_holds_goes_out_whole_and_in_order(
    container: AsyncContainer, wire: Wire
) -> None:
    sizes = (1, 100_000, 100_000, 100_000, 1, 900_000, 1, 1)  # a batch holds 256 KiB, or one row that is larger
    sent = [announcement("b", number, padding="x" * size) for number, size in enumerate(sizes)]
    await enqueue(container, *sent)
    async with turning(await container.get(Relay)):
        assert ids(await wire.published(len(sent))) == [str(made.event_id) for made in sent]
        await nothing_left(container)


async def test_two_transactions_that_tell_one_teacher_commit_in_the_order_of_their_rows(
    container: AsyncContainer, wire: Wire
) -> None:
    """The case of two replicas that finish two batches of one teacher at the same moment."""
    database, outbox = await container.get(Database), await container.get(OutboxManager)
    one, other, elsewhere = (
        dataclasses.replace(announcement(batch), key=teacher)
        for batch, teacher in (("b1", "teacher"), ("b2", "teacher"), ("b3", "another"))
    )

    async def tell(made: Announcement) -> None:
        async with database.transaction() as session:
            await outbox.enqueue(session, [made])

    async with turning(await container.get(Relay)):
        async with database.transaction() as session:
            await outbox.enqueue(session, [one])
            second = asyncio.create_task(tell(other))
            await tell(elsewhere)
            assert ids(await wire.published(1)) == [str(elsewhere.event_id)]
            assert not second.done()
        await second
        assert ids_by_key(await wire.published(3))["teacher"] == [str(one.event_id), str(other.event_id)]
        await nothing_left(container)


async def test_a_commit_wakes_the_relay_long_before_it_would_look_by_itself(
    container: AsyncContainer, wire: Wire
) -> None:
    async with turning(await container.get(Relay)):
        await elected(container)
        for number in range(3):
            await enqueue(container, announcement("b", number))
            assert len(await wire.published(number + 1, within=10)) == number + 1  # it would look after 60 s


async def test_without_a_notification_it_finds_the_rows_by_itself(settings: Settings, wire: Wire) -> None:
    async with container_of(settings.model_copy(update={"outbox_poll_interval": 0.2})) as container:
        await enqueue(container, announcement("b"))
        async with turning(await container.get(Relay)):
            await wire.published(1)
            await nothing_left(container)
            database = await container.get(Database)
            await rows(database, "UPDATE event_outbox SET published_at = NULL RETURNING id")  # notifies nobody
            await wire.published(2)


async def test_a_row_whose_transaction_committed_late_is_not_skipped(container: AsyncContainer, wire: Wire) -> None:
    database, outbox = await container.get(Database), await container.get(OutboxManager)
    early, late = announcement("b1"), announcement("b2")
    async with turning(await container.get(Relay)):
        async with database.transaction() as session:
            await outbox.enqueue(session, [early])  # the lower id
            await enqueue(container, late)
            assert ids(await wire.published(1)) == [str(late.event_id)]
        assert ids(await wire.published(2)) == [str(late.event_id), str(early.event_id)]


async def test_a_standby_takes_over_when_the_elected_relay_stops(settings: Settings, wire: Wire) -> None:
    async with container_of(settings) as one, container_of(settings) as two:
        standby = await two.get(Relay)
        async with turning(standby):
            await elected(two)
            async with turning(relay := await one.get(Relay)):
                await eventually(lambda: relay.heartbeat.state == "standing by")
                await enqueue(one, announcement("b", 1))
                await wire.published(1)
                assert sample(await one.get(Metrics), "ras_outbox_relay_active") == 0
                standby.stop()
                await elected(one)
                await enqueue(one, announcement("b", 2))
                assert len(await wire.published(2)) == 2
                assert sample(await two.get(Metrics), "ras_outbox_relay_active") == 0


async def test_a_standby_takes_over_when_the_elected_relays_connection_dies(settings: Settings, wire: Wire) -> None:
    async with (
        container_of(settings) as one,
        container_of(settings) as two,
        turning(first := await one.get(Relay), second := await two.get(Relay)),
    ):
        database = await one.get(Database)
        kill_the_elected = (
            "SELECT pid, pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted "
            "AND (classid::bigint << 32 | objid::bigint) = CAST(:lock AS bigint) "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        await eventually(lambda: {first.heartbeat.state, second.heartbeat.state} == {"publishing", "standing by"})
        for turn in range(1, 4):
            # There may be nobody for a moment: the one that was deposed can publish before it notices.
            killed = await eventually(lambda: rows(database, kill_the_elected, lock=ELECTION_LOCK))
            assert len(killed) == 1
            await enqueue(one, announcement("b", turn))
            await wire.published(turn, within=10)
        await nothing_left(one)
        assert len(set(ids(await wire.received()))) == 3


@pytest.mark.parametrize("hangs", [False, True], ids=["stopped", "hanging"])
async def test_while_kafka_is_away_the_rows_stay_and_all_go_out_in_order_afterwards(
    hangs: bool, database_url: str, own_apache_kafka: ApacheKafka
) -> None:
    settings = settings_for(
        database_url,
        kafka_bootstrap_servers=own_apache_kafka.bootstrap_servers,
        outbox_send_timeout_seconds=1.0,
        outbox_poll_interval=0.1,
    )
    async with container_of(settings) as container, Wire(own_apache_kafka.bootstrap_servers) as wire:
        breaker = CircuitBreaker(seconds_open=1.0)
        async with turning(await relay_with(container, breaker=breaker)):
            await enqueue(container, announcement("b", 0))
            await wire.published(1)
            await in_thread(own_apache_kafka.pause if hangs else own_apache_kafka.stop)
            sent = [announcement(f"b{number % 2}", number) for number in range(1, 11)]
            await enqueue(container, *sent)
            await eventually(lambda: breaker.state.name == "OPEN", within=30)
            assert await value(await container.get(Database), UNPUBLISHED) == 10
            retries = "SELECT max(retry_count) FROM event_outbox"
            assert await value(await container.get(Database), retries) == 0  # it is not the rows' fault
            await in_thread(own_apache_kafka.resume if hangs else own_apache_kafka.start)
            await nothing_left(container, within=30)
            assert breaker.state.name == "CLOSED"
            received = await wire.published(lambda records: len(set(ids(records))) == 11, within=30)
        first_seen = ids_by_key(received)
        for key in ("b0", "b1"):
            expected = [str(made.event_id) for made in sent if made.key == key]
            assert list(dict.fromkeys(first_seen[key])) == expected


async def test_a_row_that_is_too_large_is_parked_after_its_attempts_and_its_neighbours_go_on(
    settings: Settings, wire: Wire
) -> None:
    settings = settings.model_copy(update={"outbox_max_attempts": 2, "outbox_poll_interval": 0.2})
    large = announcement("b1", 1, padding=TOO_LARGE)
    others = [announcement("b2", 2), announcement("b3", 3)]
    async with container_of(settings) as container, turning(await container.get(Relay)):
        database, metrics = await container.get(Database), await container.get(Metrics)
        await enqueue(container, large, announcement("b1", 4), *others)
        assert set(ids(await wire.published(2))) == {str(made.event_id) for made in others}

        async def parked() -> bool:
            return bool(await value(database, "SELECT count(*) FROM event_outbox WHERE parked_at IS NOT NULL"))

        await eventually(parked, within=20)
        [row] = await rows(database, "SELECT * FROM event_outbox WHERE retry_count > 0")
        assert row["event_id"] == large.event_id
        assert row["retry_count"] == 2
        assert "MessageSizeTooLargeError" in row["last_error"]
        await enqueue(container, announcement("b2", 5))
        assert len(await wire.published(3)) == 3
        # Policy `block`: what comes after it under its key waits for an operator.
        assert "b1" not in ids_by_key(await wire.received())
        assert sample(metrics, "ras_events_published_total", topic=BATCH_RESULTS_READY, result="parked") == 1
        assert sample(metrics, "ras_events_published_total", topic=BATCH_RESULTS_READY, result="refused") == 1
        assert sample(metrics, "ras_outbox_retries_total", topic=BATCH_RESULTS_READY) == 1
        await rows(database, "DELETE FROM event_outbox WHERE parked_at IS NOT NULL RETURNING id")
        await wire.published(lambda records: "b1" in ids_by_key(records))


async def test_what_is_behind_a_refused_row_in_the_next_batch_waits_too(settings: Settings, wire: Wire) -> None:
    """The next batch is claimed before it is known what becomes of the one that Kafka has."""
    settings = settings.model_copy(update={"outbox_max_attempts": 1, "outbox_batch_size": 1})
    large, behind, other = announcement("b1", 1, padding=TOO_LARGE), announcement("b1", 2), announcement("b2", 3)
    async with container_of(settings) as container:
        await enqueue(container, announcement("b3", 0), large, behind, other)
        async with turning(await container.get(Relay)):
            assert set(ids_by_key(await wire.published(2))) == {"b2", "b3"}
            database = await container.get(Database)

            async def two_left() -> bool:
                return bool(await value(database, UNPUBLISHED) == 2)

            await eventually(two_left)
        assert set(ids_by_key(await wire.received())) == {"b2", "b3"}


async def test_with_policy_skip_a_parked_row_frees_its_key(settings: Settings, wire: Wire) -> None:
    settings = settings.model_copy(
        update={"outbox_max_attempts": 1, "outbox_poll_interval": 0.2, "outbox_parked_key_policy": "skip"}
    )
    async with container_of(settings) as container, turning(await container.get(Relay)):
        after = announcement("b1", 2)
        await enqueue(container, announcement("b1", 1, padding=TOO_LARGE), after)
        assert ids(await wire.published(1)) == [str(after.event_id)]
        database = await container.get(Database)

        async def only_one_left() -> bool:
            return bool(await value(database, UNPUBLISHED) == 1)

        await eventually(only_one_left)
        assert await value(database, "SELECT parked_at IS NOT NULL FROM event_outbox ORDER BY id LIMIT 1") is True


async def test_a_batch_that_the_broker_refuses_costs_only_the_row_to_blame(
    database_url: str, own_apache_kafka: ApacheKafka
) -> None:
    """The client thinks that it is small enough, the topic does not: then a whole batch fails at once."""
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    admin = AIOKafkaAdminClient(bootstrap_servers=own_apache_kafka.bootstrap_servers)
    await admin.start()
    await admin.create_topics([NewTopic(BATCH_RESULTS_READY, 1, 1, topic_configs={"max.message.bytes": "20000"})])
    await admin.close()
    settings = settings_for(
        database_url, kafka_bootstrap_servers=own_apache_kafka.bootstrap_servers, outbox_max_attempts=2
    )
    sent = [announcement(f"b{number}", number) for number in range(4)]
    large = announcement("large", 9, padding="x" * 100_000)
    async with container_of(settings) as container, Wire(own_apache_kafka.bootstrap_servers) as wire:
        await enqueue(container, *sent[:2], large, *sent[2:])
        async with turning(await container.get(Relay)):
            received = await wire.published(4, within=30)
            database = await container.get(Database)

            async def parked() -> bool:
                found = await rows(database, "SELECT event_id FROM event_outbox WHERE parked_at IS NOT NULL")
                return [row["event_id"] for row in found] == [large.event_id]

            await eventually(parked, within=20)
        assert sorted(ids(received)) == sorted(str(made.event_id) for made in sent)
        assert await value(database, UNPUBLISHED) == 1


async def test_what_was_sent_but_not_marked_is_sent_again_under_the_same_id(
    container: AsyncContainer, wire: Wire
) -> None:
    queue = forgetful_queue()
    sent = [announcement("b", number) for number in range(3)]
    await enqueue(container, *sent)
    async with turning(await relay_with(container, queue=queue)):
        records = await wire.published(6)
        await nothing_left(container)
    assert queue.marks == 2
    assert ids(records) == [str(made.event_id) for made in sent] * 2


async def test_a_relay_that_is_asked_to_stop_publishes_what_is_there_first(
    container: AsyncContainer, wire: Wire
) -> None:
    relay = await container.get(Relay)
    async with turning(relay):
        await elected(container)
        await enqueue(container, *(announcement("b", number) for number in range(250)))
        relay.stop()
    assert await value(await container.get(Database), UNPUBLISHED) == 0
    assert len(await wire.published(250)) == 250


async def test_only_published_rows_past_their_retention_are_deleted(container: AsyncContainer) -> None:
    database, outbox = await container.get(Database), await container.get(OutboxManager)
    made = [announcement("b", number) for number in range(5)]
    await enqueue(container, *made)
    age = "UPDATE event_outbox SET published_at = clock_timestamp() - interval '{}' WHERE event_id = :id RETURNING id"
    for old in made[:3]:
        await rows(database, age.format("2 hours"), id=old.event_id)
    await rows(database, age.format("10 minutes"), id=made[3].event_id)
    deleted = []
    for _ in range(3):
        async with database.transaction() as session:
            deleted.append(await outbox.delete_published(session, older_than_seconds=3600, rows=2))
    assert deleted == [2, 1, 0]
    left = await rows(database, "SELECT event_id, published_at FROM event_outbox ORDER BY id")
    assert [(row["event_id"], row["published_at"] is None) for row in left] == [
        (made[3].event_id, False),
        (made[4].event_id, True),
    ]


@pytest.mark.apache_kafka
async def test_an_unknown_topic_holds_back_its_own_rows_only(
    database_url: str, own_folder: Path, servers: Servers
) -> None:
    leave_out_for(servers.why_no_native_kafka)
    with ApacheKafka(own_folder / "kafka", auto_create_topics=False) as strict:
        await create_topics(strict.bootstrap_servers, [BATCH_RESULTS_READY])
        settings = settings_for(
            database_url,
            kafka_bootstrap_servers=strict.bootstrap_servers,
            outbox_max_attempts=1,
            outbox_send_timeout_seconds=3.0,
        )
        lost = dataclasses.replace(announcement("b1", 1), topic=BATCH_ASSESSMENT_COMPLETED)
        async with container_of(settings) as container:
            database = await container.get(Database)
            await enqueue(container, lost, announcement("b2", 2))
            async with turning(await relay_with(container)):

                async def published() -> bool:
                    topics = await rows(database, "SELECT topic FROM event_outbox WHERE published_at IS NOT NULL")
                    return [row["topic"] for row in topics] == [BATCH_RESULTS_READY]

                await eventually(published, within=40)
