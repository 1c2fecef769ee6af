"""Realistic platform traffic, seeded: what the services around this one say about some dozens of batches.

The same arguments give the same messages, byte for byte and in the same order; ids are unique to seed and run label,
so that a second run against the same database meets nothing of the first.
"""

import heapq
import random
from collections.abc import Iterator, Sequence
from itertools import chain

from demo.batch import Batch
from demo.broken import BROKEN, say_broken
from demo.stories import STORIES, Story
from demo.wire import Message

_SHUFFLED_WINDOW = 350


def _life(number: int, seed: int, run: str, stories: Sequence[Story], broken: bool) -> Batch:
    """A batch with its story told."""
    batch = Batch(number, seed, run)
    stories[number % len(stories)](batch)
    if broken:
        kinds = list(BROKEN)
        if number < len(kinds):
            say_broken(batch, kinds[number])
        elif batch.rng.random() < 0.25:
            say_broken(batch, batch.rng.choice(kinds))
    return batch


def _merged(lives: Iterator[Batch]) -> Iterator[Message]:
    """All batches' messages by time of production, holding no more batches in memory than overlap."""
    waiting: list[tuple[int, int, Message]] = []
    sequence = 0
    for batch in lives:
        # Nothing of a later batch is produced before that batch's own start.
        while waiting and waiting[0][0] < batch.start:
            yield heapq.heappop(waiting)[2]
        for at, message in batch.said:
            heapq.heappush(waiting, (max(at, batch.start), sequence, message))
            sequence += 1
    while waiting:
        yield heapq.heappop(waiting)[2]


def _topics_overtaking(messages: Iterator[Message], seed: int, window: int) -> Iterator[Message]:
    """In every other window, whole topics change places; within a topic the order stays."""
    rng = random.Random(f"order/{seed}")
    held: list[Message] = []
    for message in chain(messages, (None,)):
        if message is not None:
            held.append(message)
            if len(held) < window:
                continue
        if rng.random() < 0.5:
            by_topic: dict[str, list[Message]] = {}
            for one in held:
                by_topic.setdefault(one.topic, []).append(one)
            shuffled = list(by_topic.values())
            rng.shuffle(shuffled)
            held = list(chain.from_iterable(shuffled))
        yield from held
        held = []


def traffic(
    *,
    seed: int = 1,
    batches: int = 40,
    run: str = "demo",
    stories: Sequence[Story] = STORIES,
    broken: bool = True,
    window: int = _SHUFFLED_WINDOW,
) -> Iterator[Message]:
    """The messages of `batches` batches (about 85 for each), in the order of production.

    `run` sets apart the ids of runs against one database; `stories` are told in turn, one a batch; `window` is how many
    messages are shuffled together (1: no topic overtakes another, beyond what the stories themselves hold back).
    """
    lives = (_life(number, seed, run, stories, broken) for number in range(batches))
    return _topics_overtaking(_merged(lives), seed, window)
