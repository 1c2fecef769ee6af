"""How many essay results a poll brought, by phase: what the metrics count."""

from result_aggregator_service.contracts.enums import Phase
from result_aggregator_service.domain.fold import Facts, fold, results_by_phase
from tests.unit.domain import messages as say


def test_no_messages_bring_no_results() -> None:
    assert results_by_phase(Facts()) == {}


def test_what_is_no_essays_result_counts_for_nothing() -> None:
    facts = fold([say.registered(), say.slot("e1"), say.outcome("spellcheck", ["e1"]), say.end(), say.cj_failed()])
    assert results_by_phase(facts) == {}


def test_each_essay_counts_once_for_each_phase_it_has_a_result_in() -> None:
    facts = fold(
        [
            say.spellcheck("e1"),
            say.rich_spellcheck("e1"),
            say.spellcheck("e2", ok=False),
            say.nlp("e1"),
            say.feedback("e3"),
            say.assessment({"e1": (1, 0.5), "e2": (2, 0.1), "e3": (None, None)}, anchors=["a"]),
            say.thin(["e4"], ["e5"]),
        ]
    )
    assert results_by_phase(facts) == {
        Phase.SPELLCHECK: 2,
        Phase.NLP: 1,
        Phase.AI_FEEDBACK: 1,
        Phase.CJ_ASSESSMENT: 3,
    }
