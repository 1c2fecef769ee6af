"""How soon what was produced is visible over HTTP, and how long reads take while the process takes in a backlog."""

import os
from collections.abc import Mapping
from itertools import islice

from benchmarks.deployment import Deployment, deployed
from benchmarks.figures import percentile
from benchmarks.finding import Finding, Findings
from benchmarks.read_model import FinishedBatch
from benchmarks.report import Terminal
from benchmarks.sections import BATCHES
from benchmarks.stage import Stage
from benchmarks.steady import Read, Visible
from benchmarks.worker import Worker
from demo.traffic import traffic

_RATES = (100, 500, 2_000)
_READS_A_SECOND = 100
_READ_SECONDS = 0.5
_HELD_SECONDS = "0.02"  # the bound of a bucket
_LAG = "ras_event_loop_lag"
_BUSY = "ras_event_loop_busy_max_seconds"


def measure(servers: Stage, quick: bool, report: Terminal) -> list[Finding]:
    """Take steady streams and a backlog in turn, on one deployment.

    Raises:
        ServerError, PlayerError: a server did not start, or did not do its part.
        LoadError, BenchmarkError: something else than what was to be measured came out.
    """
    rounds, seconds, backlog = (1, 1.0, 3_000) if quick else (3, 15.0, 60_000)
    found = Findings()
    with Worker() as worker, deployed(servers) as deployment:
        batch = FinishedBatch(0, 30, "freshness")
        deployment.take_in(batch.messages())
        path = f"{BATCHES}/{batch.batch_id}/status"
        for number in range(1, rounds + 1):
            for rate in _RATES:
                _steady(worker, deployment, rate, seconds, number, found)
            _beside_a_backlog(worker, deployment, path, backlog, number, found)
            report.say(f"Round {number} of {rounds}")
    return found.over_rounds()


def _steady(worker: Worker, deployment: Deployment, rate: int, seconds: float, number: int, found: Findings) -> None:
    servers = deployment.servers
    os.sync()  # what a backlog left in the page cache is not to be written while commits wait for the disk
    took = worker.put(
        Visible(
            bootstrap_servers=servers.kafka.bootstrap_servers,
            run_label=f"steady-{rate}-{number}",
            messages_per_second=rate,
            seconds=seconds,
            port=deployment.service.port,
            headers=servers.credentials,
        )
    )
    deployment.wait_until_taken_in()
    found.add(f"{rate:,} events/s: really produced", "events/s", took.rows / took.seconds)
    for percent in (50, 99):
        found.add(f"{rate:,} events/s: visible after, p{percent}", "ms", 1000 * took.percentile(percent))


def _beside_a_backlog(
    worker: Worker, deployment: Deployment, path: str, backlog: int, number: int, found: Findings
) -> None:
    servers = deployment.servers
    read = Read(deployment.service.port, servers.credentials, path, _READS_A_SECOND, _READ_SECONDS)
    messages = list(islice(traffic(batches=backlog, run=f"backlog-{number}", broken=False), backlog))
    latencies: list[float] = []
    before = deployment.metrics()
    taken = deployment.take_in(messages, lambda: latencies.extend(worker.put(read).latencies))
    after = deployment.metrics()
    latencies.sort()
    found.add("a backlog is taken in at", "messages/s", taken.messages_per_second)
    for percent in (50, 99):
        found.add(f"meanwhile a hit is read in, p{percent}", "ms", 1000 * percentile(latencies, percent))
    found.add("meanwhile the event loop lags at most", "ms", 1000 * after[f"{_LAG}_max_seconds"])
    found.add("meanwhile it computes in one lag at most", "ms", 1000 * after[_BUSY])
    found.add(f"meanwhile of its looks later than {1000 * float(_HELD_SECONDS):g} ms", "%", late(before, after))


def late(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Of the looks between two scrapes, how many found the loop held for longer; in percent."""
    looks, in_time = (
        after[name] - before[name]
        for name in (f"{_LAG}_seconds_count", f'{_LAG}_seconds_bucket{{le="{_HELD_SECONDS}"}}')
    )
    return 100 * (1 - in_time / looks)
