"""The service behind PgBouncer in transaction mode: a session is lent for one transaction, no statement is kept."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import text
from structlog.testing import capture_logs

from embedded import EmbeddedPgBouncer
from result_aggregator_service.contracts.topics import CONSUMED
from result_aggregator_service.domain.event import Event
from result_aggregator_service.domain.notification_projector import teacher_notification
from result_aggregator_service.publishing.outbox_manager import OutboxManager
from result_aggregator_service.publishing.relay import Relay
from result_aggregator_service.storage.engine import Database, connect_directly, create_engine
from tests.integration.service.process import ServiceProcess, in_thread
from tests.integration.service.wiring import Wire, container_of, envelope_of, settings_for, turning
from tests.servers import KafkaServer, migrate
from tests.unit.domain import messages as say
from tests.unit.domain.model import read_model
from tests.waiting import eventually

Positioned = Callable[[Iterable[str]], Awaitable[str]]
STATUS = "/internal/v1/batches/{}/status"
#: Within that time of one replica's end another publishes (the relay's promise).
TAKEOVER_SECONDS = 5.0


_WRITE = text(
    """
    INSERT INTO cj_assessments
        (batch_id, job_id, graded, assessed_at, rankings, correlation_id, announcement_id, event_id)
    SELECT 'b', :job, true, now(), CAST(:rankings AS jsonb), id, id, id FROM unnest(CAST(:ids AS uuid[])) AS id
    """
)
_READ = text("SELECT rankings FROM cj_assessments WHERE job_id = :job")


async def many_transactions(url: str, *, prepared_statements: bool) -> set[int]:
    """Write and read through many connections at once; return the sessions of PostgreSQL that they were given."""
    database = Database(create_engine(settings_for(url, database_prepared_statements=prepared_statements)))

    async def work(number: int) -> set[int]:
        pids, job = set(), {"job": f"job {number}"}
        for _ in range(5):
            async with database.transaction() as session:
                pids.add(await session.scalar(text("SELECT pg_backend_pid()")))
                await session.execute(_WRITE, {**job, "rankings": "[1]", "ids": [uuid4()]})
            async with database.snapshot() as reading:
                assert {tuple(rankings) for rankings in await reading.scalars(_READ, job)} == {(1,)}
            async with database.single_statement() as reading:
                assert {tuple(rankings) for rankings in await reading.scalars(_READ, job)} == {(1,)}
        return pids

    outcomes = await asyncio.gather(*map(work, range(12)), return_exceptions=True)
    await database.close()
    pids: set[int] = set()
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        pids |= outcome
    return pids


async def test_transactions_share_sessions_once_no_statement_is_prepared_by_name(
    pgbouncer: EmbeddedPgBouncer, database_url: str
) -> None:
    url = pgbouncer.url_for(database_url)
    assert len(await many_transactions(url, prepared_statements=False)) <= 3
    # What the setting is for. Without it a statement is missing; never is another process's taken for it.
    with pytest.raises(asyncpg.InvalidSQLStatementNameError, match=r"prepared statement .* does not exist"):
        await many_transactions(url, prepared_statements=True)


async def test_each_process_has_names_of_its_own_for_prepared_statements(database_url: str) -> None:
    prefixes = []
    for _ in range(2):
        database = Database(create_engine(settings_for(database_url)))
        async with database.snapshot() as session:
            names = await session.scalars(text("SELECT name FROM pg_prepared_statements"))
            prefixes.append({name.rpartition("_")[0] for name in names})
        await database.close()
    assert len(prefixes[0]) == len(prefixes[1]) == 1
    assert prefixes[0] != prefixes[1]


async def test_a_direct_connection_that_is_pooled_is_told_of(pgbouncer: EmbeddedPgBouncer, database_url: str) -> None:
    for url, told in ((database_url, []), (pgbouncer.url_for(database_url), ["direct_connection_is_pooled"])):
        with capture_logs() as lines:
            connection = await connect_directly(settings_for(url))
        await connection.close()
        assert [line["event"] for line in lines] == told


async def test_migrations_go_through_it_and_leave_nothing_in_the_sessions_of_others(
    pgbouncer: EmbeddedPgBouncer, empty_database_url: str
) -> None:
    url = pgbouncer.url_for(empty_database_url)
    await in_thread(migrate, url)
    connection = await asyncpg.connect(url.replace("+asyncpg", ""), statement_cache_size=0)
    try:
        assert await connection.fetchval("SELECT count(*) FROM batch_results") == 0
        assert await connection.fetchval("SHOW lock_timeout") == "0"
    finally:
        await connection.close()


def batch(batch_id: str) -> list[Event]:
    """All that is ever said of a batch."""
    essays = [f"{batch_id} x", f"{batch_id} y"]
    return [
        say.registered(essays, batch_id, class_id=None),
        *(say.slot(essay, batch_id) for essay in essays),
        *(say.spellcheck(essay, batch_id) for essay in essays),
        say.assessment({essays[0]: (1, 1.5), essays[1]: (2, 0.5)}, batch_id),
        say.outcome("spellcheck", essays, batch=batch_id),
        say.outcome("cj_assessment", essays, batch=batch_id, at=200),
    ]


def announced(batch_id: str) -> set[UUID]:
    """The identities of what is announced of it: its results, its assessment, and the notification of each."""
    announcements = read_model(*batch(batch_id)).announced
    return {one.event_id for each in announcements for one in (each, teacher_notification(each, None))}


async def all_announced(wire: Wire, batch_ids: Iterable[str]) -> bool:
    """Whether everything about these batches has been published; nothing else may have been."""
    expected = {event_id for batch_id in batch_ids for event_id in announced(batch_id)}
    got = {UUID(envelope_of(record)["event_id"]) for record in await wire.received()}
    assert got <= expected
    return got == expected


async def nothing_unpublished(url: str) -> bool:
    """Whether the outbox is empty."""
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        return not await connection.fetchval("SELECT count(*) FROM event_outbox WHERE published_at IS NULL")
    finally:
        await connection.close()


@pytest.mark.apache_kafka
async def test_with_a_direct_url_beside_it_the_relay_is_woken_by_what_commits_through_it(
    pgbouncer: EmbeddedPgBouncer, database_url: str, kafka_server: KafkaServer
) -> None:
    settings = settings_for(
        pgbouncer.url_for(database_url),
        database_direct_url=database_url,
        database_prepared_statements=False,
        kafka_bootstrap_servers=kafka_server.bootstrap_servers,
        outbox_poll_interval=600,
    )
    async with container_of(settings) as container, Wire(kafka_server.bootstrap_servers) as wire:
        relay, database = await container.get(Relay), await container.get(Database)
        outbox = await container.get(OutboxManager)
        async with turning(relay):
            for number, announcement in enumerate(read_model(*batch("b")).announced, start=1):
                async with database.transaction() as session:
                    await outbox.enqueue(session, [announcement])
                await wire.published(number, within=15)  # it looks by itself after 30 s
        assert number == 2  # the second one came while it waited


@pytest.mark.apache_kafka
async def test_without_one_replicas_take_turns_and_one_killed_in_its_turn_holds_nothing_up(
    pgbouncer: EmbeddedPgBouncer,
    database_url: str,
    redis_url: str,
    kafka_server: KafkaServer,
    kafka_group: Positioned,
    own_folder: Path,
) -> None:
    settings = {
        "DATABASE_URL": pgbouncer.url_for(database_url),
        "DATABASE_PREPARED_STATEMENTS": "false",
        "DATABASE_BREAKER_SECONDS": "0.5",
        "OUTBOX_LISTEN": "false",
        "OUTBOX_POLL_INTERVAL": "0.2",
        "KAFKA_BOOTSTRAP_SERVERS": kafka_server.bootstrap_servers,
        "KAFKA_CONSUMER_GROUP_ID": await kafka_group(CONSUMED),
        "KAFKA_SESSION_TIMEOUT_MS": "2000",
        "REDIS_URL": redis_url,
    }
    # The one that looks so often is nearly always the one that finds something; it dies once that has been sent.
    doomed_settings = {"OUTBOX_POLL_INTERVAL": "0.02", "ENVIRONMENT": "test", "FAILPOINTS": "relay.send.after=kill@3"}
    played: list[str] = []
    async with Wire(kafka_server.bootstrap_servers) as wire:
        with (
            ServiceProcess(own_folder / "service", **settings) as service,
            ServiceProcess(own_folder / "doomed", **{**settings, **doomed_settings}) as doomed,
        ):
            for process in (service, doomed):
                await process.answers("/readyz", 200)
                await eventually(partial(process.logged, "partitions_assigned"), within=30)

            async def play() -> None:
                played.append(f"batch {len(played)}")
                await wire.say(*batch(played[-1]))

            async def announced_or_dead() -> bool:
                return doomed.process.poll() is not None or await all_announced(wire, played)

            while doomed.process.poll() is None:
                assert len(played) < 100, "it never had a turn"
                await play()
                await eventually(announced_or_dead, within=30)
            assert doomed.process.returncode == -signal.SIGKILL
            await eventually(lambda: nothing_unpublished(database_url), within=TAKEOVER_SECONDS)
            assert service.logged("outbox_published")
            # The messages that the dead one had in hand come once Kafka has given its partitions away.
            await eventually(lambda: all_announced(wire, played), within=30)

            for process in (service, doomed):
                assert "prepared statement" not in process.output()

            await in_thread(pgbouncer.kill)
            await service.answers("/readyz", 503)
            await in_thread(pgbouncer.start)
            await play()
            await eventually(lambda: all_announced(wire, played), within=30)
            for batch_id in played:
                status = await service.answers(STATUS.format(batch_id), 200)
                assert status["overall_status"] == "completed_successfully"
                assert len(status["essays"]) == 2
            assert await service.terminated(within=35) == 0
            assert "Traceback" not in service.output()
