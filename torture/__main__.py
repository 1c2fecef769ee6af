"""`python -m torture`: the long form of every scenario, and a table of what was done and found (`make torture`).

Each scenario starts servers of its own, one after the other; a seed tells again what it told before, as far as the
machine's timing lets it.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Callable, Mapping

from rich.console import Console

from torture.bad_messages import bad_messages, retried_after_a_fix
from torture.crashes import crashes
from torture.late_results import late_results
from torture.outages import long_outages
from torture.replays import replays
from torture.report import Tally, show
from torture.scale_out import scaled_out

Scenario = Callable[[int], Tally]

SCENARIOS: Mapping[str, Scenario] = {
    "crashes": lambda seed: crashes(seed, random_kills=100),
    "outages": long_outages,
    "bad-messages": lambda seed: bad_messages(seed, number=20_000, one_in=2),
    "bad-messages-one-in-ten": lambda seed: bad_messages(seed, number=2_000, one_in=10),
    "retried-after-a-fix": lambda seed: retried_after_a_fix(seed, messages=2_000),
    "scale-out": lambda seed: scaled_out(seed, rounds=5),
    "late-results": lambda seed: late_results(seed, batches=100, rounds=3),
    "replays": lambda seed: replays(seed, messages=10_000, kills=10),
}


def main() -> int:
    """Run the scenarios; the exit status is 1 if anything was lost, changed or not survived."""
    parser = argparse.ArgumentParser(prog="python -m torture", description="Real faults under real traffic.")
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help=f"some of: {', '.join(SCENARIOS)}")
    parser.add_argument("--seed", type=int, default=1, help="of the first round")
    parser.add_argument("--rounds", type=int, default=1, help="how often, each with the next seed")
    arguments = parser.parse_args()
    unknown = set(arguments.scenarios) - SCENARIOS.keys()
    if unknown:
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}; there are {', '.join(SCENARIOS)}")
    chosen = {name: run for name, run in SCENARIOS.items() if name in (arguments.scenarios or SCENARIOS)}

    console = Console(width=None if sys.stdout.isatty() else 240)
    tallies: list[Tally] = []
    failed: list[str] = []
    for seed in range(arguments.seed, arguments.seed + arguments.rounds):
        for name, run in chosen.items():
            started = time.monotonic()
            console.print(f"{name}, seed {seed} ...", highlight=False)
            try:
                tallies.append(run(seed))
            except Exception:  # noqa: BLE001 - the other scenarios are still to run; it is told, and the status is 1
                failed.append(f"{name}, seed {seed}, broke off after {time.monotonic() - started:.0f} s")
                console.print(traceback.format_exc(), markup=False, highlight=False)
    show(tallies, console)
    for line in failed:
        console.print(line, markup=False)
    return 1 if failed or any(tally.findings.faults for tally in tallies) else 0


if __name__ == "__main__":
    sys.exit(main())
