"""Bad messages: mutants of the real ones among live traffic, and a quarantine that is retried after a fix.

The neighbours' batches must come out as if nothing had stood beside them, and what is in quarantine byte for byte.
"""

import random
import time
from collections.abc import Iterator

from demo.traffic import traffic
from demo.wire import Message
from embedded import ApacheKafka
from torture.checker import check, wait_until_folded
from torture.mutants import mutants
from torture.report import Tally
from torture.waiting import TortureError
from torture.world import World

_CHUNK = 1000  # the shadow's mock of Kafka drops what it has not handed out beyond 5 MB
_LARGEST = 1_200_000
_TOO_FEW_BYTES = 700  # less than most messages have


def bad_messages(seed: int, *, number: int, one_in: int) -> Tally:
    """Play so many mutants, mixed one in `one_in` into live traffic, through one replica that is never restarted."""
    started = time.monotonic()
    tally = Tally("bad messages", seed)
    with _WorldOfLargeMessages(seed, messages=_mixed(seed, number, one_in)) as world:
        replica = world.replica()
        replica.start()
        while world.feed.play(_CHUNK):
            world.feed.settle()
            wait_until_folded(world)
        tally.faults["mutant"] = number
        tally.findings = check(world)
        if not replica.is_running:
            raise TortureError(f"the service has ended\n{replica.log_tail()}")
    tally.seconds = time.monotonic() - started
    return tally


def retried_after_a_fix(seed: int, *, messages: int) -> Tally:
    """Good messages go to quarantine, because MAX_MESSAGE_BYTES is too small; it is mended, and they are retried."""
    started = time.monotonic()
    tally = Tally("retried after a fix", seed)
    with World(seed, messages=traffic(seed=seed, batches=messages, run="mended", broken=False)) as world:
        replica = world.replica(MAX_MESSAGE_BYTES=str(_TOO_FEW_BYTES))
        replica.start()
        world.feed.play(messages)
        world.feed.settle()
        wait_until_folded(world)
        replica.stop()
        del replica.settings["MAX_MESSAGE_BYTES"]
        tally.faults["message refused"] = sum(len(each.value or b"") > _TOO_FEW_BYTES for each in world.feed.played)
        replica.start()
        replica.run_command("quarantine", "retry", "--all")
        tally.findings = check(world)
    tally.seconds = time.monotonic() - started
    return tally


class _WorldOfLargeMessages(World):
    def make_kafka(self) -> ApacheKafka:
        settings = {"message.max.bytes": str(16 * 1024 * 1024)}
        return ApacheKafka(self.folder / "kafka", auto_create_topics=False, settings=settings)


def _mixed(seed: int, number: int, one_in: int) -> Iterator[Message]:
    """Mutants among traffic; where they stand is drawn, so that it is at heads, in middles and at ends of polls."""
    source = random.Random(f"mixed/{seed}")
    healthy = traffic(seed=seed, batches=number * one_in, run="neighbours", broken=False)
    for mutant in mutants(seed, number):
        if mutant.value is not None and len(mutant.value) > _LARGEST:
            continue  # for a broker; the database has seen it in another test
        for _ in range(source.randint(0, 2 * (one_in - 1))):
            yield next(healthy)
        yield mutant.message
