"""Waiting times between tries: they grow, have a ceiling, and differ from replica to replica."""

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from result_aggregator_service.resilience.backoff import backoff


@given(st.integers(), st.integers(1, 80))
def test_each_wait_is_between_half_of_its_limit_and_all_of_it(seed: int, tries: int) -> None:
    limit = 0.1
    for wait in itertools.islice(backoff(random_=random.Random(seed)), tries):
        assert limit / 2 <= wait <= limit
        limit = min(limit * 2, 10.0)


def test_waits_never_end_and_never_pass_the_ceiling() -> None:
    waits = list(itertools.islice(backoff(first=1.0, ceiling=3.0), 1000))
    assert 1.5 <= max(waits[2:]) <= 3.0
    assert min(waits[2:]) >= 1.5


def test_two_replicas_do_not_knock_in_step() -> None:
    one, other = (list(itertools.islice(backoff(), 10)) for _ in range(2))
    assert one != other
