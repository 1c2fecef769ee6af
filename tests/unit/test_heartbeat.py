"""A heartbeat is wedged when it has been silent for too long, or has had work and not got on with it, and only then."""

import pytest

from result_aggregator_service.heartbeat import SECONDS_UNTIL_WEDGED, Heartbeat


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Stand:
    """A loop that beats every second, and is told of its work each time."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.heartbeat = Heartbeat(monotonic=self.clock, seconds_without_progress=10.0)

    def turns(self, seconds: float, marks: dict[str, int], state: str = "polling") -> None:
        for _ in range(int(seconds)):
            self.clock.now += 1.0
            self.heartbeat.beat(state)
            self.heartbeat.has_work(marks, "lag 3")


@pytest.fixture
def stand() -> Stand:
    return Stand()


def test_a_new_heartbeat_is_starting_and_not_wedged() -> None:
    heartbeat = Heartbeat(monotonic=Clock())
    assert heartbeat.state == heartbeat.detail() == "starting"
    assert heartbeat.seconds_since() == 0.0
    assert not heartbeat.is_wedged()


def test_silence_wedges_it_and_a_beat_frees_it() -> None:
    clock = Clock()
    heartbeat = Heartbeat(monotonic=clock)
    heartbeat.beat("polling")
    clock.now += SECONDS_UNTIL_WEDGED
    assert not heartbeat.is_wedged()
    clock.now += 0.1
    assert heartbeat.is_wedged()
    assert heartbeat.detail() == "polling, has not turned for 120 s"
    heartbeat.beat("polling")
    assert not heartbeat.is_wedged()
    assert heartbeat.detail() == "polling"
    clock.now += 5
    assert heartbeat.seconds_since() == 5.0


def test_work_that_stays_as_it_is_wedges_a_loop_that_turns_and_it_says_so(stand: Stand) -> None:
    stand.turns(11, {"p0": 7})
    assert not stand.heartbeat.is_wedged()
    stand.turns(1, {"p0": 7})
    assert stand.heartbeat.is_wedged()
    assert stand.heartbeat.detail() == "polling, lag 3, no progress for 11 s"


def test_it_takes_two_tellings_to_stand_still(stand: Stand) -> None:
    stand.turns(1, {"p0": 7})
    stand.clock.now += 100.0  # nobody tells: whoever asks the servers may be waiting for one
    assert not stand.heartbeat.is_wedged()


@pytest.mark.parametrize("then", [{"p0": 8}, {}, {"p1": 7}], ids=["moved on", "done", "done, and another one"])
def test_progress_frees_it(then: dict[str, int], stand: Stand) -> None:
    stand.turns(30, {"p0": 7})
    assert stand.heartbeat.is_wedged()
    stand.turns(1, then)
    assert not stand.heartbeat.is_wedged()
    assert stand.heartbeat.detail() == "polling"


def test_a_piece_that_stands_still_is_not_excused_by_others_that_move(stand: Stand) -> None:
    for number in range(12):
        stand.turns(1, {"p0": 7, "p1": number})
    assert stand.heartbeat.is_wedged()


def test_the_time_in_which_it_waits_for_a_server_does_not_count(stand: Stand) -> None:
    stand.turns(9, {"p0": 7})
    stand.heartbeat.waits_for("PostgreSQL")
    assert stand.heartbeat.state == "waiting for PostgreSQL"
    for _ in range(20):  # as long as it waits, whatever is told of work
        stand.clock.now += 1.0
        stand.heartbeat.has_work({"p0": 7}, "lag 3")
        assert not stand.heartbeat.is_wedged()
    stand.turns(10, {"p0": 7})
    assert not stand.heartbeat.is_wedged()
    stand.turns(2, {"p0": 7})
    assert stand.heartbeat.is_wedged()


def test_without_a_clock_of_its_own_it_goes_by_the_machines() -> None:
    heartbeat = Heartbeat()
    assert 0.0 <= heartbeat.seconds_since() < 60.0
