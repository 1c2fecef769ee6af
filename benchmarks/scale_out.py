"""Two replicas beside one, on the same cores: with messages of many batches, and of one after the other.

Two that have messages of one batch take turns at its lock. Messages are produced when all replicas have joined, as
fast as Kafka takes them; who starts when plays no part.
"""

from itertools import islice

from benchmarks.deployment import deployed
from benchmarks.finding import Finding, Findings
from benchmarks.read_model import FinishedBatch
from benchmarks.report import Terminal
from benchmarks.stage import Stage
from demo.traffic import traffic

_REPLICAS = {"one replica": 1, "two replicas": 2}


def measure(servers: Stage, quick: bool, report: Terminal) -> list[Finding]:
    """Let one and two replicas take in as many messages of the same kinds, in turn.

    Raises:
        ServerError, PlayerError: a server did not start, or did not do its part.
        BenchmarkError: the service did not take the messages in.
    """
    rounds, messages, essays, large_ones = (1, 3_000, 500, 1) if quick else (5, 60_000, 10_000, 3)
    found = Findings()
    for number in range(1, rounds + 1):
        # Whoever is first has the colder start.
        for name, replicas in list(_REPLICAS.items())[:: 1 if number % 2 else -1]:
            run = f"scale-out-{number}-{replicas}"
            of_many = list(islice(traffic(batches=messages, run=run, broken=False), messages))
            of_one = [each for large in range(large_ones) for each in FinishedBatch(large, essays, run).messages()]
            with deployed(servers, replicas=replicas) as deployment:
                for kind, some in (("many batches", of_many), ("one batch", of_one)):
                    taken = deployment.take_in(some)
                    found.add(f"{kind}, {name}", "messages/s", taken.messages_per_second)
                    found.add(f"{kind}, {name}: CPU for 1,000 of the service", "s", taken.cpu_per_1000.service)
                    found.add(f"{kind}, {name}: CPU for 1,000 of PostgreSQL", "s", taken.cpu_per_1000.postgres)
        report.say(f"Round {number} of {rounds}")
    for kind in ("many batches", "one batch"):
        found.share(f"{kind}, two replicas beside one", f"{kind}, two replicas", f"{kind}, one replica")
    return found.over_rounds()
