"""How the rounds of a drain are put together."""

from benchmarks.drain import Measured, Round
from benchmarks.figures import Spread


def test_shares_are_taken_round_by_round_so_that_a_slow_minute_slows_both() -> None:
    rounds = [Round(1_000, 0.1, 100_000, 50_000), Round(500, 0.2, 50_000, 10_000), Round(900, 0.3, 30_000, 30_000)]
    found = Measured.of(7, rounds)
    assert found.messages == 7
    assert found.messages_per_second == Spread(900, 500, 1_000)
    assert found.cpu_seconds_per_1000 == Spread(0.2, 0.1, 0.3)
    assert found.of_bare_drain == Spread(0.01, 0.01, 0.03)
    assert found.of_bare_upsert == Spread(0.03, 0.02, 0.05)
