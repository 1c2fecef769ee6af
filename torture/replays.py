"""Replays: into the live tables while the service serves, killed in their midst, and into an empty database.

Nothing may be announced twice, and the rows of both databases must be those of the shadow.
"""

import subprocess
import sys
import time

from demo.stage import migrate
from torture import rows
from torture.checker import check, wait_until_folded
from torture.replica import Replica
from torture.report import Tally
from torture.waiting import TortureError, wait_until
from torture.world import World

_MESSAGES_PER_SECOND = 100.0
_REPLAY_SECONDS = 600.0
_REBUILT = "rebuilt"


def replays(seed: int, *, messages: int, kills: int) -> Tally:
    """Play messages, replay them with so many kills while more come in, then rebuild a second database.

    Raises:
        TortureError: a replay failed, or announced what had been announced.
    """
    started = time.monotonic()
    tally = Tally("replays", seed)
    with World(seed) as world:
        replica = world.replica()
        replica.start()
        world.feed.play(messages)
        world.feed.settle()
        wait_until_folded(world)
        world.feed.start(_MESSAGES_PER_SECOND)
        for _ in range(kills):
            _replay_until_killed(world, replica)
            tally.faults["replay killed"] += 1
        replica.run_command("replay", "--from-beginning")
        tally.faults["replay into the live tables"] += 1
        tally.findings = check(world)
        if tally.findings.duplicated:
            raise TortureError(f"{tally.findings.duplicated} announcements were made again by a replay")

        rows.fetch(world.database_url, f"CREATE DATABASE {_REBUILT}")
        rebuilt = world.postgres.url_for(_REBUILT)
        migrate(rebuilt, log=world.folder / "alembic-rebuilt.log")
        # Grace is over where the messages' own times say so, and all of them are of the past.
        replica.run_command("replay", "--from-beginning", "--silent", DATABASE_URL=rebuilt)
        tally.faults["replay into an empty database"] += 1
        tally.findings.differing_rows += rows.row_differences(world.shadow.database_url, rebuilt)
        if rows.unpublished(rebuilt):
            raise TortureError("a silent replay has announced something")
    tally.seconds = time.monotonic() - started
    return tally


def _replay_until_killed(world: World, replica: Replica) -> None:
    """Kill a replay once it has begun to fold."""
    log = replica.data_dir / f"replay-{time.monotonic_ns()}.log"
    with log.open("wb") as output:
        settings = {"FAILPOINTS": f"transaction.commit.after=kill@{world.random.randint(1, 3)}"}
        process = subprocess.Popen(
            [sys.executable, "-m", "result_aggregator_service", "replay", "--from-beginning"],
            env={**replica.environment(), **settings},
            cwd=replica.data_dir,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            wait_until(lambda: process.poll() is not None, within=_REPLAY_SECONDS, what="the end of a doomed replay")
        finally:
            process.kill()
            process.wait()
    if b"failpoint transaction.commit.after reached" not in log.read_bytes():
        raise TortureError(f"the replay was not killed but ended with {process.returncode}\n{log.read_text()[-2000:]}")
