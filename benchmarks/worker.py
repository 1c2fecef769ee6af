"""A process that puts on the loads of the benchmarks, one after another, apart from the one that measures."""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Self

import asyncpg
from aiokafka.errors import KafkaError

from benchmarks.errors import LoadError
from benchmarks.figures import percentile

_TIMEOUT_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Took:
    """What came of an order: how many (rows, messages, answers), the seconds they took, and latencies in order."""

    rows: int
    seconds: float
    latencies: Sequence[float] = field(default=(), repr=False)

    def percentile(self, percent: float) -> float:
        """Of the latencies, of which there is at least one."""
        return percentile(self.latencies, percent)


class Order(ABC):
    """Something for the process to do."""

    @abstractmethod
    async def run(self) -> Took:
        """Do it."""


class Worker:
    """A process that carries out orders, one after another. It ends with the one that started it."""

    def __enter__(self) -> Self:
        context = get_context("spawn")
        self._orders, orders = context.Pipe()
        self._process = context.Process(target=_serve, args=(orders,), name="load", daemon=True)
        self._process.start()
        orders.close()
        return self

    def put(self, order: Order) -> Took:
        """Carry out an order; returns when that is done.

        Raises:
            LoadError: it could not be done, or not in time.
        """
        self._orders.send(order)
        outcome = self._orders.recv()
        if isinstance(outcome, Took):
            return outcome
        raise LoadError(outcome)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._orders.close()
        self._process.join()


def _serve(orders: Connection) -> None:
    while True:
        try:
            order: Order = orders.recv()
        except EOFError:
            return
        try:
            orders.send(asyncio.run(asyncio.wait_for(order.run(), _TIMEOUT_SECONDS)))
        except (LoadError, asyncpg.PostgresError, asyncpg.InterfaceError, KafkaError, OSError, TimeoutError) as error:
            orders.send(f"{type(order).__name__}: {type(error).__name__}: {error}")
