"""Waiting for a condition within a bound: a test never sleeps for a time that somebody guessed."""

import asyncio
import contextlib
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar, overload

T = TypeVar("T")

_INTERVAL_SECONDS = 0.02
_TICK_SECONDS = 0.005


@overload
async def eventually(probe: Callable[[], Awaitable[T]], *, within: float = ..., what: str | None = ...) -> T: ...


@overload
async def eventually(probe: Callable[[], T], *, within: float = ..., what: str | None = ...) -> T: ...


async def eventually(
    probe: Callable[[], T] | Callable[[], Awaitable[T]], *, within: float = 10.0, what: str | None = None
) -> T:
    """The first true value that `probe`, a plain function or an async one, returns within so many seconds.

    A probe may also assert: an AssertionError means "not yet", and the last one is the cause of the final failure.

    Raises:
        AssertionError: the condition did not come true in time.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while True:
        value: T | None = None
        failure: AssertionError | None = None
        try:
            result = probe()
            value = await result if inspect.isawaitable(result) else result
        except AssertionError as error:
            failure = error
        if value:
            return value
        if loop.time() >= deadline:
            seen = "it failed" if failure is not None else f"it was {value!r}"
            raise AssertionError(f"not within {within:g} s: {what or _name(probe)}; at last {seen}") from failure
        await asyncio.sleep(_INTERVAL_SECONDS)


@dataclass
class Wait:
    """How long somebody has been kept waiting, in ticks of the event loop."""

    ticks: int = 0

    @property
    def seconds(self) -> float:
        return self.ticks * _TICK_SECONDS


@contextlib.asynccontextmanager
async def kept_waiting() -> AsyncIterator[Wait]:
    """Time within the block in which the event loop had time.

    A bound on what somebody waits for is a bound on this: a machine that stands still for a second, or is busy with
    other things, lets no tick of the loop pass meanwhile. It is never more than the clock says.
    """
    wait = Wait()

    async def tick() -> None:
        while True:
            await asyncio.sleep(_TICK_SECONDS)
            wait.ticks += 1

    ticking = asyncio.create_task(tick())
    try:
        yield wait
    finally:
        ticking.cancel()


def _name(probe: object) -> str:
    return getattr(probe, "__qualname__", repr(probe))
