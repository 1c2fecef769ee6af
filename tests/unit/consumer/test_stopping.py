"""A consumer is ended for good, even one that loses a cancellation."""

import asyncio

from result_aggregator_service.consumer.stopping import stop_consumer


class _Closable:
    def __init__(self) -> None:
        self.is_closed = False

    async def close(self) -> None:
        self.is_closed = True


class _ConsumerThatLosesCancellations:
    """In place of one that is refused by its broker as it is cancelled: no server can be made to meet that moment."""

    def __init__(self, losses: int) -> None:
        self._losses = losses
        self._coordinator = None
        self._fetcher = _Closable()
        self._client = _Closable()
        self.released = asyncio.Event()
        self.has_ended = False

    async def stop(self) -> None:
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                self._losses -= 1
                if self._losses < 0:
                    break
        self.has_ended = True


async def test_a_consumer_that_loses_a_cancellation_is_cancelled_again() -> None:
    consumer = _ConsumerThatLosesCancellations(losses=2)
    await stop_consumer(consumer, within=0.01)
    assert consumer.has_ended
    assert consumer._fetcher.is_closed
    assert consumer._client.is_closed


async def test_one_that_heeds_none_does_not_hold_up_the_stop() -> None:
    consumer = _ConsumerThatLosesCancellations(losses=1000)
    async with asyncio.timeout(10):
        await stop_consumer(consumer, within=0.01)
    assert not consumer.has_ended
    assert consumer._client.is_closed
    consumer.released.set()
