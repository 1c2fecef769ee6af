"""An upgrade under traffic: a replica on the oldest revision allowed keeps working while the database is migrated.

Each migration is kept from its end, with the locks that it has, until the replica has done some work beside it.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import asyncpg
import pytest

from result_aggregator_service.contracts.topics import CONSUMED
from result_aggregator_service.storage.migrations import REQUIRED_REVISION
from tests.integration.service.process import ServiceProcess
from tests.integration.service.test_pooling_proxy import all_announced, batch
from tests.integration.service.wiring import Wire, envelope_of
from tests.integration.storage.test_migrations import CHECKOUT, alembic, alembic_in
from tests.servers import KafkaServer
from tests.waiting import eventually

Positioned = Callable[[Iterable[str]], Awaitable[str]]
STATUS = "/internal/v1/batches/{}/status"
#: Those that the code can do without.
LATER_REVISIONS = sorted(
    path.name[:4] for path in CHECKOUT.glob("alembic/versions/*.py") if path.name[:4] > REQUIRED_REVISION
)


@asynccontextmanager
async def migrating_to(revision: str, database_url: str) -> AsyncIterator[None]:
    """All of a migration but its end is done again and again in the block, which it has 30 tries to outlast."""
    holder = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    await holder.execute("BEGIN; LOCK TABLE alembic_version IN SHARE MODE")
    migrating = asyncio.create_task(alembic_in(CHECKOUT, database_url, "upgrade", revision))

    async def is_at_its_end() -> int:
        assert not migrating.done(), migrating.result()
        waiting: int = await holder.fetchval(
            "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = 'RowExclusiveLock' "
            "AND relation = 'alembic_version'::regclass"
        )
        return waiting

    try:
        await eventually(is_at_its_end, within=60, what=f"the end of migration {revision}")
        yield
        assert not migrating.done(), migrating.result()
    finally:
        await holder.close()
        status, said = await migrating
    assert status == 0, said


@pytest.mark.apache_kafka
async def test_a_replica_on_the_oldest_revision_works_through_the_migration_and_beside_a_new_one(
    empty_database_url: str, redis_url: str, kafka_server: KafkaServer, kafka_group: Positioned, own_folder: Path
) -> None:
    settings = {
        "DATABASE_URL": empty_database_url,
        "KAFKA_BOOTSTRAP_SERVERS": kafka_server.bootstrap_servers,
        "KAFKA_CONSUMER_GROUP_ID": await kafka_group(CONSUMED),
        "KAFKA_SESSION_TIMEOUT_MS": "6000",
        "REDIS_URL": redis_url,
    }
    played: list[str] = []
    await alembic(empty_database_url, "upgrade", REQUIRED_REVISION)
    async with Wire(kafka_server.bootstrap_servers) as wire:

        async def play() -> None:
            played.append(f"batch {len(played)}")
            await wire.say(*batch(played[-1]))

        async def all_played_is_announced() -> None:
            await eventually(lambda: all_announced(wire, played), within=60)

        with ServiceProcess(own_folder / "old", **settings) as old:
            await old.answers("/readyz", 200, within=60)
            await eventually(partial(old.logged, "partitions_assigned"), within=60)
            await play()
            await all_played_is_announced()

            for revision in LATER_REVISIONS:
                async with migrating_to(revision, empty_database_url):
                    await play()
                    await old.answers(STATUS.format(played[0]), 200)
                    await all_played_is_announced()
                await play()
                await all_played_is_announced()

            with ServiceProcess(own_folder / "new", **settings) as new:
                await new.answers("/readyz", 200, within=60)
                await eventually(partial(new.logged, "partitions_assigned"), within=60)
                for _ in range(5):
                    await play()
                await all_played_is_announced()
                for service in (old, new):
                    for batch_id in played:
                        document = await service.answers(STATUS.format(batch_id), 200)
                        assert document["overall_status"] == "completed_successfully"
                        assert len(document["essays"]) == 2
                assert await old.terminated(within=60) == 0
                await play()
                await all_played_is_announced()
                assert await new.terminated(within=60) == 0
            for service in (old, new):
                assert "Traceback" not in service.output()
        ids = [envelope_of(record)["event_id"] for record in await wire.received()]
        assert len(ids) == len(set(ids)), "something was announced twice"
