"""Announces once: the ledger remembers every identity for good, whatever is redelivered, replayed or cleaned up.

Invariant: an announcement is in the ledger if and only if its rows entered the outbox, in the same transaction; or a
silent replay was told that it has been announced.
"""

from collections.abc import Collection, Sequence
from uuid import UUID

from sqlalchemy import text

from result_aggregator_service.domain.announcements import Announcement
from result_aggregator_service.domain.notification_projector import teacher_notification
from result_aggregator_service.failpoints import Failpoint, failpoint
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.publishing.outbox_manager import OutboxManager
from result_aggregator_service.storage.session import WriteSession
from result_aggregator_service.storage.tables import announcements as ledger
from result_aggregator_service.storage.upserts import recordset, rows_parameter
from result_aggregator_service.turns import InSlices

_COLUMNS = ("event_id", "topic", "batch_id")
_ENTER = text(
    f"INSERT INTO announcements ({', '.join(_COLUMNS)}) SELECT * FROM {recordset(ledger, _COLUMNS)} "
    "ORDER BY event_id ON CONFLICT DO NOTHING RETURNING event_id"
)
_KNOWN = text("SELECT event_id FROM announcements WHERE event_id = ANY(:event_ids)")


class EventPublisher:
    """Puts announcements, and the notifications projected from them, into the outbox."""

    def __init__(self, outbox: OutboxManager, metrics: Metrics) -> None:
        self._outbox = outbox
        self._metrics = metrics

    async def known(self, session: WriteSession, event_ids: Collection[UUID]) -> set[UUID]:
        """Those of the identities that have been announced."""
        if not event_ids:
            return set()
        return set(await session.scalars(_KNOWN, {"event_ids": sorted(event_ids)}))

    async def announce(self, session: WriteSession, announcements: Sequence[tuple[Announcement, str | None]]) -> None:
        """Announce what has not been announced yet, each with the class of its batch, and tell the teacher of it."""
        if not announcements:
            return
        rows = [{"event_id": a.event_id, "topic": a.topic, "batch_id": a.batch_id} for a, _ in announcements]
        fresh = set(await session.scalars(_ENTER, rows_parameter(rows)))
        failpoint(Failpoint.STATEMENTS_LEDGER_AFTER)
        outgoing: list[Announcement] = []
        async for announcement, class_id in InSlices(announcements):
            if announcement.event_id in fresh:
                outgoing += [announcement, teacher_notification(announcement, class_id)]
        if outgoing:
            await self._outbox.enqueue(session, outgoing)
            failpoint(Failpoint.STATEMENTS_OUTBOX_AFTER)
        self._metrics.notification_projections.labels("projected").inc(len(fresh))
        self._metrics.notification_projections.labels("already_announced").inc(len(rows) - len(fresh))
