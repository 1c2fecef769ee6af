"""The read model in PostgreSQL, driven poll by poll without a consumer, and read back as the model in memory has it."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import asyncpg
from sqlalchemy import select, text

from result_aggregator_service.contracts.enums import BatchStatus
from result_aggregator_service.domain.batch import BatchFacts
from result_aggregator_service.domain.event import Event
from result_aggregator_service.domain.fold import fold
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.projection.completion import Completion
from result_aggregator_service.publishing.event_publisher import EventPublisher
from result_aggregator_service.publishing.outbox_manager import OutboxManager
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.errors import is_trouble
from result_aggregator_service.storage.fact_rows import FactRows
from result_aggregator_service.storage.projection_repository import ProjectionRepository, Touched
from result_aggregator_service.storage.stored_facts import StoredBatch
from result_aggregator_service.storage.tables import announcements, batch_results, event_outbox
from tests.unit.domain.messages import EXPECTED, SERVICE

_EMPTIED = (
    "batch_results",
    "essay_results",
    "phase_outcomes",
    "pipeline_ends",
    "cj_assessments",
    "announcements",
    "event_outbox",
)
GRACE_SECONDS = 60.0


class Projection:
    """Stores and settles as the service does, one transaction a poll."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.repository = ProjectionRepository()
        metrics = Metrics()
        self.completion = Completion(
            self.repository,
            EventPublisher(OutboxManager(), metrics),
            metrics,
            expected_phases=EXPECTED,
            grace_seconds=GRACE_SECONDS,
            service_name=SERVICE,
        )

    async def poll(self, *events: Event) -> Touched:
        """Project some messages; returns what the transaction touched."""
        async with self.database.transaction() as session:
            touched = await self.repository.store(session, FactRows(fold(events)))
            await self.completion.settle(session, touched)
        return touched

    async def poll_until_done(self, *events: Event) -> int:
        """The same, again after each deadlock, as the consumer would; returns how often it was tried."""
        for attempt in range(1, 51):
            try:
                await self.poll(*events)
            except asyncpg.PostgresError as error:
                if not is_trouble(error):
                    raise
            else:
                return attempt
        raise AssertionError("one deadlock after the other")

    async def run_grace(self) -> None:
        """The grace of every batch that waits after a pipeline's end runs out."""
        async with self.database.transaction() as session:
            due = (
                await session.scalars(select(batch_results.c.batch_id).where(batch_results.c.grace_due.isnot(None)))
            ).all()
            touched = await self.repository.lock(session, due)
            await self.completion.settle(session, touched, grant_grace_to=set(due))

    async def empty(self) -> None:
        """Forget everything."""
        async with self.database.transaction() as session:
            for table in _EMPTIED:
                await session.execute(text(f"DELETE FROM {table}"))

    async def batches(self) -> dict[str, BatchFacts]:
        """All batches with their essays."""
        return {batch_id: stored.facts for batch_id, stored in (await self.all_stored()).items()}

    async def all_stored(self) -> dict[str, StoredBatch]:
        """All batches with their essays, and what was derived of them."""
        async with self.database.snapshot() as session:
            ids = (await session.scalars(select(batch_results.c.batch_id))).all()
            stored = await self.repository.load(session, ids)
            complete = await self.repository.load_essays(session, [batch.facts for batch in stored.values()])
        return {batch_id: replace(batch, facts=complete[batch_id]) for batch_id, batch in stored.items()}

    async def batch(self, batch_id: str = "b") -> BatchFacts:
        return (await self.batches())[batch_id]

    async def stored(self, batch_id: str = "b") -> StoredBatch:
        async with self.database.snapshot() as session:
            return (await self.repository.load(session, [batch_id]))[batch_id]

    async def statuses(self) -> dict[str, BatchStatus]:
        """What was derived of each batch when it last changed."""
        async with self.database.snapshot() as session:
            rows = await session.execute(select(batch_results.c.batch_id, batch_results.c.overall_status))
            return {batch_id: BatchStatus(status) for batch_id, status in rows}

    async def ledger(self) -> set[UUID]:
        async with self.database.snapshot() as session:
            return set((await session.scalars(select(announcements.c.event_id))).all())

    async def outbox(self) -> list[dict[str, Any]]:
        """The envelopes in the outbox, in order."""
        async with self.database.snapshot() as session:
            return list((await session.scalars(select(event_outbox.c.event_data).order_by(event_outbox.c.id))).all())


async def in_polls(projection: Projection, polls: Sequence[Sequence[Event]]) -> None:
    """Project some polls, one after the other."""
    for events in polls:
        await projection.poll(*events)
