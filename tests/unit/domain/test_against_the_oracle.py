"""The rules, read a second time: the demo's oracle, which shares no code with the service, says the same."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from demo.oracle import Either, Oracle
from demo.verdict import differences
from demo.wire import Message
from result_aggregator_service.contracts import topics
from result_aggregator_service.contracts.enums import Phase
from result_aggregator_service.domain.announcements import results_announcement
from result_aggregator_service.domain.event import Event
from tests.hypothesis_profiles import examples
from tests.unit.domain.histories import in_polls, lives, orderly, soups
from tests.unit.domain.messages import EXPECTED, SERVICE, as_sent
from tests.unit.domain.model import ReadModel, View, after_polls, read_model


def on_the_wire(event: Event) -> Message:
    """The message as its producer would have sent it."""
    return Message(event.topic, b"", as_sent(event), [])


histories = soups() | lives()


def oracle_of(history: Sequence[Event]) -> Oracle:
    oracle = Oracle([on_the_wire(event) for event in history])
    assert not oracle.quarantined
    return oracle


def shown(view: View) -> dict[str, Any]:
    """What the oracle's answer says, said by the service's rules."""
    return {
        "overall_status": view.status,
        "completed_essay_count": view.counts.completed,
        "failed_essay_count": view.counts.failed,
        "error_count": view.error_count,
        "current_phase": view.current_phase,
        "created_at": view.facts.created_at,
        "last_updated": view.last_updated,
        "processing_started_at": view.started_at,
        "processing_completed_at": None if view.finished_by is None else view.completed_at,
        "assignment_id": view.facts.assignment.id if view.facts.assignment else None,
    }


def shown_of_essay(view: View, essay_id: str) -> dict[str, Any]:
    essay = view.facts.essays[essay_id]
    answer: dict[str, Any] = {"essay_id": essay_id, "last_updated": essay.heard_at}
    answer["original_text_storage_id"] = essay.file.text_storage_id if essay.file else None
    for phase in (Phase.SPELLCHECK, Phase.CJ_ASSESSMENT, Phase.NLP, Phase.AI_FEEDBACK):
        known = view.essays[essay_id][phase]
        answer[f"{phase}_status"] = known.status.value if known else None
        answer[f"{phase}_completed_at"] = known.at if known else None
    return answer


def assert_agree(model: ReadModel, oracle: Oracle) -> None:
    for batch_id, view in model.views().items():
        answer = oracle.answer(batch_id)
        if answer is None:
            assert view.facts.registration is None
            continue
        ours = shown(view)
        assert {name: answer[name] for name in ours} == ours
        assert [essay["essay_id"] for essay in answer["essays"]] == view.members
        for essay in answer["essays"]:
            for name, value in shown_of_essay(view, essay["essay_id"]).items():
                expected = essay[name]
                assert value in expected.values if isinstance(expected, Either) else value == expected, name


@examples(2)
@given(histories)
def test_any_history_stands_as_the_oracle_says(history: list[Event]) -> None:
    model = read_model(*history)
    model.run_grace()
    assert_agree(model, oracle_of(history))


@given(st.data())
def test_whatever_any_history_announces_is_what_the_oracle_allows(data: st.DataObject) -> None:
    history = data.draw(soups(max_size=9), label="history")
    model = after_polls(data.draw(in_polls(history), label="polls"))
    model.run_grace()
    oracle = oracle_of(history)
    for batch_id, view in model.views().items():
        expected = oracle.announcements(batch_id)
        announced = {str(a.event_id): a for a in model.announced if a.batch_id == batch_id}
        results = {i for i, a in announced.items() if a.topic == topics.BATCH_RESULTS_READY}
        assert results <= set(expected.possible)
        # The service also announces scores without ranks.
        assert announced.keys() - results >= expected.certain_assessments
        assert bool(expected.final) == (view.finished_by is not None and view.facts.registration is not None)
        if expected.final:
            final = results_announcement(view.facts, view.status, EXPECTED, SERVICE)
            assert final is not None
            assert str(final.event_id) == expected.final[0]
            assert results & set(expected.final)


@given(st.data())
def test_an_orderly_pipeline_announces_exactly_what_the_oracle_says(data: st.DataObject) -> None:
    history = data.draw(orderly(), label="history")
    model = after_polls(data.draw(in_polls(history), label="polls"))
    oracle = oracle_of(history)
    expected = oracle.announcements("b")
    # Where an essay fails in a phase that does not matter, the oracle also allows of states that are not reached.
    final, *others = expected.final
    assert not (expected.exact and others)
    assert {str(event_id) for event_id in model.ledger} == {final, *expected.assessments}
    assert expected.certain_assessments == expected.assessments.keys()
    for announcement in model.announced:
        envelope = json.loads(announcement.envelope.model_dump_json())
        allowed = {**expected.possible, **expected.assessments}[envelope["event_id"]]
        assert any(not list(differences(content.envelope, envelope, "envelope")) for content in allowed)
    assert_agree(model, oracle)
