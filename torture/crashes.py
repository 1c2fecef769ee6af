"""Crashes: the service is killed at each failpoint and at moments drawn at random, under load, and started again.

Nothing but the process is at fault here; SIGKILL leaves it no moment to tidy up.
"""

import signal
import time
from collections.abc import Sequence

from result_aggregator_service.failpoints import Failpoint
from torture.checker import check
from torture.replica import Replica
from torture.report import Tally
from torture.waiting import TortureError
from torture.world import GRACE_SECONDS, World

_BURST = 100  # messages: a batch, more or less
_SECONDS_BETWEEN_BURSTS = GRACE_SECONDS + 2  # long enough for a grace to run out in between
_BURSTS_TO_REACH = 20
_LONGEST_LIFE_SECONDS = 3.0


def crashes(seed: int, *, failpoints: Sequence[Failpoint] = tuple(Failpoint), random_kills: int) -> Tally:
    """Kill the service at each of these failpoints, in an order drawn by the seed, and so often at any moment.

    Raises:
        TortureError: a failpoint was never reached, or something else ended the process.
    """
    started = time.monotonic()
    tally = Tally("crashes", seed)
    with World(seed) as world:
        replica = world.replica()
        kills: list[Failpoint | None] = [*failpoints, *[None] * random_kills]
        for failpoint in world.random.sample(kills, len(kills)):
            world.feed.play(_BURST)
            if failpoint is None:
                replica.start_unawaited()
                time.sleep(world.random.uniform(0.0, _LONGEST_LIFE_SECONDS))
                replica.kill()
                tally.faults["kill at a random moment"] += 1
            else:
                replica.start_unawaited(FAILPOINTS=f"{failpoint}=kill")
                _await_kill(world, replica, failpoint)
                tally.faults[f"kill at {failpoint}"] += 1
        replica.start_unawaited()
        tally.findings = check(world)
    tally.seconds = time.monotonic() - started
    return tally


def _await_kill(world: World, replica: Replica, failpoint: Failpoint) -> None:
    """Give it traffic until it dies."""
    status = None
    for _ in range(_BURSTS_TO_REACH):
        status = replica.death_within(_SECONDS_BETWEEN_BURSTS)
        if status is not None:
            break
        world.feed.play(_BURST)
    if status is None:
        raise TortureError(f"the failpoint {failpoint} is never reached\n{replica.log_tail()}")
    if status != -signal.SIGKILL or f"failpoint {failpoint} reached" not in replica.log_tail():
        raise TortureError(f"not killed at {failpoint} but ended with {status}\n{replica.log_tail()}")
