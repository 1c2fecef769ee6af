"""The generator of lives reaches every hard case, and often: a property over lives that holds only by luck shows."""

from collections import Counter

from hypothesis import HealthCheck, given, settings
from hypothesis import Phase as HypothesisPhase

from result_aggregator_service.domain.event import Event
from tests.unit.domain.hard_cases import HARD_CASES, hard_cases_in
from tests.unit.domain.histories import lives


def test_every_hard_case_is_drawn_in_one_life_of_fifty_or_more() -> None:
    histories: list[list[Event]] = []

    # Which lives are drawn changes with any change of the code, whose literals Hypothesis tries. So the rarest case has
    # to be a good deal more frequent than what is asked for here.
    @settings(
        max_examples=500,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[HypothesisPhase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(lives())
    def draw(history: list[Event]) -> None:
        histories.append(history)

    draw()
    drawn = Counter(case for history in histories for case in hard_cases_in(history))
    assert drawn.keys() <= HARD_CASES
    rare = {case: drawn[case] for case in HARD_CASES if drawn[case] * 50 < len(histories)}
    assert not rare, f"of {len(histories)} lives"
