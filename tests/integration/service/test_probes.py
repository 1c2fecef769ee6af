"""What probes, metrics and readers are told while each server is really stopped, and once it is back.

Beside the process runs the same service in this one, on the same servers, with loops that are soon tired of getting
nowhere: an outage must not tire them, however long it takes.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from embedded import ApacheKafka, EmbeddedPostgres, EmbeddedValkey
from result_aggregator_service.storage.engine import Database
from tests.integration.service.process import ServiceProcess, in_thread
from tests.integration.service.test_progress import PATIENCE, Service, impatient, insert_outbox_rows
from tests.integration.service.wiring import Wire, container_of, settings_for, value
from tests.servers import migrate
from tests.unit.domain import messages as say
from tests.waiting import eventually

BATCH = "/internal/v1/batches/b/status"
DEPENDENCIES = ("postgres", "migrations", "kafka", "redis")
LOOPS = ("consumer", "relay", "grace", "housekeeping")
UNPUBLISHED = "SELECT count(*) FROM event_outbox WHERE published_at IS NULL"


@dataclass
class Stand:
    """The process under test, the tired twin beside it, and their servers."""

    process: ServiceProcess
    twin: Service
    postgres: EmbeddedPostgres
    kafka: ApacheKafka
    valkey: EmbeddedValkey

    async def is_whole(self) -> None:
        """Wait until the process says that nothing is missing and all loops go on, in each of its ways to say it."""
        assert await self._readiness("ok", away=()) == {"status": "ok", "reasons": []}

    async def is_degraded(self, away: str) -> None:
        """Wait until it says that it serves without a server."""
        assert await self._readiness("degraded", away=(away,)) == {"status": "degraded", "reasons": []}

    async def is_unready(self, *away: str) -> list[dict[str, Any]]:
        """Wait until it says that it cannot serve; return its reasons."""
        reasons: list[dict[str, Any]] = (await self._readiness("unavailable", away=away))["reasons"]
        assert [reason["dependency"] for reason in reasons] == list(away)
        return reasons

    async def _readiness(self, status: str, away: Sequence[str]) -> dict[str, Any]:
        async def probe() -> dict[str, Any]:
            response = await self.process.get("/readyz")
            document: dict[str, Any] = response.json()
            states = document.pop("dependencies")
            assert document["status"] == status, document
            assert {name for name in DEPENDENCIES if not states[name]["ok"]} == set(away)
            assert all(states[name]["detail"] for name in away)
            assert response.status_code == (503 if status == "unavailable" else 200)
            return document

        document: dict[str, Any] = await eventually(probe, within=30, what=f"/readyz says {status}")
        health = await self.process.answers("/healthz", 200)
        assert health["status"] == ("ok" if status == "ok" else "degraded")
        assert {name for name in DEPENDENCIES if not health["dependencies"][name]["ok"]} == set(away)
        assert all(loop["alive"] and loop["making_progress"] for loop in health["loops"].values())
        assert (await self.process.get("/livez")).status_code == 200
        for name in DEPENDENCIES:
            assert await self.process.metric(f'ras_dependency_up{{dependency="{name}"}}') == (name not in away)
        for name in LOOPS:
            assert await self.process.metric(f'ras_loop_ok{{loop="{name}"}}') == 1
        return document

    @asynccontextmanager
    async def without(self, server: EmbeddedPostgres | ApacheKafka | EmbeddedValkey) -> AsyncIterator[None]:
        """Stop a server for the block, and for longer than the twin has patience. Both are alive all the time."""
        await in_thread(server.stop)
        begun = asyncio.get_running_loop().time()
        watching = asyncio.create_task(self._both_live())
        try:
            yield

            def long_enough() -> bool:
                return asyncio.get_running_loop().time() > begun + 3 * PATIENCE or watching.done()

            await eventually(long_enough, within=30)
        finally:
            watching.cancel()
            await asyncio.wait({watching})
        if not watching.cancelled():
            watching.result()
        await in_thread(server.start)

    async def _both_live(self) -> None:
        while True:
            for answer in (await self.process.get("/livez"), await self.twin.livez()):
                assert answer.status_code == 200, answer.text
            await asyncio.sleep(0.1)

    async def read(self) -> int:
        return (await self.process.get(BATCH)).status_code


async def test_each_server_is_stopped_and_started_again(
    own_folder: Path, own_postgres: EmbeddedPostgres, own_valkey: EmbeddedValkey, own_apache_kafka: ApacheKafka
) -> None:
    async with (
        standing(own_folder, own_postgres, own_valkey, own_apache_kafka) as stand,
        Wire(stand.kafka.bootstrap_servers) as wire,
    ):
        await stand.is_whole()
        await wire.say(say.registered())
        await eventually(lambda: _is(stand.read, 200), within=30)
        await stand.twin.folded(1)

        async with stand.without(stand.valkey):
            await stand.is_degraded("redis")
            assert await stand.read() == 200
        await stand.is_whole()

        async with stand.without(stand.postgres):
            await wire.say(say.slot("e1"))  # work for both
            reason, _ = await stand.is_unready("postgres", "migrations")
            assert reason["mend"] == "start PostgreSQL or correct DATABASE_URL"
            unknown = await stand.process.get("/internal/v1/batches/unknown/status")
            assert (unknown.status_code, "Retry-After" in unknown.headers) == (503, True)
        await stand.is_whole()

        async with stand.without(stand.kafka):
            await insert_outbox_rows(await stand.twin.container.get(Database), retry_counts=[0])  # work for its relay
            await stand.is_degraded("kafka")
            assert await stand.read() == 200
        await stand.is_whole()
        await eventually(lambda: _is(stand.twin.is_alive, True), within=60)

        async def published() -> bool:
            return bool(await value(await stand.twin.container.get(Database), UNPUBLISHED) == 0)

        await eventually(published, within=60)
        await stand.twin.folded(2)

        connection = await asyncpg.connect(stand.postgres.url.replace("+asyncpg", ""))
        try:
            revision = await connection.fetchval("SELECT version_num FROM alembic_version")
            await connection.execute("UPDATE alembic_version SET version_num = '0001'")
            [reason] = await stand.is_unready("migrations")
            assert "revision 0001" in reason["detail"]
            assert reason["mend"] == "run `alembic upgrade head`"
            await connection.execute("UPDATE alembic_version SET version_num = $1", revision)
            await stand.is_whole()
        finally:
            await connection.close()


@asynccontextmanager
async def standing(
    folder: Path, postgres: EmbeddedPostgres, valkey: EmbeddedValkey, kafka: ApacheKafka
) -> AsyncIterator[Stand]:
    """Both services, started and in their groups."""
    twins_url = postgres.url_for("twin")
    await in_thread(migrate, postgres.url)
    connection = await asyncpg.connect(postgres.url.replace("+asyncpg", ""))
    await connection.execute("CREATE DATABASE twin TEMPLATE postgres")
    await connection.close()
    process = ServiceProcess(
        folder / "service",
        DATABASE_URL=postgres.url,
        KAFKA_BOOTSTRAP_SERVERS=kafka.bootstrap_servers,
        KAFKA_SESSION_TIMEOUT_MS="6000",
        REDIS_URL=valkey.url,
        LOG_LEVEL="DEBUG",
    )
    settings = settings_for(
        twins_url,
        kafka_bootstrap_servers=kafka.bootstrap_servers,
        kafka_consumer_group_id="twins",
        redis_url=valkey.url_for(1),
        outbox_send_timeout_seconds=1.0,
        outbox_breaker_seconds=1.0,
    )
    with process:
        async with container_of(settings) as container, impatient(container) as twin:
            await twin.joined()
            await eventually(lambda: process.logged("partitions_assigned"), within=30)
            yield Stand(process, twin, postgres, kafka, valkey)
        assert process.environment["INTERNAL_API_KEY"] not in process.output()


async def _is(probe: Callable[[], Awaitable[object]], expected: object) -> bool:
    return await probe() == expected
