"""Owns the consumer, the relay and the periodic jobs: starts them, notices a dead one, drains them in order.

Invariant: while the supervisor is started, each of them turns, or the process is on its way out.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import structlog
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from redis.asyncio import Redis
from redis.exceptions import RedisError

from result_aggregator_service.api.health import DependencyHealth, LoopHealth
from result_aggregator_service.heartbeat import Heartbeat
from result_aggregator_service.observability.logging import first_line
from result_aggregator_service.observability.loop_lag import LoopLag
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.resilience.backoff import backoff
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.errors import is_trouble
from result_aggregator_service.storage.migrations import missing_migrations

_log = structlog.get_logger(__name__)

_PROBE_SECONDS = 1.5
_PROBES_KEPT_SECONDS = 0.5
_SECONDS_TO_CANCEL = 1.0


class Loop(Protocol):
    """Something that runs until it is asked to stop."""

    heartbeat: Heartbeat

    async def run(self) -> None:
        """Run until stopped; to end before that, in whatever way, is to die."""

    def stop(self) -> None:
        """Ask `run` to finish what it is at and to end."""


@dataclass(frozen=True)
class Loops:
    """The loops of the service by name, in the order in which they are drained."""

    by_name: Mapping[str, Loop]


class Supervisor:
    """Runs the loops once the database is there and migrated."""

    def __init__(self, settings: Settings, loops: Loops, database: Database, metrics: Metrics) -> None:
        self._settings = settings
        self._loops = loops
        self._database = database
        self._metrics = metrics
        self._loop_lag = LoopLag(metrics)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._stopping = False
        self._migrated = asyncio.Event()
        self.died = asyncio.Event()
        for name in loops.by_name:
            metrics.loop_ok.labels(name).set_function(partial(self._is_ok, name))  # looked at whenever it is scraped

    async def start(self) -> None:
        """Start the loops; each begins to turn when the database is ready for it. Returns at once."""
        gate = asyncio.create_task(self._wait_for_database(), name="database gate")
        gate.add_done_callback(self._gate_ended)
        self._tasks["database gate"] = gate
        self.watch(self._loop_lag.run(), name="event loop lag")
        for name, loop in self._loops.by_name.items():
            task = asyncio.create_task(self._run(loop), name=name)
            task.add_done_callback(self._ended)
            self._tasks[name] = task

    def watch(self, work: Coroutine[Any, Any, None], *, name: str) -> None:
        """Run something that needs no draining until the service stops; its death is noticed like a loop's."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._ended)
        self._tasks[name] = task

    async def stop(self) -> None:
        """Drain the loops one after the other, all within `SHUTDOWN_TIMEOUT_SECONDS`; then cancel what is left."""
        self._stopping = True
        deadline = time.monotonic() + self._settings.shutdown_timeout_seconds
        self._tasks["database gate"].cancel()
        if not self._migrated.is_set():
            deadline = 0.0  # nothing has begun yet
        for name, loop in self._loops.by_name.items():
            loop.stop()
            # No more than half of what is left: one that hangs must not cost the next its time.
            await self._drain(name, max(deadline - time.monotonic(), 0.0) / 2)
        for name in self._tasks.keys() - self._loops.by_name.keys():
            self._tasks[name].cancel()
        # Even a task that is cancelled may wait for a server that hangs, to roll back.
        await asyncio.wait(self._tasks.values(), timeout=_SECONDS_TO_CANCEL)

    async def _drain(self, name: str, seconds: float) -> None:
        task = self._tasks[name]
        _, unfinished = await asyncio.wait({task}, timeout=seconds)
        if unfinished:
            if self._migrated.is_set():
                _log.warning("loop_not_drained", loop=name)
            task.cancel()
            await asyncio.wait({task}, timeout=_SECONDS_TO_CANCEL)
        else:
            _log.info("loop_drained", loop=name)

    async def _run(self, loop: Loop) -> None:
        while not self._migrated.is_set():
            loop.heartbeat.beat("waiting for the database")
            try:
                await asyncio.wait_for(self._migrated.wait(), 10)
            except TimeoutError:
                continue
        await loop.run()

    def _gate_ended(self, task: asyncio.Task[None]) -> None:
        if not self._migrated.is_set():
            self._ended(task)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if self._stopping:
            return
        name = task.get_name()
        # A cancellation that nobody here asked for (one that leaks from a client library) is a death like any other.
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._metrics.task_deaths.labels(name).inc()
        _log.critical("loop_died", loop=name, exc_info=error)
        self.died.set()

    async def _wait_for_database(self) -> None:
        waits = backoff(0.5, 5.0)
        while True:
            url = self._settings.postgres_url
            try:
                missing = await missing_migrations(self._database)
            except Exception as error:
                if not is_trouble(error):
                    raise
                missing = f"PostgreSQL at {url.host}:{url.port or 5432} cannot be used yet: {first_line(error)}"
            if missing is None:
                self._migrated.set()
                _log.info("database_ready", host=url.host, database=url.database)
                return
            wait = next(waits)
            _log.warning("waiting_for_database", reason=missing, retry_in_seconds=round(wait, 2))
            await asyncio.sleep(wait)

    def loops(self) -> Mapping[str, LoopHealth]:
        """What each loop is doing."""
        return {
            name: LoopHealth(
                alive=(task := self._tasks.get(name)) is not None and not task.done(),
                making_progress=not loop.heartbeat.is_wedged(),
                detail=loop.heartbeat.detail(),
            )
            for name, loop in self._loops.by_name.items()
        }

    def _is_ok(self, name: str) -> bool:
        return self.loops()[name].ok


class Dependencies:
    """Asks the servers that the service depends on how they are; many questions at once are one."""

    def __init__(self, settings: Settings, database: Database, redis: Redis, metrics: Metrics) -> None:
        self._settings = settings
        self._database = database
        self._redis = redis
        self._metrics = metrics
        self._admin: AIOKafkaAdminClient | None = None
        self._asked_at = float("-inf")
        self._answer: Mapping[str, DependencyHealth] = {}
        self._lock = asyncio.Lock()
        self._given_up: set[asyncio.Task[None]] = set()

    async def states(self) -> Mapping[str, DependencyHealth]:
        """The state of each, at most half a second old."""
        async with self._lock:
            if time.monotonic() - self._asked_at > _PROBES_KEPT_SECONDS:
                (postgres, migrations), kafka, redis = await asyncio.gather(
                    self._postgres(), self._probe(self._ask_kafka), self._probe(self._ask_redis)
                )
                answer = {"postgres": postgres, "migrations": migrations, "kafka": kafka, "redis": redis}
                self._asked_at = time.monotonic()
                for name, state in answer.items():
                    self._metrics.dependency_up.labels(name).set(state.ok)
                    was_ok = name not in self._answer or self._answer[name].ok
                    if was_ok and not state.ok:
                        _log.warning("dependency_away", dependency=name, detail=state.detail)
                    elif state.ok and not was_ok:
                        _log.info("dependency_back", dependency=name)
                self._answer = answer
            return self._answer

    async def close(self) -> None:
        """Close the connections that are only for asking."""
        await self._drop_admin()

    async def _postgres(self) -> tuple[DependencyHealth, DependencyHealth]:
        missing: list[str | None] = []

        async def ask() -> None:
            missing.append(await missing_migrations(self._database))

        postgres = await self._probe(ask)
        if not postgres.ok:
            return postgres, DependencyHealth(ok=False, detail="unknown while PostgreSQL is away")
        return postgres, DependencyHealth(ok=missing[0] is None, detail=missing[0] or "")

    async def _ask_redis(self) -> None:
        await self._redis.ping()

    async def _ask_kafka(self) -> None:
        try:
            if self._admin is None:
                admin = AIOKafkaAdminClient(**self._settings.kafka_client_options(), request_timeout_ms=1500)
                try:
                    await admin.start()
                except BaseException:
                    await admin.close()
                    raise
                self._admin = admin
            await self._admin.describe_cluster()
        except BaseException:
            await self._drop_admin()
            raise

    async def _drop_admin(self) -> None:
        admin, self._admin = self._admin, None
        if admin is not None:
            await admin.close()

    async def _probe(self, ask: Callable[[], Awaitable[None]]) -> DependencyHealth:
        task = asyncio.ensure_future(ask())
        try:
            await asyncio.wait({task}, timeout=_PROBE_SECONDS)
        finally:
            if not task.done():
                # Not awaited: even one that is cancelled may wait for a server that hangs, to roll back.
                task.cancel()
                self._given_up.add(task)
                task.add_done_callback(self._forget)
        if not task.done():
            return DependencyHealth(ok=False, detail=f"no answer within {_PROBE_SECONDS:g} s")
        error = task.exception()
        if error is None:
            return DependencyHealth(ok=True, detail="")
        if not isinstance(error, RedisError | KafkaError) and not is_trouble(error):
            raise error
        return DependencyHealth(ok=False, detail=first_line(error))

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._given_up.discard(task)
        if not task.cancelled():
            task.exception()  # looked at, so that nobody complains that it was not
