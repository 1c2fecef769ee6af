"""Housekeeping: invalidations that Redis still has to take, rows past their retention, gauges of what waits."""

import asyncio
import contextlib

import structlog

from result_aggregator_service.cache.cache_manager import CacheManager
from result_aggregator_service.heartbeat import Heartbeat
from result_aggregator_service.observability.logging import first_line
from result_aggregator_service.observability.metrics import BAD_IN_THESE_WAYS, Metrics
from result_aggregator_service.publishing.outbox_manager import OutboxManager
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.errors import is_trouble
from result_aggregator_service.storage.inbox import Inbox
from result_aggregator_service.storage.pending_invalidations import PendingInvalidations
from result_aggregator_service.storage.projection_repository import Touched
from result_aggregator_service.storage.quarantine import Quarantine

_log = structlog.get_logger(__name__)

_SECONDS_BETWEEN_TURNS = 1.0
_TURNS_BETWEEN_CLEANUPS = 60
_ROWS_AT_ONCE = 1000
_BATCHES_IN_A_TURN = 10


class Invalidator:
    """Makes readers see a change: in Redis at once, or by a row that is kept until Redis has taken it."""

    def __init__(self, cache: CacheManager, database: Database, pending: PendingInvalidations) -> None:
        self._cache = cache
        self._database = database
        self._pending = pending

    async def invalidate(self, touched: Touched) -> None:
        """Invalidate what a committed transaction touched."""
        if await self._cache.invalidate(touched.batch_ids, touched.user_ids):
            return
        async with self._database.transaction() as session:
            await self._pending.add(session, touched.batch_ids, touched.user_ids)

    async def make_pending(self) -> bool:
        """Make some of the invalidations that wait; whether there may be more and Redis takes them."""
        async with self._database.snapshot() as session:
            row_ids, batch_ids, user_ids = await self._pending.oldest(session, _ROWS_AT_ONCE)
        if not row_ids or not await self._cache.invalidate(batch_ids, user_ids):
            return False
        async with self._database.transaction() as session:
            await self._pending.remove(session, row_ids)
        return len(row_ids) == _ROWS_AT_ONCE


class Housekeeper:
    """Does what has to be done now and then."""

    def __init__(
        self,
        settings: Settings,
        database: Database,
        invalidator: Invalidator,
        pending: PendingInvalidations,
        outbox: OutboxManager,
        inbox: Inbox,
        quarantine: Quarantine,
        metrics: Metrics,
    ) -> None:
        self._settings = settings
        self._database = database
        self._invalidator = invalidator
        self._pending = pending
        self._outbox = outbox
        self._inbox = inbox
        self._quarantine = quarantine
        self._metrics = metrics
        self._stopping = asyncio.Event()
        self.heartbeat = Heartbeat()

    def stop(self) -> None:
        """Ask `run` to end."""
        self._stopping.set()

    async def run(self) -> None:
        """Keep house until stopped."""
        turns_until_cleanup = 0
        while not self._stopping.is_set():
            self.heartbeat.beat("keeping house")
            try:
                while await self._invalidator.make_pending():
                    self.heartbeat.beat("invalidating")
                await self.measure()
                if turns_until_cleanup <= 0 and not await self.clean_up():
                    turns_until_cleanup = _TURNS_BETWEEN_CLEANUPS
            except Exception as error:
                if not is_trouble(error):
                    raise
                self.heartbeat.waits_for("PostgreSQL")
                _log.warning("housekeeping_waits", error=first_line(error))
            turns_until_cleanup -= 1
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _SECONDS_BETWEEN_TURNS)

    async def measure(self) -> None:
        """Set the gauges of what waits in the database."""
        async with self._database.snapshot() as session:
            outbox = await self._outbox.statistics(session)
            self._metrics.pending_invalidations.set(await self._pending.count(session))
            quarantined = await self._quarantine.sizes(session)
        self._metrics.quarantine_size.set(sum(quarantined.values()))
        for error_type in BAD_IN_THESE_WAYS:
            self._metrics.quarantine_messages.labels(error_type).set(quarantined.get(error_type, 0))
        self._metrics.outbox_depth.set(outbox.depth)
        self._metrics.outbox_parked.set(outbox.parked)
        self._metrics.outbox_oldest_age.set(outbox.oldest_seconds)

    async def clean_up(self) -> bool:
        """Delete some of what is past its retention, in small batches; whether there may be more.

        Not all of it, be it a day's: invalidations and gauges, which wait meanwhile, are due every second.
        """
        outbox_seconds = self._settings.outbox_retention_hours * 3600
        inbox_seconds = self._settings.inbox_retention_hours * 3600
        published = entries = 0
        more = True
        for _ in range(_BATCHES_IN_A_TURN):
            self.heartbeat.beat("cleaning up")
            async with self._database.transaction() as session:
                rows = await self._outbox.delete_published(
                    session, older_than_seconds=outbox_seconds, rows=_ROWS_AT_ONCE
                )
                old = await self._inbox.forget(session, older_than_seconds=inbox_seconds, rows=_ROWS_AT_ONCE)
            published, entries = published + rows, entries + old
            more = rows == _ROWS_AT_ONCE or old == _ROWS_AT_ONCE
            if not more or self._stopping.is_set():
                break
        if published or entries:
            _log.info("cleaned_up", outbox_rows=published, inbox_entries=entries)
        return more
