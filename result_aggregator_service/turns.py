"""Long work on the event loop is done in slices, between which everything else has its turn.

Whoever waits for a server needs some turns of the loop before it can ask the next thing: one in which the answer is
read, one in which it wakes. If each of them came after a slice, work that nobody waits for would hold up work that
somebody waits for by several.
"""

import asyncio

#: What may be done before giving way: shorter than a server takes to answer, longer than a turn of the loop costs.
SLICE_SECONDS = 0.0005

_TURNS = 3


async def give_way() -> None:
    """Let whoever has got an answer go on and ask the next thing."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
