"""Long work on the event loop is done in slices, between which everything else has its turn.

Whoever waits for a server needs some turns of the loop before it can ask the next thing: one in which the answer is
read, one in which it wakes. If each of them came after a slice, work that nobody waits for would hold up work that
somebody waits for by several.
"""

import asyncio
from time import perf_counter

#: About as long as a server takes to answer. Shorter ones would give way more often, which takes time, too.
SLICE_SECONDS = 0.0005

_TURNS = 3


class Slices:
    """The slices of one piece of work, which asks between its steps whether the slice at hand is over."""

    def __init__(self) -> None:
        self._end = perf_counter() + SLICE_SECONDS

    @property
    def is_over(self) -> bool:
        """Whether it is time to give way."""
        return perf_counter() > self._end

    async def give_way(self) -> None:
        """Let whoever has got an answer go on and ask the next thing; then begin another slice."""
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        self._end = perf_counter() + SLICE_SECONDS
