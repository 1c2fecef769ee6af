"""Which essays a batch has, and what is known of it before it is registered."""

import itertools

import pytest

from result_aggregator_service.contracts.enums import Phase
from result_aggregator_service.domain.event import Event
from tests.unit.domain import messages as say
from tests.unit.domain.messages import AWAITING, PROCESSING, time
from tests.unit.domain.model import ReadModel, read_model


def in_any_order(*events: Event) -> ReadModel:
    """The state after some messages, one a poll, which every order of them gives."""
    model = read_model(*events)
    for order in itertools.permutations(events):
        other = ReadModel()
        for event in order:
            other.poll(event)
        assert other.views() == model.views()
    return model


def members(model: ReadModel, batch: str = "b") -> list[str]:
    return model.view(batch).members


def test_a_batch_has_the_essays_that_its_registration_lists_with_nothing_known_of_them() -> None:
    view = read_model(say.registered(["e2", "e1", "e2"])).view()
    assert view.members == ["e1", "e2"]
    assert all(status is None for statuses in view.essays.values() for status in statuses.values())
    assert view.status == AWAITING


@pytest.mark.parametrize(
    "message",
    [
        say.slot("e9"),
        say.outcome("spellcheck", ["e9"]),
        say.outcome("spellcheck", [], ["e9"]),
        say.spellcheck("e9"),
        say.rich_spellcheck("e9"),
        say.thin(["e9"]),
        say.thin([], ["e9"]),
        say.assessment({"e9": (1, 0.5)}),
        say.assessment({"e9": (None, None)}),
        say.nlp("e9", "b"),
        say.feedback("e9"),
    ],
    ids=lambda message: message.topic,
)
def test_slots_outcomes_and_results_that_name_a_batch_put_their_essay_into_it(message: Event) -> None:
    assert members(in_any_order(say.registered(["e1"]), message)) == ["e1", "e9"]
    assert members(read_model(message)) == ["e9"]


def test_an_id_that_only_an_older_rankings_names_is_an_anchor() -> None:
    model = in_any_order(say.registered(["e1"]), say.rankings({"e1": (1, 0.9), "anchor": (2, 0.1)}))
    assert members(model) == ["e1"]
    assert model.essay("anchor").batch_id is None


def test_an_id_that_an_older_rankings_and_a_slot_name_is_a_students() -> None:
    assert members(in_any_order(say.rankings({"e1": (1, 0.9)}), say.slot("e1"))) == ["e1"]


def test_an_id_that_a_rich_message_marks_is_an_anchor_whoever_else_names_it() -> None:
    model = in_any_order(
        say.registered(["e1", "anchor"]),
        say.outcome("cj_assessment", ["e1", "anchor"]),
        say.assessment({"e1": (1, 0.9)}, anchors=["anchor"]),
    )
    assert members(model) == ["e1"]
    assert model.batch().anchor_ids == {"anchor"}


def test_anchors_of_several_rich_messages_add_up() -> None:
    model = in_any_order(say.assessment({}, anchors=["a", "b"], at=80), say.assessment({}, anchors=["b", "c"], at=81))
    assert model.batch().anchor_ids == {"a", "b", "c"}


def test_a_rich_messages_anchors_leave_nothing_behind_but_their_ids() -> None:
    assert "anchor" not in read_model(say.assessment({}, anchors=["anchor"])).facts.essays


def test_one_batchs_essay_may_be_anothers_anchor() -> None:
    model = in_any_order(say.registered(["e1"]), say.assessment({}, "other", anchors=["e1"]))
    assert members(model) == ["e1"]
    assert members(model, "other") == []


def test_an_essay_is_in_the_batch_that_was_named_last() -> None:
    model = in_any_order(say.registered(["e1"], "a", at=0), say.slot("e1", "b", at=1), say.spellcheck("e1", "a", at=2))
    assert (members(model, "a"), members(model, "b")) == (["e1"], [])


def test_a_later_registration_takes_an_essay_over() -> None:
    model = in_any_order(
        say.registered(["e1"], "a", at=0), say.slot("e1", "a", at=1), say.registered(["e1"], "b", at=2)
    )
    assert (members(model, "a"), members(model, "b")) == ([], ["e1"])


def test_a_message_of_the_same_time_moves_an_essay_if_its_id_is_greater() -> None:
    listing, slot = say.registered(["e1"], "a", at=5, number=1), say.slot("e1", "b", at=5, number=2)
    assert members(in_any_order(listing, slot), "b") == ["e1"]
    listing, slot = say.registered(["e1"], "a", at=5, number=2), say.slot("e1", "b", at=5, number=1)
    assert members(in_any_order(listing, slot), "a") == ["e1"]


def test_messages_that_name_no_batch_move_nothing() -> None:
    model = in_any_order(say.registered(["e1"], at=0), say.nlp("e1", None, at=90), say.feedback("e1", None, at=91))
    assert members(model) == ["e1"]


def test_a_ranking_moves_nothing() -> None:
    assert members(in_any_order(say.registered(["e1"], at=0), say.rankings({"e1": (1, 0.5)}, "other", at=9))) == ["e1"]


def test_a_replaced_registration_no_longer_lists() -> None:
    model = in_any_order(say.registered(["e1", "e2"], at=0), say.registered(["e2", "e3"], at=5))
    assert members(model) == ["e2", "e3"]


def test_an_essay_dropped_from_the_list_stays_where_it_was_put() -> None:
    model = in_any_order(say.registered(["e1"], at=3), say.slot("e1", "other", at=1), say.registered([], at=5))
    assert (members(model), members(model, "other")) == ([], ["e1"])


def test_an_essay_takes_its_results_along_when_it_moves() -> None:
    model = in_any_order(say.spellcheck("e1", "a", at=10), say.slot("e1", "b", at=20))
    status = model.view("b").essays["e1"][Phase.SPELLCHECK]
    assert status is not None
    assert model.view("b").status == PROCESSING
    assert model.view("a").status == AWAITING


def test_nlp_and_feedback_that_name_no_batch_wait_for_their_essay() -> None:
    model = in_any_order(say.nlp("e1"), say.feedback("e1", None), say.registered(["e1"]))
    statuses = model.view().essays["e1"]
    assert statuses[Phase.NLP] is not None
    assert statuses[Phase.AI_FEEDBACK] is not None
    assert model.view().last_updated == time(70)


def test_everything_waits_for_the_registration_and_nothing_is_lost() -> None:
    early = [say.spellcheck("e1"), say.outcome("spellcheck", ["e1"]), say.rankings({"e1": (1, 0.5)})]
    early += [say.outcome("cj_assessment", ["e1"], at=200)]
    model = read_model(*early)
    assert model.announced == []
    assert model.batch().registration is None
    assert model.batch().created_at is None
    model.poll(say.registered(["e1"]))
    assert len(model.announced) == 2
    assert model.views() == read_model(say.registered(["e1"]), *early).views()
