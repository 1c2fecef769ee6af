"""How a drain is counted."""

from benchmarks.deployment import Cpu, TakenIn


def test_a_drain_is_told_in_messages_a_second_and_in_cpu_seconds_for_a_thousand() -> None:
    before, after = Cpu(1.0, 10.0, 100.0, 0.5), Cpu(1.4, 11.0, 100.2, 0.5)
    taken = TakenIn(2_000, seconds=4.0, cpu=after.since(before))
    assert taken.messages_per_second == 500
    told = taken.cpu_per_1000
    assert [round(each, 6) for each in (told.service, told.postgres, told.kafka, told.redis)] == [0.2, 0.5, 0.1, 0.0]
