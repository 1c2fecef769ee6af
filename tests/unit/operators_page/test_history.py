"""The ring of samples: whatever is added, the last ones are kept, in order, and nothing else."""

import math

from hypothesis import given
from hypothesis import strategies as st

from result_aggregator_service.operators_page.history import History

SAMPLES = st.lists(st.dictionaries(st.sampled_from(["a", "b"]), st.floats(allow_nan=False)), max_size=30)


@given(samples=SAMPLES, size=st.integers(1, 10), after=st.integers(-5, 40))
def test_the_last_samples_are_kept_and_told_from_any_number_on(
    samples: list[dict[str, float]], size: int, after: int
) -> None:
    history = History(["a", "b"], size=size)
    for at, values in enumerate(samples):
        history.add(float(at), values)
    first = max(after, len(samples) - size, 0)
    assert history.last == len(samples)
    assert history.times(after=after) == [float(at) for at in range(first, len(samples))]
    for name, told in history.series(after=after).items():
        for value, values in zip(told, samples[first:], strict=True):
            assert value == values[name] if name in values else math.isnan(value)
