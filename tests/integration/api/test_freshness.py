"""No read that begins after an invalidation sees the older state, with the database and Redis behind the API."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import asyncpg
import httpx
import pytest
from dishka import make_async_container
from sqlalchemy.engine import make_url

from result_aggregator_service.app import create_app
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.projection_repository import Touched
from tests.integration.api.conftest import CREDENTIALS, MakeSettings, TestProvider
from tests.integration.api.read_model import ReadModel
from tests.unit.domain import messages as say
from tests.waiting import eventually

Connect = Callable[[], Awaitable[asyncpg.Connection]]

STATUS, LIST = "/internal/v1/batches/b/status", "/internal/v1/batches/user/teacher"
NO_REDIS = "redis://127.0.0.1:1/0"
EITHER = pytest.mark.parametrize("path", [STATUS, LIST])


@asynccontextmanager
async def replica(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, Metrics]]:
    """A caller of a replica with these settings, and the replica's metrics."""
    container = make_async_container(TestProvider(settings))
    transport = httpx.ASGITransport(app=create_app(container))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://ras", headers=CREDENTIALS) as caller:
        yield caller, await container.get(Metrics)
    await container.close()


@pytest.fixture
async def second(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, Metrics]]:
    async with replica(settings) as made:
        yield made


@pytest.fixture
def other_replica(second: tuple[httpx.AsyncClient, Metrics]) -> httpx.AsyncClient:
    return second[0]


@pytest.fixture
def others(second: tuple[httpx.AsyncClient, Metrics]) -> Metrics:
    """The other replica's."""
    return second[1]


@pytest.fixture
async def connect(settings: Settings) -> AsyncIterator[Connect]:
    """Connections past the service."""
    url = make_url(settings.postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    async with AsyncExitStack() as stack:

        async def connected() -> asyncpg.Connection:
            connection = await asyncpg.connect(url)
            stack.push_async_callback(connection.close)
            return connection

        yield connected


# A statement takes its snapshot after its turn at the tables, so to lock one would not do. Here it waits in the middle.
_WAIT_WHILE_READING = """
ALTER TABLE batch_results RENAME TO held_batch_results;
CREATE VIEW batch_results AS SELECT held_batch_results.* FROM held_batch_results, pg_advisory_xact_lock_shared(1);
"""


async def waiting_readers(connection: asyncpg.Connection, count: int) -> bool:
    """Whether so many wait for a lock; asked outside of a transaction, within which it would never change."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    return bool(await connection.fetchval(waiting) == count)


def corrections(response: httpx.Response) -> int | None:
    document = response.json()
    batch = document["batches"][0] if "batches" in document else document
    count: int | None = batch["essays"][0]["spellcheck_correction_count"]
    return count


@EITHER
async def test_every_change_is_seen_at_once_on_every_replica(
    path: str, client: httpx.AsyncClient, other_replica: httpx.AsyncClient, read_model: ReadModel
) -> None:
    await read_model.tell(say.registered(["e"], "b"))
    for count in range(1, 6):
        await read_model.tell(say.spellcheck("e", corrections=count, at=50 + count))
        for reader in (client, other_replica, client):
            assert corrections(await reader.get(path)) == count


@EITHER
async def test_a_reader_held_up_with_old_rows_neither_puts_them_back_nor_is_joined_by_later_ones(
    path: str,
    client: httpx.AsyncClient,
    other_replica: httpx.AsyncClient,
    read_model: ReadModel,
    connect: Connect,
) -> None:
    await read_model.tell(say.registered(["e"], "b"), say.spellcheck("e", corrections=1, at=51))
    lock, writer = await connect(), await connect()
    await writer.execute(_WAIT_WHILE_READING)
    async with lock.transaction():
        await lock.execute("SELECT pg_advisory_xact_lock(1)")
        before = asyncio.create_task(client.get(path))
        await eventually(lambda: waiting_readers(writer, 1), what="a reader waits, with its snapshot")
        await writer.execute("UPDATE essay_results SET spellcheck_correction_count = 2 WHERE essay_id = 'e'")
        await read_model.invalidate(Touched({"b"}, {"teacher"}))
        after = asyncio.create_task(client.get(path))
        await eventually(lambda: waiting_readers(writer, 2), what="the later reader asks for itself")
    assert corrections(await before) == 1
    assert corrections(await after) == 2
    for reader in (client, other_replica):
        assert corrections(await reader.get(path)) == 2


@EITHER
async def test_of_two_writers_neither_makes_readers_miss_the_other(
    path: str, client: httpx.AsyncClient, other_replica: httpx.AsyncClient, read_model: ReadModel
) -> None:
    """A commits, a reader comes, B commits, A invalidates, a reader comes, B invalidates."""
    await read_model.tell(say.registered(["e"], "b"))
    assert corrections(await client.get(path)) is None
    of_a = await read_model.write(say.spellcheck("e", corrections=1, at=51))
    await client.get(path)
    of_b = await read_model.write(say.spellcheck("e", corrections=2, at=52))
    await read_model.invalidate(of_a)
    for reader in (other_replica, client):
        assert corrections(await reader.get(path)) == 2
    await read_model.invalidate(of_b)
    for reader in (client, other_replica):
        assert corrections(await reader.get(path)) == 2


@EITHER
async def test_a_client_that_has_an_answer_is_not_told_that_it_is_unchanged_once_it_has_changed(
    path: str, client: httpx.AsyncClient, other_replica: httpx.AsyncClient, read_model: ReadModel
) -> None:
    await read_model.tell(say.registered(["e"], "b"))
    for count in range(1, 4):
        has = {"If-None-Match": (await client.get(path)).headers["ETag"]}
        for reader in (client, other_replica):
            assert (await reader.get(path, headers=has)).status_code == 304
        await read_model.tell(say.spellcheck("e", corrections=count, at=50 + count))
        for reader in (other_replica, client):
            assert corrections(await reader.get(path, headers=has)) == count


def queries(metrics: Metrics, operation: str) -> float:
    labels = {"operation": operation, "status": "success"}
    return metrics.registry.get_sample_value("ras_db_operations_total", labels) or 0.0


async def test_a_thousand_readers_of_a_cold_batch_cost_each_replica_one_query(
    client: httpx.AsyncClient,
    metrics: Metrics,
    other_replica: httpx.AsyncClient,
    others: Metrics,
    read_model: ReadModel,
) -> None:
    await read_model.tell(say.registered(["e"], "b"))
    readers = [client, other_replica] * 1000
    responses = await asyncio.gather(*(reader.get(STATUS) for reader in readers))
    assert {response.status_code for response in responses} == {200}
    assert len({response.content for response in responses}) == 1
    # The later of the two may have found what the earlier had stored.
    assert queries(metrics, "read_batch") <= 1
    assert queries(others, "read_batch") <= 1
    assert queries(metrics, "read_batch") + queries(others, "read_batch") >= 1


async def test_a_thousand_readers_of_a_batch_cost_two_queries_at_most_while_redis_is_away(
    make_settings: MakeSettings, database_url: str, read_model: ReadModel
) -> None:
    await read_model.tell(say.registered(["e"], "b"))
    async with replica(make_settings(database_url=database_url, redis_url=NO_REDIS)) as (without_redis, metrics):
        for _ in range(5):  # from here on it is not asked any more
            assert (await without_redis.get(STATUS)).status_code == 200
        before = queries(metrics, "read_batch")
        responses = await asyncio.gather(*(without_redis.get(STATUS) for _ in range(1000)))
        assert len({response.content for response in responses}) == 1
        assert queries(metrics, "read_batch") - before <= 2
