"""The supervisor: loops begin when the database is ready, a dead one is noticed, and they are drained in order."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NoReturn

import pytest
from structlog.testing import capture_logs

from embedded import EmbeddedPostgres
from result_aggregator_service.heartbeat import Heartbeat
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.storage.engine import Database, create_engine
from result_aggregator_service.supervisor import Dependencies, Loops, Supervisor
from tests.integration.service.wiring import container_of, settings_for, swap
from tests.servers import migrate
from tests.waiting import eventually


class StatedLoop:
    """A loop that does what a test says, and writes down what it did."""

    def __init__(self, name: str, diary: list[str]) -> None:
        self.heartbeat = Heartbeat()
        self.running = asyncio.Event()
        self.end: BaseException | None = None
        self.may_end = asyncio.Event()
        self.ends_when_asked = True
        self._name = name
        self._diary = diary

    async def run(self) -> None:
        self.running.set()
        self._diary.append(f"{self._name} runs")
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self._diary.append(f"{self._name} cancelled")
            raise
        if self.end is not None:
            raise self.end
        self._diary.append(f"{self._name} ended")

    def stop(self) -> None:
        self._diary.append(f"{self._name} asked")
        if self.ends_when_asked:
            self.may_end.set()

    def dies_of(self, error: BaseException | None) -> None:
        self.end = error
        self.may_end.set()


class Stand:
    """A started supervisor over two such loops."""

    def __init__(self) -> None:
        self.diary: list[str] = []
        self.first, self.second = StatedLoop("first", self.diary), StatedLoop("second", self.diary)
        self.metrics = Metrics()
        self.supervisor: Supervisor

    @asynccontextmanager
    async def started(
        self, database_url: str, *, shutdown_timeout_seconds: float = 5.0, database: Database | None = None
    ) -> AsyncIterator[Supervisor]:
        settings = settings_for(
            database_url,
            kafka_bootstrap_servers="127.0.0.1:9",
            redis_url="redis://127.0.0.1:9/0",
            shutdown_timeout_seconds=shutdown_timeout_seconds,
        )
        loops = Loops({"first": self.first, "second": self.second})
        swapped = [swap(loops, Loops), swap(self.metrics, Metrics)]
        if database is not None:
            swapped.append(swap(database, Database))
        async with container_of(settings, *swapped) as container:
            supervisor = await container.get(Supervisor)
            await supervisor.start()
            try:
                yield supervisor
            finally:
                await supervisor.stop()


@pytest.fixture
async def stand() -> Stand:
    return Stand()


@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), None, asyncio.CancelledError()], ids=["an error", "a return", "a cancellation"]
)
async def test_a_loop_that_ends_unasked_is_noticed_however_it_ends(
    error: BaseException | None, stand: Stand, database_url: str
) -> None:
    async with stand.started(database_url) as supervisor:
        await asyncio.wait_for(stand.first.running.wait(), 10)
        assert not supervisor.died.is_set()
        stand.first.dies_of(error)
        await asyncio.wait_for(supervisor.died.wait(), 5)
        health = supervisor.loops()
        assert not health["first"].ok
        assert health["second"].ok
        assert stand.metrics.registry.get_sample_value("ras_background_task_deaths_total", {"task": "first"}) == 1


async def test_a_gate_that_breaks_is_noticed_too_and_holds_nobody_for_ever(stand: Stand) -> None:
    class BrokenDatabase(Database):
        def snapshot(self) -> NoReturn:
            raise RuntimeError("broken")

    engine = create_engine(settings_for("postgresql://nobody@127.0.0.1:9/none"))
    async with stand.started(str(engine.url), database=BrokenDatabase(engine)) as supervisor:
        await asyncio.wait_for(supervisor.died.wait(), 5)


async def test_how_late_the_event_loop_is_is_measured_from_the_start_on(stand: Stand) -> None:
    def looks() -> float:
        (family,) = stand.metrics.event_loop_lag.collect()
        return next(each.value for each in family.samples if each.name == "ras_event_loop_lag_seconds_count")

    async with stand.started("postgresql://nobody@127.0.0.1:9/none"):
        await eventually(lambda: looks() > 1)


async def test_loops_are_drained_one_after_the_other_in_their_order(stand: Stand, database_url: str) -> None:
    async with stand.started(database_url) as supervisor:
        await asyncio.wait_for(stand.second.running.wait(), 10)
    assert stand.diary == ["first runs", "second runs", "first asked", "first ended", "second asked", "second ended"]
    assert not supervisor.died.is_set()


async def test_a_loop_that_does_not_end_is_cancelled_when_the_time_is_over(stand: Stand, database_url: str) -> None:
    stand.first.ends_when_asked = False
    async with stand.started(database_url, shutdown_timeout_seconds=0.2) as supervisor:
        await asyncio.wait_for(stand.second.running.wait(), 10)
    assert "first cancelled" in stand.diary
    assert stand.diary.index("first cancelled") < stand.diary.index("second asked")
    assert not supervisor.died.is_set()


async def test_no_loop_runs_before_the_database_is_migrated_and_all_run_once_it_is(
    stand: Stand, empty_database_url: str
) -> None:
    async with stand.started(empty_database_url) as supervisor:
        await eventually(lambda: stand.first.heartbeat.state == "waiting for the database")
        assert all(loop.ok for loop in supervisor.loops().values())
        assert stand.diary == []
        await asyncio.to_thread(migrate, empty_database_url)
        await asyncio.wait_for(stand.second.running.wait(), 15)


async def test_a_supervisor_that_still_waits_for_the_database_stops_at_once(stand: Stand) -> None:
    async with stand.started("postgresql://nobody@127.0.0.1:9/none", shutdown_timeout_seconds=60) as supervisor:
        await eventually(lambda: stand.first.heartbeat.state == "waiting for the database")
        async with asyncio.timeout(5):
            await supervisor.stop()
    assert "first runs" not in stand.diary
    assert not supervisor.died.is_set()


async def test_a_wedged_loop_is_not_making_progress_though_it_lives(stand: Stand, database_url: str) -> None:
    now = 0.0
    stand.first.heartbeat = Heartbeat(monotonic=lambda: now)
    async with stand.started(database_url) as supervisor:
        await asyncio.wait_for(stand.first.running.wait(), 10)
        now = 1000.0
        health = supervisor.loops()["first"]
        assert health.alive
        assert not health.making_progress


@pytest.mark.parametrize("migrated", [True, False], ids=["migrated", "empty"])
async def test_each_dependency_is_told_as_it_is(
    migrated: bool, redis_url: str, database_url: str, empty_database_url: str
) -> None:
    url = database_url if migrated else empty_database_url
    settings = settings_for(url, kafka_bootstrap_servers="127.0.0.1:9", redis_url=redis_url)
    async with container_of(settings) as container:
        states = await (await container.get(Dependencies)).states()
    assert {name: state.ok for name, state in states.items()} == {
        "postgres": True, "migrations": migrated, "kafka": False, "redis": True,
    }  # fmt: skip
    assert ("alembic upgrade head" in (states["migrations"].detail or "")) is not migrated
    assert "127.0.0.1" in (states["kafka"].detail or "")


async def test_a_server_that_hangs_keeps_nobody_waiting_for_an_answer_about_it_and_is_told_of_once(
    own_postgres: EmbeddedPostgres, redis_url: str
) -> None:
    await asyncio.to_thread(migrate, own_postgres.url)
    settings = settings_for(own_postgres.url, kafka_bootstrap_servers="127.0.0.1:9", redis_url=redis_url)
    async with container_of(settings) as container:
        dependencies = await container.get(Dependencies)
        with capture_logs() as lines:
            assert (await dependencies.states())["postgres"].ok
            own_postgres.pause()
            try:

                async def told() -> bool:
                    async with asyncio.timeout(3.0):  # to roll back takes longer
                        return not (await dependencies.states())["postgres"].ok

                await eventually(told)
                first = await dependencies.states()
                await eventually(lambda: _is_asked_again(dependencies, first))
            finally:
                own_postgres.resume()
            await eventually(lambda: _is_there(dependencies))
    changes = [(line["event"], line["dependency"]) for line in lines if line["event"].startswith("dependency_")]
    assert changes[0] == ("dependency_away", "kafka")
    assert [event for event, name in changes if name == "postgres"] == ["dependency_away", "dependency_back"]


async def _is_asked_again(dependencies: Dependencies, before: object) -> bool:
    return await dependencies.states() is not before


async def _is_there(dependencies: Dependencies) -> bool:
    return (await dependencies.states())["postgres"].ok
