"""Ends an aiokafka consumer for good, in bounded time, whatever state its broker is in.

With the broker away aiokafka's own `stop` may wait without end (its issue 659), and may raise a CancelledError that
nobody asked for (647), which would end the loop that awaits it; either way it leaves connections and tasks behind.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from aiokafka import AIOKafkaConsumer

_SECONDS_TO_STOP = 5.0


async def stop_consumer(consumer: AIOKafkaConsumer) -> None:
    """Leave the group, if the broker can be told, and close the connections; raises nothing of aiokafka's."""
    if not await _ends_well(consumer.stop()):
        if consumer._fetcher is not None:
            await _ends_well(consumer._fetcher.close())
        await _ends_well(consumer._client.close())


async def _ends_well(work: Coroutine[Any, Any, None]) -> bool:
    """Whether it ends in time and by itself: in a task of its own, so that its cancellation is not ours."""
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=_SECONDS_TO_STOP)
    finally:
        task.cancel()
    await asyncio.wait({task}, timeout=1.0)
    return task.done() and not task.cancelled() and task.exception() is None
