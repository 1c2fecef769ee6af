"""Ends an aiokafka consumer for good, in bounded time, whatever state its broker is in.

With the broker away aiokafka's own `stop` may wait without end (its issue 659), and may raise a CancelledError that
nobody asked for (647), which would end the loop that awaits it; either way it leaves connections and tasks behind.
And a cancellation may be lost on the way in: `asyncio.wait_for` of Python 3.11, which it connects by, drops the one
that comes as the attempt fails, and a last commit is then tried without end. So it is cancelled until it has ended.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.consumer.group_coordinator import GroupCoordinator

_SECONDS_TO_STOP = 5.0
_SECONDS_BETWEEN_CANCELLATIONS = 0.1
_CANCELLATIONS = 10


async def stop_consumer(consumer: AIOKafkaConsumer, within: float = _SECONDS_TO_STOP) -> None:
    """Leave the group, if the broker can be told within so many seconds, and close the connections.

    Raises nothing of aiokafka's. Each of its steps has that time, and a second to be cancelled in.
    """
    if not await _ends_well(consumer.stop(), within):
        if isinstance(consumer._coordinator, GroupCoordinator):
            await _ends_well(consumer._coordinator._stop_heartbeat_task(), within)
            await _ends_well(consumer._coordinator._stop_commit_offsets_refresh_task(), within)
        if consumer._fetcher is not None:
            await _ends_well(consumer._fetcher.close(), within)
        await _ends_well(consumer._client.close(), within)


async def _ends_well(work: Coroutine[Any, Any, None], within: float) -> bool:
    """Whether it ends in time and by itself: in a task of its own, so that its cancellation is not ours."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=within)
    except asyncio.CancelledError:
        task.cancel()
        raise
    ends_by_itself = task.done()
    for _ in range(_CANCELLATIONS):
        if task.done():
            break
        task.cancel()
        await asyncio.wait({task}, timeout=_SECONDS_BETWEEN_CANCELLATIONS)
    return ends_by_itself and not task.cancelled() and task.exception() is None
