"""The arithmetic of the benchmarks."""

import pytest

from benchmarks.figures import Figures, Slice, Spread, percentile, ratio


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1.0), (1, 1.0), (50, 50.0), (50.5, 51.0), (99, 99.0), (100, 100.0)]
)
def test_a_percentile_is_the_nearest_rank(percent: float, expected: float) -> None:
    assert percentile([float(each) for each in range(1, 101)], percent) == expected


def test_of_few_values_the_99th_percentile_is_the_largest_and_the_median_the_lower_middle() -> None:
    assert percentile([1.0, 2.0, 3.0, 9.0], 99) == 9.0
    assert percentile([1.0, 2.0, 3.0, 9.0], 50) == 2.0
    assert percentile([7.0], 50) == 7.0


def test_a_spread_has_the_median_with_the_least_and_the_most() -> None:
    assert Spread.of([5.0, 1.0, 3.0]) == Spread(median=3.0, least=1.0, most=5.0)


def test_one_disturbed_slice_moves_no_median() -> None:
    calm = Slice(requests=1000, seconds=1.0, p50=0.001, p99=0.002, cpu_seconds=0.5)
    disturbed = Slice(requests=100, seconds=2.0, p50=0.01, p99=0.5, cpu_seconds=0.08)
    figures = Figures.of([calm, disturbed, calm])
    assert figures.requests == 2100
    assert figures.requests_per_second == Spread(median=1000.0, least=50.0, most=1000.0)
    assert (figures.p50_ms.median, figures.p99_ms.median) == (1.0, 2.0)


def test_cpu_time_is_counted_for_a_thousand_requests_of_all_slices() -> None:
    slices = [Slice(1000, 1.0, 0.0, 0.0, cpu_seconds=0.4), Slice(3000, 1.0, 0.0, 0.0, cpu_seconds=0.8)]
    assert Figures.of(slices).cpu_seconds_per_1000 == pytest.approx(0.3)


def test_a_ratio_is_taken_slice_by_slice_so_that_a_slow_moment_of_both_does_not_show() -> None:
    def at(requests: int) -> Slice:
        return Slice(requests, 1.0, 0.0, 0.0, 0.0)

    assert ratio([at(300), at(30), at(330)], [at(1000), at(100), at(1000)]) == Spread(0.3, 0.3, 0.33)


def test_a_ratio_of_slices_that_are_no_pairs_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ratio([Slice(1, 1.0, 0.0, 0.0, 0.0)], [])
