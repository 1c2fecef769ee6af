"""How large the service's process is: idle, with a backlog that holds messages of 1 MB, and over a time of load."""

import time
from collections.abc import Sequence
from itertools import islice

from benchmarks.deployment import Deployment, deployed, resident_mib
from benchmarks.finding import Finding, Findings
from benchmarks.report import Terminal
from benchmarks.stage import Stage
from benchmarks.steady import Visible
from benchmarks.worker import Worker
from demo.traffic import traffic
from demo.wire import Message

_LARGE_BYTES = 990_000  # as much as Kafka's clients send by default
_EVENTS_A_SECOND = 500


def measure(servers: Stage, quick: bool, report: Terminal) -> list[Finding]:
    """Start the service and let it take in a backlog, in each round; then put a load on the last one.

    Raises:
        ServerError, PlayerError: a server did not start, or did not do its part.
        LoadError, BenchmarkError: something else than what was to be measured came out.
    """
    rounds, idle, backlog, large = (1, 1.0, 2_000, 20) if quick else (2, 15.0, 50_000, 500)
    slices, seconds = (3, 1.0) if quick else (20, 30.0)
    found = Findings()
    with Worker() as worker:
        for number in range(1, rounds + 1):
            messages = with_large_ones(f"memory-{number}", backlog, large)
            with deployed(servers) as deployment:
                time.sleep(idle)
                found.add("idle", "MiB", resident_mib(deployment.service))
                deployment.take_in(messages)
                found.add("most, with a backlog of small and large messages", "MiB", _most(deployment))
                found.add("after it", "MiB", resident_mib(deployment.service))
                if number == rounds:
                    _over_time(worker, deployment, slices, seconds, found, report)
            report.say(f"Round {number} of {rounds}")
    return found.over_rounds()


def _most(deployment: Deployment) -> float:
    return resident_mib(deployment.service, most=True)


def _over_time(
    worker: Worker, deployment: Deployment, slices: int, seconds: float, found: Findings, report: Terminal
) -> None:
    sizes = []
    for number in range(slices):
        worker.put(
            Visible(
                bootstrap_servers=deployment.servers.kafka.bootstrap_servers,
                run_label=f"load-{number}",
                messages_per_second=_EVENTS_A_SECOND,
                seconds=seconds,
                port=deployment.service.port,
                headers=deployment.servers.credentials,
            )
        )
        sizes.append(resident_mib(deployment.service))
    report.say(f"Resident MiB every {seconds:g} s of load: {' '.join(f'{size:.0f}' for size in sizes)}")
    tenth = max(1, slices // 10)
    first, last = (sum(some) / tenth for some in (sizes[:tenth], sizes[-tenth:]))
    found.add(f"{_EVENTS_A_SECOND} events/s, first tenth of {slices * seconds:g} s", "MiB", first)
    found.add(f"{_EVENTS_A_SECOND} events/s, last tenth", "MiB", last)
    found.add("most of all", "MiB", _most(deployment))


def with_large_ones(run: str, messages: int, large: int) -> Sequence[Message]:
    """Traffic in which some messages, evenly spread, are made large by a field that nobody asked for."""
    made = list(islice(traffic(batches=messages, run=run, broken=False), messages))
    for number in range(0, messages, messages // large):
        made[number] = _padded(made[number])
    return made


def _padded(message: Message) -> Message:
    value = message.value or b"{}"
    padding = b"x" * (_LARGE_BYTES - len(value))
    return message._replace(value=value[:-1] + b',"producer_notes":"' + padding + b'"}')
