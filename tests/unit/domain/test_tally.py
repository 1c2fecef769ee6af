"""A batch's tally counts its members as the rule for an essay's status has them."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from result_aggregator_service.contracts.enums import Phase, ProcessingStage
from result_aggregator_service.domain.batch import BatchFacts, essay_status
from result_aggregator_service.domain.event import Event
from result_aggregator_service.domain.tally import BatchTally, EssayCounts
from tests.hypothesis_profiles import examples
from tests.unit.domain import messages as say
from tests.unit.domain.histories import lives, soups
from tests.unit.domain.messages import time
from tests.unit.domain.model import read_model

SPELLCHECK, CJ, NLP = Phase.SPELLCHECK, Phase.CJ_ASSESSMENT, Phase.NLP


def tally(*events: Event) -> BatchTally:
    return BatchTally.of(read_model(*events).batch())


def test_members_are_counted_by_their_stages_in_all_phases() -> None:
    counted = tally(
        say.registered(["e1", "e2", "e3", "e4"]),
        *(say.spellcheck(essay) for essay in ("e1", "e2")),
        say.spellcheck("e3", ok=False),
        say.assessment({"e1": (1, 0.5), "e2": (2, 0.25)}, anchors=["anchor"]),
        say.outcome("student_matching", ["e1"], ["e2"]),
        say.feedback("e4", ok=False),
    )
    assert counted.stages == {"cc--c": 1, "cc--f": 1, "f----": 1, "---f-": 1}
    assert counted.counts_in(SPELLCHECK) == EssayCounts(completed=2, failed=1)
    assert counted.counts([SPELLCHECK, CJ]) == EssayCounts(completed=2, failed=1)
    assert counted.counts([SPELLCHECK, Phase.AI_FEEDBACK]) == EssayCounts(completed=0, failed=2)
    assert counted.counts([NLP]) == EssayCounts(completed=0, failed=0)
    assert counted.failed_results() == 3


def test_where_no_phase_matters_no_essay_is_completed() -> None:
    assert tally(say.registered(), say.spellcheck("e1")).counts([]) == EssayCounts(completed=0, failed=0)


def test_times_are_those_of_members_own_results() -> None:
    counted = tally(
        say.registered(["e1", "e2"], at=5),
        say.spellcheck("e1", at=50),
        say.spellcheck("e2", at=60),
        say.nlp("e1", at=70),
        say.outcome("spellcheck", ["e1"], ["e2"], at=100),
        say.rankings({"anchor": (1, 0.5)}, at=10),
    )
    assert counted.first_result_at == {SPELLCHECK: time(50), NLP: time(70)}
    assert counted.last_result_at == {SPELLCHECK: time(60), NLP: time(70)}
    assert (counted.started_at, counted.heard_at) == (time(50), time(100))


@pytest.mark.parametrize("events", [[say.registered([])], [say.assessment({"e1": (1, 0.5)}, anchors=["e1"])]])
def test_a_batch_without_members_has_an_empty_tally(events: Sequence[Event]) -> None:
    assert tally(*events) == BatchTally({}, {}, {}, None, None)


def naive_counts(batch: BatchFacts, phases: Sequence[Phase]) -> EssayCounts:
    """What the specification says of the counts, essay by essay."""
    stages = [
        [status.status if (status := essay_status(batch, essay, phase)) else None for phase in phases]
        for essay in batch.members
    ]
    failed = sum(ProcessingStage.FAILED in of_essay for of_essay in stages)
    completed = sum(
        bool(of_essay) and all(stage is ProcessingStage.COMPLETED for stage in of_essay) for of_essay in stages
    )
    return EssayCounts(completed, failed)


@examples(0.5)
@given(soups() | lives(), st.sets(st.sampled_from(Phase)))
def test_counts_are_those_of_the_essays_one_by_one(history: list[Event], matter: set[Phase]) -> None:
    model = read_model(*history)
    for batch_id in model.facts.batches:
        batch = model.batch(batch_id)
        counted = BatchTally.of(batch)
        assert sum(counted.stages.values()) == len(batch.members)
        assert counted.counts(matter) == naive_counts(batch, sorted(matter))
        assert counted.failed_results() == sum(naive_counts(batch, [phase]).failed for phase in Phase)
