"""When messages wait and nobody handles any, as the samples tell it."""

import math

import pytest

from result_aggregator_service.operators_page.sampler import stands_still

NAN = math.nan


@pytest.mark.parametrize(
    ("lags", "handled", "standstill"),
    [
        ([5.0, 5.0, 7.0], [0.0, 0.0, 0.0], True),
        ([5.0, 5.0, 5.0], [9.0, 0.0, 0.0], True),  # what was handled before the first of them
        ([5.0, 5.0, 5.0], [0.0, 0.1, 0.0], False),
        ([5.0, 4.0, 5.0], [0.0, 0.0, 0.0], False),  # another replica handles some
        ([0.0, 0.0, 9.0], [0.0, 0.0, 0.0], False),  # they have just come
        ([5.0, NAN, 5.0], [0.0, 0.0, 0.0], False),
        ([5.0, 5.0, 5.0], [0.0, NAN, 0.0], False),
        ([5.0, 5.0], [0.0, 0.0], False),
    ],
)
def test_a_standstill_is_told_from_work_and_from_what_is_not_known(
    lags: list[float], handled: list[float], standstill: bool
) -> None:
    assert stands_still(lags, handled) is standstill
