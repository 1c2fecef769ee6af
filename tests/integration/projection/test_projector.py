"""The unit of work on a real database: all of a poll or nothing of it, once, whoever delivers it how often."""

import asyncio
import json
from collections.abc import Sequence
from uuid import UUID

import asyncpg
import pytest
from dishka import AsyncContainer
from redis.asyncio import Redis
from sqlalchemy import text

from result_aggregator_service.cache.idempotency import IdempotencyMarks
from result_aggregator_service.consumer.poll_handler import PollHandler
from result_aggregator_service.domain.announcements import Announcement
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.publishing.outbox_manager import OutboxManager
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.session import WriteSession
from tests.integration.projection.projection import Lying, ReadModel, poll_of
from tests.integration.service.wiring import container_of, rows, swap, value
from tests.samples import CONSUMED_NAMES, consumed, consumed_bytes
from tests.unit.domain import messages as say
from tests.unit.domain.messages import CRITICAL, sample

RICH_PIPELINE = (
    say.registered(["e1", "e2"]),
    say.slot("e1"),
    say.slot("e2"),
    say.rich_spellcheck("e1"),
    say.rich_spellcheck("e2"),
    say.outcome("spellcheck", ["e1", "e2"], at=100),
    say.assessment({"e1": (1, 0.5), "e2": (2, 0.25)}, anchors=["anchor"], at=110),
    say.outcome("cj_assessment", ["e1", "e2"], at=120),
)
TABLES = (
    "batch_results",
    "essay_results",
    "phase_outcomes",
    "pipeline_ends",
    "cj_assessments",
    "announcements",
    "event_outbox",
    "processed_events",
    "quarantined_messages",
)


def lying_samples() -> list[Lying]:
    return [
        Lying(consumed(name)["event_type"], consumed_bytes(name), offset) for offset, name in enumerate(CONSUMED_NAMES)
    ]


async def test_one_poll_of_all_samples_is_one_transaction(read_model: ReadModel) -> None:
    bad = Lying("huleedu.essay.nlp.completed.v1", b"{", 1, key=b"k")
    projected = await read_model.poll(*lying_samples(), bad)
    assert len(projected.folded) == len(CONSUMED_NAMES)
    written = [
        await rows(read_model.database, f"SELECT DISTINCT xmin::text AS writer FROM {table}") for table in TABLES
    ]
    assert len({row["writer"] for table in written for row in table}) == 1
    assert all(written)
    registration = consumed("batch_essays_registered")["data"]
    assert registration["entity_id"] in projected.touched.batch_ids
    assert registration["user_id"] in projected.touched.user_ids


class StoppingOutbox(OutboxManager):
    """The last to write in a transaction; the connection breaks under it."""

    def __init__(self) -> None:
        self.breaks = True

    async def enqueue(self, session: WriteSession, announcements: Sequence[Announcement]) -> None:
        await super().enqueue(session, announcements)
        if self.breaks:
            await session.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))


async def test_nothing_is_kept_of_a_poll_whose_transaction_breaks_at_its_end(settings: Settings) -> None:
    outbox = StoppingOutbox()
    async with container_of(settings, swap(outbox, OutboxManager)) as container:
        read_model = await ReadModel.of(container)
        bad = Lying("huleedu.essay.nlp.completed.v1", b"{", 1)
        with pytest.raises(Exception, match=r"terminat|closed"):
            await read_model.poll(*RICH_PIPELINE, bad)
        assert await read_model.counts(*TABLES) == dict.fromkeys(TABLES, 0)
        assert await (await container.get(Redis)).keys("ras:seen:*") == []
        outbox.breaks = False
        assert len((await read_model.poll(*RICH_PIPELINE, bad)).folded) == len(RICH_PIPELINE)
        assert await read_model.status() == "completed_successfully"
        assert await read_model.counts("event_outbox", "quarantined_messages") == {
            "event_outbox": 4,
            "quarantined_messages": 1,
        }


async def test_nothing_is_kept_and_nothing_is_marked_of_a_poll_whose_commit_fails(
    container: AsyncContainer, read_model: ReadModel
) -> None:
    async with read_model.database.transaction() as session:
        await session.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS "
                "$$ BEGIN RAISE EXCEPTION 'refused at commit'; END $$"
            )
        )
        await session.execute(
            text(
                "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON processed_events DEFERRABLE INITIALLY DEFERRED "
                "FOR EACH ROW EXECUTE FUNCTION refuse()"
            )
        )
    with pytest.raises(asyncpg.PostgresError, match="refused at commit"):
        await read_model.poll(*RICH_PIPELINE)
    assert await (await container.get(Redis)).keys("ras:seen:*") == []
    async with read_model.database.transaction() as session:
        await session.execute(text("DROP TRIGGER refuse ON processed_events"))
    assert len((await read_model.poll(*RICH_PIPELINE)).folded) == len(RICH_PIPELINE)
    assert len(await read_model.announced(None)) == 4


@pytest.mark.parametrize("marks", ["kept", "lost"])
async def test_what_comes_again_is_told_apart_and_still_names_what_readers_see_of_it(
    marks: str, container: AsyncContainer, read_model: ReadModel
) -> None:
    await read_model.poll(*RICH_PIPELINE)
    before, outbox = await read_model.state(), await read_model.announced(None)
    redis = await container.get(Redis)
    assert len(await redis.keys("ras:seen:*")) == len(RICH_PIPELINE)
    if marks == "lost":
        await redis.flushall()
    again = await read_model.poll(*RICH_PIPELINE[3:5])
    assert [event.clock.event_id for event in again.duplicates] == [e.clock.event_id for e in RICH_PIPELINE[3:5]]
    assert again.folded == []
    assert (again.touched.batch_ids, again.touched.user_ids) == ({"b"}, {"teacher"})
    assert await read_model.state() == before
    assert await read_model.announced(None) == outbox


class MarksThatTakeTheirTime:
    """Marks that are made when they may be."""

    def __init__(self) -> None:
        self.may_be_made = asyncio.Event()
        self.made = 0

    async def seen(self, _database_id: str, _event_ids: Sequence[UUID]) -> set[UUID]:
        return set()

    async def mark(self, _database_id: str, event_ids: Sequence[UUID]) -> None:
        await self.may_be_made.wait()
        self.made += len(event_ids)


async def test_marks_that_are_being_made_are_waited_for_before_anything_is_closed(settings: Settings) -> None:
    marks = MarksThatTakeTheirTime()
    async with container_of(settings, swap(marks, IdempotencyMarks)) as container:
        handler = await container.get(PollHandler)
        await handler.handle_poll(poll_of(say.registered()), asyncio.sleep)
        assert marks.made == 0
        # Longer than it takes to close what does not wait.
        asyncio.get_running_loop().call_later(0.5, marks.may_be_made.set)
    assert marks.made == 1


async def test_a_message_twice_in_one_poll_is_one_message(read_model: ReadModel) -> None:
    projected = await read_model.poll(*RICH_PIPELINE, *RICH_PIPELINE)
    assert (len(projected.folded), len(projected.duplicates)) == (len(RICH_PIPELINE), len(RICH_PIPELINE))
    assert len(await read_model.announced(None)) == 4
    assert projected.results == {"spellcheck": 2, "cj_assessment": 2}


async def test_marks_of_another_database_do_not_count(container: AsyncContainer, read_model: ReadModel) -> None:
    """A database that is new, while Redis is not, has seen nothing."""
    await read_model.poll(*RICH_PIPELINE)
    await read_model.clear()
    assert len((await read_model.poll(*RICH_PIPELINE)).folded) == len(RICH_PIPELINE)
    assert await read_model.status() == "completed_successfully"


async def test_a_late_result_announces_nothing_again(read_model: ReadModel) -> None:
    await read_model.poll(*RICH_PIPELINE)
    announced = await read_model.announced(None)
    await read_model.poll(say.spellcheck("e1", corrections=99, at=500), say.nlp("e1", "b", at=501))
    assert await read_model.announced(None) == announced


async def test_after_the_pipelines_end_not_even_a_late_failure_announces_anything(read_model: ReadModel) -> None:
    await read_model.poll(*RICH_PIPELINE, say.end(at=300))
    announced = await read_model.announced(None)
    await read_model.poll(say.spellcheck("e1", ok=False, error="LATE", at=500))
    assert await read_model.status() == "completed_successfully"  # the pipeline's end has said so
    assert await read_model.announced(None) == announced


async def test_a_second_pipeline_over_the_batch_announces_again(read_model: ReadModel) -> None:
    await read_model.poll(*RICH_PIPELINE, say.end(at=300))
    [first] = await read_model.announced()
    await read_model.poll(say.spellcheck("e1", at=400), say.spellcheck("e2", at=401))
    await read_model.poll(say.outcome("spellcheck", ["e1", "e2"], at=410))
    first_again, second = await read_model.announced()
    assert first_again == first
    assert second["event_id"] != first["event_id"]
    assert len(await read_model.ledger()) == 3  # two results, one assessment


async def test_results_wait_for_the_registration_and_are_then_announced(read_model: ReadModel) -> None:
    projected = await read_model.poll(*RICH_PIPELINE[1:])
    assert await read_model.announced(None) == []
    assert projected.touched.user_ids == set()
    assert await read_model.status() == "completed_successfully"
    projected = await read_model.poll(RICH_PIPELINE[0])
    assert projected.touched.user_ids == {"teacher"}
    [results] = await read_model.announced()
    assert results["data"]["user_id"] == "teacher"
    assert len(await read_model.announced(None)) == 4


@pytest.mark.parametrize("order", ["older first", "rich first", "at once"])
async def test_a_job_is_announced_by_the_first_of_its_two_forms_only(order: str, read_model: ReadModel) -> None:
    older = say.rankings({"e1": (1, 0.5), "anchor": (2, 0.1)}, at=80)
    rich = say.assessment({"e1": (1, 0.5)}, anchors=["anchor"], at=81)
    await read_model.poll(say.registered(["e1"]))
    if order == "at once":
        await read_model.poll(older, rich)
    else:
        for event in (older, rich) if order == "older first" else (rich, older):
            await read_model.poll(event)
    [announced] = await read_model.assessments()
    [ranked] = announced["data"]["rankings_summary"]
    assert (ranked["essay_id"], ranked["letter_grade"]) == ("e1", "B" if order == "rich first" else None)
    assert len(await read_model.announced(None)) == 2


async def test_a_job_told_of_twice_in_one_form_is_announced_by_the_one_that_ranks_a_student(
    read_model: ReadModel,
) -> None:
    await read_model.poll(say.registered(["e1"]), say.rankings({"anchor": (1, 0.5)}, at=80))
    assert await read_model.assessments() == []
    await read_model.poll(say.rankings({"e1": (1, 0.5)}, at=79))
    [announced] = await read_model.assessments()
    assert [ranked["essay_id"] for ranked in announced["data"]["rankings_summary"]] == ["e1"]


async def test_a_batch_whose_last_missing_essay_moves_away_is_finished_and_announced(read_model: ReadModel) -> None:
    await read_model.poll(
        say.registered(["e1"], "b1", requested=["spellcheck"]), say.outcome("spellcheck", ["e1"], batch="b1", at=100)
    )
    assert await read_model.status("b1") == "processing_pipelines"
    await read_model.poll(say.slot("e1", "b2", at=200))
    assert await read_model.status("b1") == "completed_successfully"
    await read_model.poll(say.spellcheck("e1", "b2", at=50))
    assert await read_model.status("b1") == "completed_successfully"
    assert len(await read_model.announced()) == 1


async def test_a_critical_phase_finishes_the_batch_at_once(read_model: ReadModel) -> None:
    await read_model.poll(say.registered(), say.outcome("spellcheck", failed=["e1", "e2"], status=CRITICAL))
    [results] = await read_model.announced()
    assert results["data"]["overall_status"] == "failed_critically"


async def test_the_samples_of_a_critical_phase_announce_it(read_model: ReadModel) -> None:
    failed = sample("els_batch_phase_outcome.failed_critically")
    batch_id = json.loads(consumed_bytes("els_batch_phase_outcome.failed_critically"))["data"]["batch_id"]
    await read_model.poll(failed, say.registered(["x"], batch_id))
    assert [message["data"]["batch_id"] for message in await read_model.announced()] == [batch_id]


async def test_two_replicas_that_fold_the_two_halves_of_a_batch_at_once_announce_it_once(settings: Settings) -> None:
    async with container_of(settings) as one, container_of(settings) as two:
        models = [await ReadModel.of(one), await ReadModel.of(two)]
        for turn in range(8):
            history = [
                say.registered([f"{turn}-{e}" for e in range(6)], f"b{turn}"),
                *(say.spellcheck(f"{turn}-{e}", f"b{turn}") for e in range(6)),
                say.outcome("spellcheck", [f"{turn}-{e}" for e in range(6)], batch=f"b{turn}", at=100),
                say.rankings({f"{turn}-{e}": (e + 1, 0.5) for e in range(6)}, f"b{turn}", at=110),
                say.outcome("cj_assessment", [f"{turn}-{e}" for e in range(6)], batch=f"b{turn}", at=120),
            ]
            await asyncio.gather(models[0].poll(*history[::2]), models[1].poll(*history[1::2]))
        batches = [message["data"]["batch_id"] for message in await models[0].announced()]
        assert sorted(batches) == [f"b{turn}" for turn in range(8)]
        assert len(await models[0].assessments()) == 8


async def test_results_that_name_no_batch_finish_theirs_though_its_outcomes_are_folded_at_that_moment(
    settings: Settings,
) -> None:
    async with container_of(settings) as one, container_of(settings) as two:
        models = [await ReadModel.of(one), await ReadModel.of(two)]
        for turn in range(12):
            batch, essays = f"b{turn}", [f"{turn}-{e}" for e in range(4)]
            await models[0].poll(say.registered(essays, batch, requested=["spellcheck"]))
            await asyncio.gather(
                models[0].poll(*(say.spellcheck(essay, None) for essay in essays)),
                models[1].poll(say.outcome("spellcheck", essays, batch=batch)),
            )
            assert await models[0].status(batch) == "completed_successfully"
        assert len(await models[0].announced()) == 12


class MarksOfAnOldDatabase:
    """Says of every message that it was seen."""

    async def seen(self, database_id: str, event_ids: Sequence[UUID]) -> set[UUID]:
        return set(event_ids)

    async def mark(self, database_id: str, event_ids: Sequence[UUID]) -> None:
        """It knows them anyway."""


async def test_a_marked_message_is_not_looked_up_and_not_folded(container: AsyncContainer) -> None:
    from result_aggregator_service.projection.completion import Completion
    from result_aggregator_service.projection.projector import Projector
    from result_aggregator_service.storage.inbox import Inbox
    from result_aggregator_service.storage.projection_repository import ProjectionRepository
    from result_aggregator_service.storage.quarantine import Quarantine

    projector = Projector(
        await container.get(Database),
        await container.get(Inbox),
        await container.get(ProjectionRepository),
        await container.get(Completion),
        await container.get(Quarantine),
        MarksOfAnOldDatabase(),
    )
    first, second = [await projector.project(poll_of(say.slot(essay))) for essay in ("e1", "e2")]
    assert (len(first.folded), len(first.duplicates)) == (1, 0)  # before, it knows no database to ask for the marks of
    assert (len(second.folded), len(second.duplicates)) == (0, 1)
    assert await value(await container.get(Database), "SELECT count(*) FROM processed_events") == 1


async def test_of_a_poll_made_ready_ahead_what_comes_twice_is_folded_once(read_model: ReadModel) -> None:
    first, again = say.slot("e1"), say.slot("e2")
    found = await read_model.polls_ahead([first, again], [again, say.slot("e3"), again], [first, say.slot("e4")])
    assert [(len(each.folded), len(each.duplicates)) for each in found] == [(2, 0), (1, 2), (1, 1)]
    assert await read_model.counts("essay_results", "processed_events") == {"essay_results": 4, "processed_events": 4}


async def test_what_is_taken_for_a_duplicate_of_the_poll_before_is_folded_if_that_never_was(
    read_model: ReadModel,
) -> None:
    poll = [say.slot("e1"), say.slot("e2")]
    await read_model.projector.prepare(poll_of(*poll))  # and then it is given up
    (projected,) = await read_model.polls_ahead([*poll, say.slot("e3")])
    assert (len(projected.folded), len(projected.duplicates)) == (3, 0)
    assert (await read_model.counts("essay_results"))["essay_results"] == 3


async def test_what_another_replica_folds_after_it_was_made_ready_is_not_folded_again(read_model: ReadModel) -> None:
    poll = [say.spellcheck("e1", corrections=1, at=50), say.spellcheck("e2", at=51)]
    prepared = await read_model.projector.prepare(poll_of(*poll))
    await read_model.poll(poll[0])
    projected = await read_model.projector.project(prepared)
    assert (projected.folded, projected.duplicates) == ([poll[1]], [poll[0]])
    assert "b" in projected.touched.batch_ids


async def test_what_is_marked_is_neither_made_ready_nor_folded(read_model: ReadModel) -> None:
    known = say.slot("e1")
    await read_model.poll(known)
    await read_model.poll(say.slot("e2"))
    (projected,) = await read_model.polls_ahead([known, say.slot("e3")])
    assert (len(projected.folded), projected.duplicates) == (1, [known])
    # Marks are only believed of the database that they speak of.
    await read_model.clear()
    prepared = await read_model.projector.prepare(poll_of(known))
    projected = await read_model.projector.project(prepared)
    assert (projected.folded, projected.duplicates) == ([known], [])


async def test_a_bad_message_that_comes_again_is_in_quarantine_once(read_model: ReadModel) -> None:
    bad = Lying("huleedu.essay.nlp.completed.v1", b"{\x00", 7, headers=[("h", None)])
    await read_model.poll(bad, say.slot("e1"))
    await read_model.poll(say.slot("e2"), bad)
    assert await read_model.counts("quarantined_messages", "essay_results") == {
        "quarantined_messages": 1,
        "essay_results": 2,
    }


async def test_batches_that_become_finished_are_counted_once(container: AsyncContainer, read_model: ReadModel) -> None:
    for event in (*RICH_PIPELINE, *RICH_PIPELINE, say.end(at=300)):
        await read_model.poll(event)
    registry = (await container.get(Metrics)).registry
    assert registry.get_sample_value("ras_batches_aggregated_total") == 1
    assert registry.get_sample_value("ras_notification_projections_total", {"result": "projected"}) == 2
