"""The circuit breaker, by a clock that only the test moves."""

from result_aggregator_service.resilience.circuit_breaker import BreakerState, CircuitBreaker

CLOSED, HALF_OPEN, OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN


class Clock:
    """Seconds that go by when told so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Breaker(CircuitBreaker):
    """A breaker with its clock and a record of the states it went through."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.states: list[BreakerState] = []
        super().__init__(seconds_open=30.0, monotonic=self.clock, on_change=self.states.append)

    def after(self, *, failures: int) -> "Breaker":
        for _ in range(failures):
            self.failed()
        return self


def test_it_is_closed_at_first_and_says_so() -> None:
    breaker = Breaker()
    assert breaker.allows()
    assert (breaker.state, breaker.states, breaker.seconds_to_wait()) == (CLOSED, [CLOSED], 0.0)


def test_four_failures_in_a_row_leave_it_closed_and_the_fifth_opens_it() -> None:
    breaker = Breaker().after(failures=4)
    assert breaker.allows()
    breaker.failed()
    assert not breaker.allows()
    assert breaker.states == [CLOSED, OPEN]


def test_a_success_in_between_starts_the_count_anew() -> None:
    breaker = Breaker().after(failures=4)
    breaker.succeeded()
    assert breaker.after(failures=4).allows()


def test_it_stays_open_for_thirty_seconds() -> None:
    breaker = Breaker().after(failures=5)
    assert breaker.seconds_to_wait() == 30.0
    breaker.clock.now += 29.5
    assert not breaker.allows()
    assert breaker.seconds_to_wait() == 0.5
    breaker.clock.now += 0.5
    assert breaker.allows()
    assert (breaker.state, breaker.seconds_to_wait()) == (HALF_OPEN, 0.0)


def test_after_that_one_success_closes_it() -> None:
    breaker = Breaker().after(failures=5)
    breaker.clock.now += 30
    assert breaker.allows()
    breaker.succeeded()
    assert breaker.states == [CLOSED, OPEN, HALF_OPEN, CLOSED]
    assert breaker.after(failures=4).allows()


def test_after_that_one_failure_opens_it_for_the_whole_time_again() -> None:
    breaker = Breaker().after(failures=5)
    breaker.clock.now += 31
    assert breaker.allows()
    breaker.failed()
    assert not breaker.allows()
    assert breaker.seconds_to_wait() == 30.0
    assert breaker.states == [CLOSED, OPEN, HALF_OPEN, OPEN]


def test_time_that_has_gone_by_long_since_is_no_wait() -> None:
    breaker = Breaker().after(failures=5)
    breaker.clock.now += 3600
    assert breaker.seconds_to_wait() == 0.0
    assert breaker.state is OPEN


def test_a_change_is_told_once() -> None:
    breaker = Breaker()
    breaker.succeeded()
    breaker.succeeded()
    assert breaker.after(failures=7).states == [CLOSED, OPEN]


def test_its_limits_can_be_chosen() -> None:
    clock = Clock()
    breaker = CircuitBreaker(failures_to_open=1, seconds_open=2, monotonic=clock)
    breaker.failed()
    assert breaker.seconds_to_wait() == 2.0
    clock.now += 2
    assert breaker.allows()
