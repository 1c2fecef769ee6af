"""Invalidations that Redis did not take are kept until it does; gauges tell what waits; old rows go."""

from collections.abc import AsyncIterator

import pytest
from dishka import AsyncContainer

from embedded import EmbeddedValkey
from result_aggregator_service.cache.cache_manager import Answer, CacheManager, KnownTags
from result_aggregator_service.jobs.housekeeping import Housekeeper, Invalidator
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.projection_repository import Touched
from tests.integration.cache.source import Given
from tests.integration.projection.projection import Lying, ReadModel
from tests.integration.service.process import in_thread
from tests.integration.service.wiring import container_of, rows, settings_for, turning, value
from tests.unit.domain import messages as say
from tests.waiting import eventually

PENDING = "SELECT count(*) FROM pending_invalidations"


@pytest.fixture
def settings(database_url: str, redis_url: str) -> Settings:
    return settings_for(database_url, redis_url=redis_url, kafka_bootstrap_servers="127.0.0.1:9")


@pytest.fixture
async def container(settings: Settings) -> AsyncIterator[AsyncContainer]:
    async with container_of(settings) as made:
        yield made


def gauge(metrics: Metrics, name: str) -> float:
    found = metrics.registry.get_sample_value(name)
    assert found is not None
    return found


async def answer(cache: CacheManager, body: bytes) -> bytes:
    found = await cache.batch_status("b", KnownTags(), Given(body))
    assert isinstance(found, Answer)
    return found.body


async def test_what_redis_takes_leaves_nothing_to_do(container: AsyncContainer) -> None:
    await (await container.get(Invalidator)).invalidate(Touched({"b"}, {"u"}))
    assert await value(await container.get(Database), PENDING) == 0
    assert await (await container.get(Invalidator)).make_pending() is False


async def test_an_invalidation_that_redis_did_not_take_is_made_when_it_is_back_even_by_another_process(
    database_url: str, own_valkey: EmbeddedValkey
) -> None:
    settings = settings_for(database_url, redis_url=own_valkey.url, kafka_bootstrap_servers="127.0.0.1:9")
    async with container_of(settings) as container:
        database, cache = await container.get(Database), await container.get(CacheManager)
        assert await answer(cache, b"old") == b"old"
        await in_thread(own_valkey.pause)
        await (await container.get(Invalidator)).invalidate(Touched({"b", "b2"}, {"u"}))
        waiting = await rows(database, "SELECT batch_id, user_id FROM pending_invalidations ORDER BY id")
        assert [tuple(row.values()) for row in waiting] == [("b", None), ("b2", None), (None, "u")]
        async with turning(await container.get(Housekeeper)):
            metrics = await container.get(Metrics)
            await eventually(lambda: gauge(metrics, "ras_pending_invalidations") == 3)
    await in_thread(own_valkey.resume)
    async with container_of(settings) as container:
        cache = await container.get(CacheManager)
        async with turning(await container.get(Housekeeper)):

            async def made() -> bool:
                return bool(await value(await container.get(Database), PENDING) == 0)

            await eventually(made)
        assert await answer(cache, b"new") == b"new"
        metrics = await container.get(Metrics)
        await (await container.get(Housekeeper)).measure()
        assert gauge(metrics, "ras_pending_invalidations") == 0


async def test_many_pending_invalidations_are_made_in_several_goes(container: AsyncContainer) -> None:
    database, invalidator = await container.get(Database), await container.get(Invalidator)
    await rows(
        database,
        "INSERT INTO pending_invalidations (batch_id) SELECT 'b' || n FROM generate_series(1, 1001) n RETURNING id",
    )
    assert [await invalidator.make_pending() for _ in range(2)] == [True, False]
    assert await value(database, PENDING) == 0


async def test_the_gauges_tell_what_waits(container: AsyncContainer) -> None:
    read_model = await ReadModel.of(container)
    housekeeper, metrics = await container.get(Housekeeper), await container.get(Metrics)
    await housekeeper.measure()
    names = (
        "ras_outbox_depth",
        "ras_outbox_parked",
        "ras_quarantine_size",
        "ras_outbox_oldest_unpublished_age_seconds",
    )
    assert [gauge(metrics, name) for name in names] == [0, 0, 0, 0]
    critical = say.outcome("spellcheck", failed=["e1"], status=say.CRITICAL)
    await read_model.poll(say.registered(), critical, Lying("huleedu.essay.nlp.completed.v1", b"{", 1))
    await rows(
        read_model.database,
        "UPDATE event_outbox SET created_at = clock_timestamp() - interval '1 hour', "
        "parked_at = CASE WHEN id = (SELECT min(id) FROM event_outbox) THEN clock_timestamp() END RETURNING id",
    )
    await housekeeper.measure()
    assert [gauge(metrics, name) for name in names[:3]] == [2, 1, 1]
    assert 3600 <= gauge(metrics, names[3]) < 3700
    await rows(read_model.database, "UPDATE event_outbox SET published_at = clock_timestamp() RETURNING id")
    await housekeeper.measure()
    assert [gauge(metrics, name) for name in names] == [0, 0, 1, 0]


async def test_rows_past_their_retention_go_however_many_they_are_and_no_others(container: AsyncContainer) -> None:
    database, settings = await container.get(Database), await container.get(Settings)
    await rows(
        database,
        'INSERT INTO processed_events (event_id, topic, partition, "offset", processed_at) '
        "SELECT gen_random_uuid(), 't', 0, n, clock_timestamp() - make_interval(hours => CASE WHEN n <= 2100 "
        "THEN CAST(:hours AS int) + 1 ELSE CAST(:hours AS int) - 1 END) FROM generate_series(1, 2105) n RETURNING 1",
        hours=int(settings.inbox_retention_hours),
    )
    await rows(
        database,
        "INSERT INTO event_outbox (event_id, aggregate_type, aggregate_id, event_type, event_data, event_key, topic, "
        "published_at) SELECT gen_random_uuid(), 'batch', 'b', 't', '{}', 'k', 't', CASE WHEN n <= 1100 "
        "THEN clock_timestamp() - make_interval(hours => CAST(:hours AS int) + 1) END "
        "FROM generate_series(1, 1103) n RETURNING id",
        hours=int(settings.outbox_retention_hours),
    )
    async with turning(await container.get(Housekeeper)):

        async def cleaned() -> bool:
            counts = [await value(database, f"SELECT count(*) FROM {t}") for t in ("processed_events", "event_outbox")]
            return counts == [5, 3]

        await eventually(cleaned, within=20)


async def test_housekeeping_outlives_an_outage_of_the_database() -> None:
    settings = settings_for(
        "postgresql://nobody@127.0.0.1:9/none", redis_url="redis://127.0.0.1:9/0", kafka_bootstrap_servers="127.0.0.1:9"
    )
    async with container_of(settings) as container:
        housekeeper = await container.get(Housekeeper)
        async with turning(housekeeper):
            await eventually(lambda: housekeeper.heartbeat.state == "waiting for PostgreSQL")
            turns = housekeeper.heartbeat._last
            await eventually(lambda: housekeeper.heartbeat._last > turns)
