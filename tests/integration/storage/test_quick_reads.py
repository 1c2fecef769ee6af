"""Reads past SQLAlchemy's execution: the same rows, one moment, read-only, and nothing left behind."""

import pytest
from asyncpg import ReadOnlySQLTransactionError
from sqlalchemy import text
from sqlalchemy.exc import MultipleResultsFound, NoResultFound

from result_aggregator_service.contracts.enums import BatchStatus
from result_aggregator_service.storage.batch_reader import BatchReader, Position
from result_aggregator_service.storage.engine import ReadSession
from result_aggregator_service.storage.projection_repository import ProjectionRepository
from result_aggregator_service.storage.quick_reads import quick_snapshot
from tests.integration.storage.projection import Projection
from tests.unit.domain import messages as say

READER = BatchReader(ProjectionRepository())
_NUMBERS = text("SELECT n FROM generate_series(1, :count) AS n")


async def everything(session: ReadSession) -> list[object]:
    """All that the API reads, in every form."""
    found: list[object] = [await READER.version(session, "b1"), await READER.version(session, "nowhere")]
    found += [await READER.batches(session, ["b1", "b2"]), await READER.summaries(session, ["b2", "b1"])]
    for statuses in (None, [BatchStatus.AWAITING_CONTENT_VALIDATION, BatchStatus.PROCESSING_PIPELINES]):
        for offset, after in ((0, None), (1, None), (9, None), (None, None), (None, Position(say.time(8), "b2"))):
            page = await READER.page_of(session, "teacher", limit=2, statuses=statuses, offset=offset, after=after)
            found.append((list(page.keys), page.total, page.more))
    return found


async def test_everything_is_read_as_through_a_session(projection: Projection) -> None:
    for number, name in enumerate(("b1", "b2", "b3")):
        await projection.poll(say.registered([f"{name}-e1", f"{name}-e2"], name, at=number))
    await projection.poll(say.spellcheck("b1-e1", "b1"), say.spellcheck("b2-e1", "b2", ok=False))
    async with projection.database.snapshot() as session, quick_snapshot(projection.database) as quick:
        assert await everything(quick) == await everything(session)


async def test_everything_is_of_one_moment(projection: Projection) -> None:
    await projection.poll(say.registered(["e1"], "b1"))
    async with quick_snapshot(projection.database) as session:
        before = await READER.version(session, "b1")
        await projection.poll(say.spellcheck("e1", "b1"))
        assert await READER.version(session, "b1") == before
    async with quick_snapshot(projection.database) as session:
        assert await READER.version(session, "b1") != before


async def test_nothing_can_be_written(projection: Projection) -> None:
    with pytest.raises(ReadOnlySQLTransactionError):
        async with quick_snapshot(projection.database) as session:
            await session.execute(text("DELETE FROM batch_results"))


async def test_what_is_not_one_value_is_not_taken_for_one(projection: Projection) -> None:
    async with quick_snapshot(projection.database) as session:
        assert list(await session.scalars(_NUMBERS, {"count": 3})) == [1, 2, 3]
        assert (await session.scalars(_NUMBERS, {"count": 1})).one() == 1
        assert (await session.scalars(_NUMBERS, {"count": 0})).one_or_none() is None
        with pytest.raises(NoResultFound):
            (await session.scalars(_NUMBERS, {"count": 0})).one()
        with pytest.raises(MultipleResultsFound):
            (await session.scalars(_NUMBERS, {"count": 2})).one_or_none()


async def test_a_connection_on_which_a_read_failed_is_not_used_again(projection: Projection) -> None:
    async def connection_used() -> int:
        async with quick_snapshot(projection.database) as session:
            return int((await session.scalars(text("SELECT pg_backend_pid()"))).one())

    used = await connection_used()
    assert await connection_used() == used
    with pytest.raises(LookupError):
        async with quick_snapshot(projection.database):
            raise LookupError
    assert await connection_used() != used
