"""The whole process from outside: it starts by itself, waits for its servers, carries messages, and ends when told."""

import json
import socket
from collections.abc import Awaitable, Callable, Iterable, Iterator
from pathlib import Path

import asyncpg
import pytest
from aiokafka.structs import ConsumerRecord

from embedded import ApacheKafka, EmbeddedPostgres, EmbeddedValkey
from embedded.process import LOOPBACK, ServerProcess, free_port
from result_aggregator_service.contracts.topics import BATCH_PHASE_OUTCOME, CONSUMED, PUBLISHED
from tests.integration.service.process import ServiceProcess, in_thread
from tests.integration.service.wiring import Wire, envelope_of
from tests.samples import consumed, consumed_bytes, published
from tests.servers import KafkaServer, Servers, leave_out_for, migrate
from tests.unit.domain import messages as say
from tests.waiting import eventually

SAMPLES = (
    "batch_essays_registered",
    "essay_slot_assigned",
    "spellcheck_completed",
    "spellcheck_completed.failed",
    "spellcheck_results",
    "els_batch_phase_outcome.spellcheck",
    "els_batch_phase_outcome.cj_assessment",
    "assessment_result_published",
)
BATCH = str(published("batch_results_ready")["data"]["batch_id"])
STATUS = "/internal/v1/batches/{}/status"
Positioned = Callable[[Iterable[str]], Awaitable[str]]


@pytest.fixture
def absent_kafka(servers: Servers, own_folder: Path) -> Iterator[ApacheKafka]:
    """A broker that does not run yet, but whose address is known, and that creates no topic unasked."""
    leave_out_for(servers.why_no_native_kafka)
    broker = ApacheKafka(own_folder / "kafka", free_port(), auto_create_topics=False)
    yield broker
    broker.stop()


@pytest.mark.apache_kafka
async def test_it_starts_before_its_servers_and_carries_the_samples_once_they_are_there(
    own_folder: Path, own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey, absent_kafka: ApacheKafka
) -> None:
    own_postgres.stop()
    own_valkey.stop()
    with ServiceProcess(
        own_folder / "service",
        DATABASE_URL=own_postgres.url,
        KAFKA_BOOTSTRAP_SERVERS=absent_kafka.bootstrap_servers,
        REDIS_URL=own_valkey.url,
    ) as service:
        await service.answers("/livez", 200)
        unready = await service.answers("/readyz", 503)
        assert "postgres" in [reason["dependency"] for reason in unready["reasons"]]
        assert not any(dependency["ok"] for dependency in unready["dependencies"].values())
        await service.answers("/healthz", 200)
        waiting = (await eventually(lambda: service.logged("waiting_for_database")))[0]
        assert f"{LOOPBACK}:{own_postgres.port}" in waiting["reason"]
        assert waiting["level"] == "warning"
        assert own_postgres.password not in service.output()

        await in_thread(own_postgres.start)
        unready = await eventually(lambda: _unready_for(service, "migrations"), within=20)
        assert unready["reasons"][0]["mend"] == "run `alembic upgrade head`"
        assert await eventually(
            lambda: any("alembic upgrade head" in line["reason"] for line in service.logged("waiting_for_database"))
        )
        await service.answers("/livez", 200)

        await in_thread(migrate, own_postgres.url)
        ready = await service.answers("/readyz", 200)
        assert ready["status"] == "degraded"  # it serves reads without Kafka and Redis
        assert (await eventually(lambda: service.logged("kafka_unavailable")))[0]["bootstrap_servers"] == (
            absent_kafka.bootstrap_servers
        )

        await in_thread(own_valkey.start)
        await in_thread(absent_kafka.start)
        await eventually(lambda: service.logged("consumer_started"), within=30)
        [created] = service.logged("topics_created")
        assert set(created["topics"]) == {*CONSUMED, *PUBLISHED}
        async with Wire(absent_kafka.bootstrap_servers) as wire:
            for name in SAMPLES:
                await wire.send(consumed(name)["event_type"], consumed_bytes(name), key=BATCH.encode())
            batch = await eventually(lambda: _batch(service, "completed_with_failures"), within=30)
            assert batch["batch_id"] == BATCH
            assert batch["user_id"] == "teacher-4711"
            records = await wire.published(4)
            _assert_samples(records)
            await service.answers("/readyz", 200)
            assert (await service.answers("/healthz", 200))["status"] == "ok"

            assert await service.terminated(within=35) == 0
            assert service.logged("service_stopped")[0]["status"] == 0
            assert await wire.committed("result-aggregator-group") == {
                partition: end for partition, end in (await wire.ends()).items() if end
            }
        assert not service.logged("loop_not_drained")
        assert "Traceback" not in service.output()
        assert service.environment.keys() == {
            "DATABASE_URL", "KAFKA_BOOTSTRAP_SERVERS", "REDIS_URL", "INTERNAL_API_KEY", "PORT", "METRICS_PORT",
        }  # fmt: skip


async def _unready_for(service: ServiceProcess, dependency: str) -> dict[str, list[dict[str, str]]]:
    document: dict[str, list[dict[str, str]]] = (await service.get("/readyz")).json()
    assert [reason["dependency"] for reason in document["reasons"]] == [dependency]
    return document


async def _batch(service: ServiceProcess, status: str) -> dict[str, str]:
    response = await service.get(STATUS.format(BATCH))
    assert response.status_code == 200, response.text
    batch: dict[str, str] = response.json()
    assert batch["overall_status"] == status, batch["overall_status"]
    return batch


def _assert_samples(records: list[ConsumerRecord[bytes, bytes]]) -> None:
    got = {(record.topic, envelope_of(record)["event_id"]): envelope_of(record) for record in records}
    expected = [
        published(name)
        for name in (
            "batch_results_ready",
            "batch_assessment_completed",
            "teacher_notification.batch_results_ready",
            "teacher_notification.batch_assessment_completed",
        )
    ]
    assert got == {(message["event_type"], message["event_id"]): message for message in expected}
    assert len(records) == 4


async def test_it_says_who_is_away_and_folds_on_when_postgresql_is_back(
    own_folder: Path, own_postgres: EmbeddedPostgres, redis_url: str, kafka_server: KafkaServer, kafka_group: Positioned
) -> None:
    """A process that is told to stop while PostgreSQL is away ends cleanly; what it left undone the next one does."""
    migrate(own_postgres.url)
    settings = {
        "DATABASE_URL": own_postgres.url,
        "KAFKA_BOOTSTRAP_SERVERS": kafka_server.bootstrap_servers,
        "REDIS_URL": redis_url,
        "KAFKA_CONSUMER_GROUP_ID": await kafka_group(CONSUMED),
        "KAFKA_SESSION_TIMEOUT_MS": "6000",
    }
    async with Wire(kafka_server.bootstrap_servers, is_apache=kafka_server.is_apache) as wire:
        with ServiceProcess(own_folder / "service", **settings) as service:
            await service.answers("/readyz", 200)
            await eventually(lambda: service.logged("partitions_assigned"), within=30)
            await in_thread(own_postgres.stop)
            await wire.say(say.registered())
            await eventually(lambda: service.logged("database_unavailable"))
            assert (await service.answers("/readyz", 503))["reasons"][0]["dependency"] == "postgres"
            await service.answers("/livez", 200)
            assert await service.terminated(within=35) == 0
            assert "Traceback" not in service.output()
        await in_thread(own_postgres.start)
        with ServiceProcess(own_folder / "service", **settings) as service:
            await service.answers(STATUS.format("b"), 200)


async def test_it_ends_within_its_bound_while_a_server_hangs(
    own_folder: Path, own_postgres: EmbeddedPostgres, own_apache_kafka: ApacheKafka, redis_url: str
) -> None:
    migrate(own_postgres.url)
    servers: tuple[ServerProcess, ...] = (own_postgres, own_apache_kafka)
    for hanging in servers:
        with ServiceProcess(
            own_folder / "service",
            DATABASE_URL=own_postgres.url,
            KAFKA_BOOTSTRAP_SERVERS=own_apache_kafka.bootstrap_servers,
            KAFKA_SESSION_TIMEOUT_MS="1500",
            REDIS_URL=redis_url,
            SHUTDOWN_TIMEOUT_SECONDS="2",
        ) as service:
            await service.answers("/readyz", 200)
            await eventually(lambda: service.logged("partitions_assigned"), within=30)
            await eventually(lambda: service.logged("relay_elected"))
            hanging.pause()
            try:
                assert await service.terminated(within=15) == 0
            finally:
                hanging.resume()
            assert service.logged("service_stopped")


async def test_it_ends_with_status_0_while_kafka_is_away_and_the_outbox_is_full(
    own_folder: Path, database_url: str, redis_url: str, own_apache_kafka: ApacheKafka
) -> None:
    with ServiceProcess(
        own_folder / "service",
        DATABASE_URL=database_url,
        KAFKA_BOOTSTRAP_SERVERS=own_apache_kafka.bootstrap_servers,
        REDIS_URL=redis_url,
        OUTBOX_POLL_INTERVAL="0.2",
        SHUTDOWN_TIMEOUT_SECONDS="6",
    ) as service:
        await service.answers("/readyz", 200)
        await eventually(lambda: service.logged("partitions_assigned"), within=30)
        await in_thread(own_apache_kafka.stop)
        connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
        try:
            await connection.execute(
                "INSERT INTO event_outbox (event_id, aggregate_type, aggregate_id, event_type, event_data, event_key, "
                "topic) VALUES (gen_random_uuid(), 'batch', 'b', 't', $1, 'b', $2)",
                json.dumps(published("batch_results_ready")),
                next(iter(PUBLISHED)),
            )
            await eventually(lambda: service.logged("outbox_send_failed"), within=30)
            assert (await service.answers("/healthz", 200))["dependencies"]["kafka"]["ok"] is False
            await service.answers("/readyz", 200)
            assert await service.terminated(within=20) == 0
            assert await connection.fetchval("SELECT published_at IS NULL FROM event_outbox") is True
        finally:
            await connection.close()


async def test_a_wrong_setting_ends_it_with_status_2_and_one_line_that_shows_no_secret(own_folder: Path) -> None:
    with ServiceProcess(own_folder / "service", DATABASE_URL="mysql://user:hunter2@host/db") as service:
        assert await service.ended(within=30) == 2
    [line] = service.output().splitlines()
    assert "DATABASE_URL" in line
    assert "PostgreSQL" in line
    assert "hunter2" not in line


async def test_a_port_that_is_taken_ends_it_with_status_2_and_one_line(own_folder: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        url = f"postgresql://nobody@{LOOPBACK}:{free_port()}/none"
        with ServiceProcess(own_folder / "service", DATABASE_URL=url, METRICS_PORT=str(port)) as service:
            assert await service.ended(within=30) == 2
    [line] = service.output().splitlines()
    assert f"METRICS_PORT: cannot listen on 0.0.0.0:{port}" in line


async def test_a_loop_that_dies_takes_the_process_down_with_status_1(
    own_folder: Path, database_url: str, redis_url: str, kafka_server: KafkaServer, kafka_group: Positioned
) -> None:
    async with Wire(kafka_server.bootstrap_servers, is_apache=kafka_server.is_apache) as wire:
        with ServiceProcess(
            own_folder / "service",
            DATABASE_URL=database_url,
            KAFKA_BOOTSTRAP_SERVERS=kafka_server.bootstrap_servers,
            REDIS_URL=redis_url,
            KAFKA_CONSUMER_GROUP_ID=await kafka_group(CONSUMED),
            RAISE_ON_DESERIALIZATION_ERROR="true",
        ) as service:
            await service.answers("/readyz", 200)
            await wire.send(BATCH_PHASE_OUTCOME, b"no JSON")
            assert await service.ended(within=30) == 1
        [death] = service.logged("loop_died")
        assert death["loop"] == "consumer"
        assert "InvalidMessageError" in death["exception"]
        assert service.logged("service_stopped")[0]["status"] == 1


@pytest.mark.apache_kafka
async def test_told_to_stop_in_the_middle_of_traffic_it_leaves_offsets_that_are_exactly_what_it_folded(
    own_folder: Path, database_url: str, redis_url: str, kafka_server: KafkaServer, kafka_group: Positioned
) -> None:
    group = await kafka_group(CONSUMED)
    settings = {
        "DATABASE_URL": database_url,
        "KAFKA_BOOTSTRAP_SERVERS": kafka_server.bootstrap_servers,
        "REDIS_URL": redis_url,
        "KAFKA_CONSUMER_GROUP_ID": group,
        "KAFKA_MAX_POLL_RECORDS": "20",
    }
    messages = [say.slot(f"e{number}", f"b{number % 40}") for number in range(3000)]
    folded = "SELECT topic, partition, count(*) AS folded FROM processed_events GROUP BY 1, 2"
    async with Wire(kafka_server.bootstrap_servers) as wire:
        start = await wire.committed(group)
        for partition in range(4):
            await wire.say(*messages[partition::4], partition=partition)
        connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
        try:
            with ServiceProcess(own_folder / "service", **settings) as service:
                await eventually(lambda: service.logged("poll_projected"), within=40)
                assert await service.terminated(within=35) == 0
                assert "Traceback" not in service.output()
            done = {(row["topic"], row["partition"]): row["folded"] for row in await connection.fetch(folded)}
            assert 0 < sum(done.values()) < 3000, "it was meant to be stopped on the way"
            assert await wire.committed(group) == {p: start[p] + done.get((p.topic, p.partition), 0) for p in start}
            with ServiceProcess(own_folder / "service", **{**settings, "KAFKA_MAX_POLL_RECORDS": "500"}):
                await wire.all_committed(group, within=60)
            assert await connection.fetchval("SELECT count(*) FROM essay_results") == 3000
        finally:
            await connection.close()
