"""A heartbeat is wedged when it has been silent for too long, and only then."""

from result_aggregator_service.heartbeat import SECONDS_UNTIL_WEDGED, Heartbeat


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_new_heartbeat_is_starting_and_not_wedged() -> None:
    heartbeat = Heartbeat(monotonic=Clock())
    assert heartbeat.state == "starting"
    assert heartbeat.seconds_since() == 0.0
    assert not heartbeat.is_wedged()


def test_silence_wedges_it_and_a_beat_frees_it() -> None:
    clock = Clock()
    heartbeat = Heartbeat(monotonic=clock)
    clock.now += SECONDS_UNTIL_WEDGED
    assert not heartbeat.is_wedged()
    clock.now += 0.1
    assert heartbeat.is_wedged()
    heartbeat.beat("polling")
    assert not heartbeat.is_wedged()
    assert heartbeat.state == "polling"
    clock.now += 5
    assert heartbeat.seconds_since() == 5.0


def test_without_a_clock_of_its_own_it_goes_by_the_machines() -> None:
    heartbeat = Heartbeat()
    assert 0.0 <= heartbeat.seconds_since() < 60.0
