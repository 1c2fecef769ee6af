"""The projection repository keeps what it is given, tells what it touched, and reads the same back."""

from datetime import UTC, datetime
from itertools import product
from operator import itemgetter
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from result_aggregator_service.contracts.enums import Phase
from result_aggregator_service.contracts.topics import ESSAY_NLP_COMPLETED
from result_aggregator_service.domain.event import Event
from result_aggregator_service.domain.fold import fold
from result_aggregator_service.domain.tally import BatchTally
from result_aggregator_service.storage.fact_rows import FactRows
from result_aggregator_service.storage.projection_repository import Touched
from tests.hypothesis_profiles import examples
from tests.integration.storage.projection import GRACE_SECONDS, Projection
from tests.integration.storage.projection import in_polls as project
from tests.samples import CONSUMED_NAMES, published
from tests.unit.domain import messages as say
from tests.unit.domain.histories import in_polls, orderly, soups
from tests.unit.domain.messages import AWAITING, CANCELLED, PROCESSING, SUCCESS, sample
from tests.unit.domain.model import ReadModel, after_polls, read_model


def few(share: float) -> settings:
    """A share of the profile's examples; each empties the one database that they share."""
    return settings(examples(share), suppress_health_check=list(HealthCheck))


async def assert_equal(projection: Projection, model: ReadModel) -> None:
    """The database shows what the model shows, has derived the same from it, and has announced the same."""
    expected = {batch_id: model.batch(batch_id) for batch_id in model.facts.batches}
    stored = await projection.all_stored()
    assert {batch_id: batch.facts for batch_id, batch in stored.items()} == expected
    assert {batch_id: batch.tally for batch_id, batch in stored.items()} == {
        batch_id: BatchTally.of(batch) for batch_id, batch in expected.items()
    }
    assert await projection.statuses() == {batch_id: view.status for batch_id, view in model.views().items()}
    assert await projection.ledger() == model.ledger
    told = {envelope["event_id"]: envelope for envelope in await projection.outbox()}
    for announcement in model.announced:
        assert told[str(announcement.event_id)] == announcement.envelope.model_dump(mode="json")


# The same as in memory.


@few(0.3)
@given(data=st.data())
async def test_any_history_in_any_order_is_in_the_database_as_it_is_in_memory(
    projection: Projection, data: st.DataObject
) -> None:
    polls = data.draw(in_polls(data.draw(soups())), label="polls")
    await projection.empty()
    model = after_polls(polls)
    await project(projection, polls)
    await assert_equal(projection, model)
    model.run_grace()
    await projection.run_grace()
    await assert_equal(projection, model)


@few(0.12)
@given(data=st.data())
async def test_orderly_pipelines_in_any_order_are_too(projection: Projection, data: st.DataObject) -> None:
    polls = data.draw(in_polls(data.draw(orderly("b1")) + data.draw(orderly("b2"))), label="polls")
    await projection.empty()
    await project(projection, polls)
    await assert_equal(projection, after_polls(polls))


@few(0.12)
@given(data=st.data())
async def test_polls_that_come_again_change_and_announce_nothing(projection: Projection, data: st.DataObject) -> None:
    polls = data.draw(in_polls(data.draw(soups())), label="polls")
    await projection.empty()
    await project(projection, polls)
    batches, outbox = await projection.batches(), await projection.outbox()
    await project(projection, polls)
    assert (await projection.batches(), await projection.outbox()) == (batches, outbox)


async def test_every_sample_comes_back_as_it_was_folded(projection: Projection) -> None:
    messages = [sample(name) for name in CONSUMED_NAMES]
    await projection.poll(*messages)
    await assert_equal(projection, read_model(*messages))


async def test_the_samples_put_exactly_the_published_messages_into_the_outbox(projection: Projection) -> None:
    names = ("batch_essays_registered", "spellcheck_completed", "spellcheck_results", "assessment_result_published")
    outcomes = ("els_batch_phase_outcome.spellcheck", "els_batch_phase_outcome.cj_assessment")
    await projection.poll(*(sample(name) for name in (*names, *outcomes)))
    outbox = {envelope["event_id"]: envelope for envelope in await projection.outbox()}
    expected = [published("batch_results_ready"), published("batch_assessment_completed")]
    expected += [published(f"teacher_notification.batch_{kind}") for kind in ("results_ready", "assessment_completed")]
    assert outbox == {envelope["event_id"]: envelope for envelope in expected}


# What is counted.


async def test_a_tally_counts_every_case_of_a_status(projection: Projection) -> None:
    """Own result none, completed or failed; before, at or after the outcome; listed there or not; and CJ's word."""
    told: list[Event] = []
    for batch, phase in product(("judged", "rejected"), Phase):
        processed, failed = [], []
        for ok, listing, at in product((None, True, False), ("", "p", "f", "pf"), (50, 100, 150)):
            essay = f"{batch} {phase} {ok} {listing} {at}"
            told += [say.slot(essay, batch), *_results(phase, essay, batch, ok=ok, at=at)]
            processed += [essay] if "p" in listing else []
            failed += [essay] if "f" in listing else []
        told.append(say.outcome(phase, processed, failed, batch, at=100))
    told += [say.cj_failed("rejected", at=200), say.assessment({}, "judged", anchors=["judged nlp True f 50"])]
    await projection.poll(*told)
    model = read_model(*told)
    await assert_equal(projection, model)
    counted = BatchTally.of(model.batch("rejected"))
    assert all(min(counted.counts_in(phase).completed, counted.counts_in(phase).failed) > 0 for phase in Phase)


async def test_a_tally_finds_its_way_in_long_lists(projection: Projection) -> None:
    essays = [f"e{number}" for number in range(200)]
    messages = [
        say.registered(essays),
        *(say.spellcheck(essay, at=50) for essay in essays[::3]),
        *(say.nlp(essay, at=150) for essay in essays[::3]),
        *(say.outcome(phase, essays[::2], essays[1::2], at=100) for phase in ("spellcheck", "nlp", "student_matching")),
        say.assessment({}, anchors=essays[:60]),
    ]
    await projection.poll(*messages)
    await assert_equal(projection, read_model(*messages))


def _results(phase: Phase, essay: str, batch: str, *, ok: bool | None, at: int) -> list[Event]:
    """An essay's own result in a phase, where there can be one."""
    match phase:
        case Phase.SPELLCHECK if ok is not None:
            return [say.spellcheck(essay, batch, ok=ok, at=at)]
        case Phase.AI_FEEDBACK if ok is not None:
            return [say.feedback(essay, batch, ok=ok, at=at)]
        case Phase.CJ_ASSESSMENT if ok is not None:
            return [say.rankings({essay: (1, 0.5)}, batch, at=at) if ok else say.thin([], [essay], batch, at=at)]
        case Phase.NLP if ok:
            return [say.nlp(essay, batch, at=at)]
        case _:
            return []


# What is touched.


async def stored(projection: Projection, *events: Event) -> Touched:
    """What storing alone touches."""
    async with projection.database.transaction() as session:
        return await projection.repository.store(session, FactRows(fold(events)))


async def test_a_store_touches_the_batches_it_speaks_of_and_their_owners(projection: Projection) -> None:
    await projection.poll(say.registered(["e1"], "a", user="ua"), say.registered(["e2"], "b", user="ub"))
    assert await stored(projection, say.slot("e1", "a")) == Touched({"a"}, {"ua"})


@pytest.mark.parametrize("message", [say.nlp("e1", None), say.feedback("e1", None), say.spellcheck("e1", None)])
async def test_a_message_that_names_no_batch_touches_that_of_its_essay(projection: Projection, message: Event) -> None:
    await projection.poll(say.registered(["e1"], "a", user="ua"))
    assert await stored(projection, message) == Touched({"a"}, {"ua"})


async def test_a_ranking_of_another_batch_touches_that_of_its_essay_too(projection: Projection) -> None:
    await projection.poll(say.registered(["e1"], "a", user="ua"))
    assert (await stored(projection, say.rankings({"e1": (1, 0.5)}, "c"))).batch_ids == {"a", "c"}


async def test_an_essay_that_moves_touches_the_batch_it_leaves_and_the_one_it_enters(projection: Projection) -> None:
    await projection.poll(say.registered(["e1"], "a", user="ua", at=0), say.registered(["e2"], "b", user="ub", at=0))
    assert await stored(projection, say.slot("e1", "b", at=5)) == Touched({"a", "b"}, {"ua", "ub"})
    assert [essay.essay_id for essay in (await projection.batch("b")).members] == ["e1", "e2"]
    assert (await projection.batch("a")).members == []


async def test_a_registration_that_lists_an_essay_of_another_batch_touches_both(projection: Projection) -> None:
    await projection.poll(say.registered(["e1"], "a", user="ua", at=0))
    touched = await projection.poll(say.registered(["e1"], "b", user="ub", at=5))
    assert touched == Touched({"a", "b"}, {"ua", "ub"})


async def test_a_registration_that_drops_an_essay_touches_the_batch_that_gets_it_back(projection: Projection) -> None:
    await projection.poll(say.registered(["e1"], "a", user="ua", at=3), say.slot("e1", "b", at=1))
    assert (await projection.batch("a")).members
    assert (await stored(projection, say.registered([], "a", user="ua", at=9))).batch_ids == {"a", "b"}
    assert [essay.essay_id for essay in (await projection.batch("b")).members] == ["e1"]


async def test_a_registration_that_was_replaced_already_lists_nobody(projection: Projection) -> None:
    await projection.poll(say.registered(["e2"], at=9))
    await projection.poll(say.registered(["e1"], at=3))
    assert [essay.essay_id for essay in (await projection.batch()).members] == ["e2"]


async def test_a_change_of_owner_touches_the_old_owner_and_the_new(projection: Projection) -> None:
    await projection.poll(say.registered(user="old", at=0))
    assert await stored(projection, say.registered(user="new", at=5)) == Touched({"b"}, {"old"})
    assert await projection.poll(say.registered(user="newest", at=9)) == Touched({"b"}, {"new", "newest"})


async def test_an_earlier_registration_changes_no_owner(projection: Projection) -> None:
    await projection.poll(say.registered(user="new", at=5))
    assert await projection.poll(say.registered(user="old", at=0)) == Touched({"b"}, {"new"})


async def test_a_batch_without_owner_touches_nobody(projection: Projection) -> None:
    assert await projection.poll(say.slot("e1")) == Touched({"b"}, set())


async def test_what_a_duplicate_touches_is_known_without_writing(projection: Projection) -> None:
    await projection.poll(say.registered(["e1"], "a", user="ua"))
    async with projection.database.transaction() as session:
        touched = await projection.repository.touched_by(session, fold([say.nlp("e1"), say.slot("e9", "c")]))
    assert touched == Touched({"a", "c"}, {"ua"})
    assert set(await projection.batches()) == {"a"}


async def test_nothing_to_store_touches_nothing(projection: Projection) -> None:
    assert await stored(projection) == Touched()


# What is derived.


async def test_a_status_follows_an_essay_that_left(projection: Projection) -> None:
    await projection.poll(say.registered([], "a"), say.registered([], "b"), say.spellcheck("e1", "a", at=5))
    assert await projection.statuses() == {"a": PROCESSING, "b": AWAITING}
    await projection.poll(say.slot("e1", "b", at=6))
    assert await projection.statuses() == {"a": AWAITING, "b": PROCESSING}


async def test_an_essay_that_turns_out_to_be_an_anchor_starts_nothing(projection: Projection) -> None:
    await projection.poll(say.registered(["e1", "anchor"]), say.nlp("anchor", at=5))
    assert await projection.statuses() == {"b": PROCESSING}
    await projection.poll(say.assessment({}, anchors=["anchor"], at=6))
    assert await projection.statuses() == {"b": AWAITING}


async def test_grace_is_due_so_long_after_the_pipelines_end_was_stored_and_waits_anew_after_an_outcome(
    projection: Projection,
) -> None:
    end = say.end(at=300)
    await projection.poll(say.registered(["e1"]), end)
    judgement = (await projection.stored()).judgement
    assert (judgement.horizon, judgement.grace_due, judgement.overall_status) == (end.clock, GRACE_SECONDS, PROCESSING)
    outcome = say.outcome("spellcheck", ["e1"], at=301)
    await projection.poll(outcome)
    assert (await projection.stored()).judgement.horizon == outcome.clock
    await projection.run_grace()
    judgement = (await projection.stored()).judgement
    assert (judgement.grace_horizon, judgement.grace_due) == (outcome.clock, None)
    assert judgement.overall_status == SUCCESS


async def test_nothing_is_due_where_no_pipeline_ended_or_the_batch_is_finished(projection: Projection) -> None:
    await projection.poll(say.registered(["e1"]), say.outcome("spellcheck", ["e1"]))
    assert (await projection.stored()).judgement.grace_due is None
    await projection.poll(say.end([], status=CANCELLED))
    assert (await projection.stored()).judgement.grace_due is None


# What columns hold.

_TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)


@few(0.4)
@given(batch=_TEXTS, essay=_TEXTS, user=_TEXTS, other=_TEXTS)
async def test_any_text_without_nul_comes_back_unchanged(
    projection: Projection, batch: str, essay: str, user: str, other: str
) -> None:
    await projection.empty()
    messages = [
        say.registered([essay], batch, user=user, class_id=other, requested=[other]),
        say.slot(essay, batch, text=other),
        say.spellcheck(essay, batch, ok=False, error=other, at=60),
        say.outcome("nlp", [essay], [other], batch),
        say.assessment({essay: (1, 0.5)}, batch, anchors=[other], grade=other, job=other),
    ]
    await projection.poll(*messages)
    await assert_equal(projection, read_model(*messages))


@pytest.mark.parametrize(
    "odd", ["\uffff", "\u2028\u2029", "e\u0301", "\u202eabc", "😀" * 255, "'; DROP --", '"\\', "\x01\x7f", " "]
)
async def test_odd_texts_are_ids_like_any_other(projection: Projection, odd: str) -> None:
    messages = [say.registered([odd], odd, user=odd), say.slot(odd, odd), say.rankings({odd: (1, 0.5)}, odd, job=odd)]
    assert (await projection.poll(*messages)) == Touched({odd}, {odd})
    await assert_equal(projection, read_model(*messages))


@pytest.mark.parametrize("at", [datetime(1, 1, 2, tzinfo=UTC), datetime(9999, 12, 29, 23, 59, 59, 999999, tzinfo=UTC)])
async def test_times_from_the_first_to_the_last_year_come_back_to_the_microsecond(
    projection: Projection, at: datetime
) -> None:
    seconds = (at - say.EIGHT).total_seconds()
    messages = [say.registered(at=seconds), say.outcome("nlp", ["e1"], at=seconds), say.end(at=seconds)]
    await projection.poll(*messages)
    await assert_equal(projection, read_model(*messages))


@pytest.mark.parametrize("score", [0.0, -0.0, 5e-324, 1.7976931348623157e308, -1e300, 0.1 + 0.2, 1e22, 2.0**53 + 2])
async def test_scores_come_back_to_the_last_bit(projection: Projection, score: float) -> None:
    metrics = {"mtld_score": score, "extra": [score], "big": 2**63 - 1}
    scored = say.event(ESSAY_NLP_COMPLETED, {"essay_id": "e1", "parent_id": "b", "nlp_metrics": metrics}, 5)
    messages = [say.registered(), say.rankings({"e1": (2**31 - 1, score)}), scored]
    await projection.poll(*messages)
    await assert_equal(projection, read_model(*messages))


async def test_ties_of_time_are_broken_alike_in_the_database_and_in_memory(projection: Projection) -> None:
    ids = [UUID(int=n) for n in (1, 2**127 - 1, 2**127, 2**128 - 1)]
    messages = [say.slot("e1", text=f"text {event_id}", number=event_id.int) for event_id in ids]
    messages += [say.outcome("nlp", [f"e{n}"], number=event_id.int) for n, event_id in enumerate(ids)]
    for message in reversed(messages):
        await projection.poll(message)
    await assert_equal(projection, read_model(*messages))
    assert (await projection.batch()).outcomes[Phase.NLP].clock.event_id == ids[-1]


async def test_a_registration_of_ten_thousand_essays_is_stored_in_one_go(projection: Projection) -> None:
    essays = [f"essay {number}" for number in range(10_000)]
    await projection.poll(say.registered(essays))
    await projection.poll(say.outcome("spellcheck", essays[:-1], essays[-1:]))
    stored = (await projection.all_stored())["b"]
    assert len(stored.facts.members) == 10_000
    assert stored.tally == BatchTally.of(stored.facts)


async def test_a_batch_that_is_not_there_is_left_out(projection: Projection) -> None:
    async with projection.database.snapshot() as session:
        assert await projection.repository.load(session, ["nowhere"]) == {}


async def test_a_poll_reads_what_it_speaks_of_also_by_plans_made_while_the_tables_were_empty(
    projection: Projection,
) -> None:
    def story(batch: str) -> list[Event]:
        essay = f"essay of {batch}"
        return [
            say.registered([essay], batch),
            say.slot(essay, batch, at=100),
            say.spellcheck(essay, batch, at=101),
            say.assessment({essay: (1, 0.5)}, batch, anchors=["anchor"], at=102),
            say.outcome("spellcheck", [essay], batch=batch, at=103),
        ]

    others = 3000
    await projection.poll(*story("the first"))
    async with projection.database.transaction() as session:
        await session.execute(
            text(
                "INSERT INTO batch_results (batch_id, heard_at, registration_event_id, anchor_ids) "
                "SELECT 'other ' || n, now(), gen_random_uuid(), '[]' FROM generate_series(1, :others) AS n"
            ),
            {"others": others},
        )
        await session.execute(
            text(
                "INSERT INTO essay_results (essay_id, batch_id, heard_at, listed_batch_id, listed_event_id) "
                "SELECT 'other ' || n, 'other ' || n, now(), 'other ' || n, gen_random_uuid() "
                "FROM generate_series(1, :others) AS n"
            ),
            {"others": others},
        )
    async with projection.database.transaction() as session:
        touched = await projection.repository.store(session, FactRows(fold(story("the next"))))
        await projection.completion.settle(session, touched)
        read = await session.execute(
            text("SELECT relname, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables")
        )
    most = max(read, key=itemgetter(1))
    assert most[1] < others / 10, tuple(most)
