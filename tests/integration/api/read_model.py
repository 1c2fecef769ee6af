"""Fills the read model for a test: folds messages, judges the batches, invalidates the cache, as the consumer does."""

from collections.abc import Sequence

from result_aggregator_service.cache.cache_manager import CacheManager
from result_aggregator_service.contracts.enums import Phase
from result_aggregator_service.domain.batch import overall_status
from result_aggregator_service.domain.event import Event
from result_aggregator_service.domain.fold import fold
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.fact_rows import FactRows
from result_aggregator_service.storage.projection_repository import ProjectionRepository, Touched
from result_aggregator_service.storage.stored_facts import Judgement
from result_aggregator_service.storage.tallies import tallies_of


class ReadModel:
    """Writes what messages say, and makes it known to readers in two steps that a test can take apart."""

    def __init__(
        self,
        database: Database,
        repository: ProjectionRepository,
        cache: CacheManager,
        expected_phases: Sequence[Phase],
    ) -> None:
        self._database = database
        self._repository = repository
        self._cache = cache
        self._expected_phases = expected_phases

    async def tell(self, *events: Event) -> None:
        """Write, commit, invalidate."""
        await self.invalidate(await self.write(*events))

    async def write(self, *events: Event) -> Touched:
        """Write and commit only."""
        async with self._database.transaction() as session:
            touched = await self._repository.store(session, FactRows(fold(events)))
            stored = await self._repository.load(session, touched.batch_ids)
            complete = await self._repository.load_essays(session, [batch.facts for batch in stored.values()])
            for batch in complete.values():
                if batch.registration is not None:
                    touched.user_ids.add(batch.registration.user_id)
            judgements = [
                Judgement(batch.batch_id, overall_status(batch, self._expected_phases), batch.horizon(), None, None)
                for batch in complete.values()
            ]
            await self._repository.save(session, judgements, await tallies_of(session, touched.batch_ids))
        return touched

    async def invalidate(self, touched: Touched) -> None:
        """Make the cache forget."""
        assert await self._cache.invalidate(touched.batch_ids, touched.user_ids)
