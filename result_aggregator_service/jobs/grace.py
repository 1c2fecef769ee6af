"""The grace of batches whose results stay away, by a clock that every replica shares and no restart loses.

The caught-up clock is a counter of seconds in the database. It runs, by the database's time, only from one tick to the
next and only if the whole group was caught up at both: so time in which results may just be waiting in Kafka does not
count, nor does time in which nobody ticked.
"""

import asyncio
import contextlib
import math
from datetime import datetime, timedelta

import structlog
from aiokafka.errors import KafkaError
from sqlalchemy import text

from result_aggregator_service.consumer.consumer import Consumer
from result_aggregator_service.consumer.group_lag import GroupLag
from result_aggregator_service.failpoints import Failpoint, failpoint
from result_aggregator_service.heartbeat import Heartbeat
from result_aggregator_service.jobs.housekeeping import Invalidator
from result_aggregator_service.observability.logging import first_line
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.projection.completion import Completion
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.errors import is_trouble
from result_aggregator_service.storage.pending_invalidations import PendingInvalidations
from result_aggregator_service.storage.projection_repository import ProjectionRepository

_log = structlog.get_logger(__name__)

_SECONDS_BETWEEN_TICKS = 1.0
#: A longer step than this means that nobody ticked for a while: it counts for no more.
_LONGEST_STEP_SECONDS = 3.0
_BATCHES_AT_ONCE = 100

_TICK = text(
    """
    UPDATE service_state SET
        caught_up_seconds = caught_up_seconds + CASE WHEN caught_up AND :caught_up
            THEN least(greatest(extract(epoch FROM clock_timestamp() - ticked_at)::float8, 0), :longest_step)
            ELSE 0 END,
        ticked_at = clock_timestamp(),
        caught_up = :caught_up
    """
)
_RUN_OUT = text(
    """
    SELECT b.batch_id FROM batch_results b, service_state s
    WHERE b.grace_due <= s.caught_up_seconds ORDER BY b.grace_due LIMIT :limit
    """
)
# Grace that would be over by the messages' own times. The clock of a database that no service has run on stands at 0.
_MAKE_DUE = text(
    """
    UPDATE batch_results b SET grace_due = s.caught_up_seconds FROM service_state s
    WHERE s.caught_up_seconds = 0 AND NOT s.caught_up
      AND b.grace_due IS NOT NULL AND b.horizon_at < :horizon
    RETURNING b.batch_id
    """
)


class GraceKeeper:
    """Ticks the caught-up clock and finishes the batches whose grace has run out."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        repository: ProjectionRepository,
        completion: Completion,
        pending: PendingInvalidations,
        invalidator: Invalidator,
        metrics: Metrics,
        consumer: Consumer,
    ) -> None:
        self._settings = settings
        self._database = database
        self._repository = repository
        self._completion = completion
        self._pending = pending
        self._invalidator = invalidator
        self._metrics = metrics
        self._consumer = consumer
        self._standing: str | None = "nothing has been asked yet"
        self._stopping = asyncio.Event()
        self.heartbeat = Heartbeat()

    def stop(self) -> None:
        """Ask `run` to end."""
        self._stopping.set()

    async def run(self) -> None:
        """Tick until stopped."""
        while not self._stopping.is_set():
            try:
                async with GroupLag(self._settings) as group_lag:
                    while not self._stopping.is_set():
                        standings = await group_lag.standings()
                        self._consumer.hear_of_group(standings)
                        self._metrics.consumer_group_lag.set(sum(standing.lag for standing in standings.values()))
                        await self._turn(max(standing.lag for standing in standings.values()))
                        await self._sleep()
            except (KafkaError, OSError, TimeoutError) as error:
                self._consumer.hear_of_group({})
                self._metrics.consumer_group_lag.set(math.nan)
                self._note(f"the group's lag is not known: {str(error) or type(error).__name__}")
            self.heartbeat.waits_for("Kafka")
            await self._sleep()

    def _note(self, standing: str | None) -> None:
        """Tell, when it changes, why the caught-up clock stands still; None: it runs."""
        self._metrics.group_caught_up.set(standing is None)
        if (standing is None) != (self._standing is None):
            if standing is None:
                _log.info("caught_up_clock_runs")
            else:
                _log.warning("caught_up_clock_stands", reason=standing)
        self._standing = standing

    async def _turn(self, lag: int) -> None:
        self.heartbeat.beat("ticking")
        behind = lag > self._settings.kafka_max_poll_records
        self._note(f"a partition lags by {lag} messages" if behind else None)
        try:
            await self.tick(caught_up=not behind)
            await self._finish_all()
        except Exception as error:
            if not is_trouble(error):
                raise
            self.heartbeat.waits_for("PostgreSQL")
            _log.warning("grace_waits", error=first_line(error))

    async def tick(self, *, caught_up: bool) -> None:
        """Move the caught-up clock on, if the group is caught up now and was at the last tick."""
        async with self._database.transaction() as session:
            await session.execute(_TICK, {"caught_up": caught_up, "longest_step": _LONGEST_STEP_SECONDS})

    async def _finish_all(self) -> None:
        """Finish all batches whose grace has run out, and make readers see it."""
        while finished := await self.finish_some():
            # The row that each of them left in the database would be seen to by the housekeeper, but only later.
            await self._invalidator.make_pending()
            if finished < _BATCHES_AT_ONCE:
                break
            self.heartbeat.beat("finishing batches")

    async def finish_some(self) -> int:
        """Finish some batches whose grace has run out; how many it had found."""
        async with self._database.transaction() as session:
            due = set(await session.scalars(_RUN_OUT, {"limit": _BATCHES_AT_ONCE}))
            if not due:
                return 0
            touched = await self._repository.lock(session, due)
            # Looked at again under their locks: a result may have come in while they were being waited for.
            now = await self._repository.caught_up_seconds(session)
            still_due = {
                batch_id
                for batch_id, batch in (await self._repository.load(session, touched.batch_ids)).items()
                if batch.judgement.grace_due is not None and batch.judgement.grace_due <= now
            }
            await self._completion.settle(session, touched, grant_grace_to=still_due)
            await self._pending.add(session, touched.batch_ids, touched.user_ids)
            failpoint(Failpoint.GRACE_COMMIT_BEFORE)
        failpoint(Failpoint.GRACE_COMMIT_AFTER)
        _log.info("grace_ran_out", batches=len(still_due))
        return len(due)

    async def finish_overdue(self, now: datetime) -> int:
        """In a database that is rebuilt, finish the batches whose grace was over by then; return how many.

        Grace is no message, so a replay does not bring it back; all messages up to that time have to be folded. On a
        database that a service has run on this does nothing: there the clock decides.
        """
        horizon = now - timedelta(seconds=self._settings.results_grace_seconds)
        async with self._database.transaction() as session:
            made_due = await session.execute(_MAKE_DUE, {"horizon": horizon})
        await self._finish_all()
        return len(made_due)

    async def _sleep(self) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), _SECONDS_BETWEEN_TICKS)
