"""Watches a deployment while it is tortured: no lasting wait between transactions, and never two relays for long.

One look takes some tens of milliseconds and comes twice a second. What is read from several replicas is never of one
moment, so two relays count only if they are still two after the time a handover may take.
"""

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

import asyncpg
import httpx

from torture.replica import Replica
from torture.waiting import TortureError

RELAY_ACTIVE = "ras_outbox_relay_active"

_SECONDS_BETWEEN_LOOKS = 0.5
_SECONDS_TO_ANSWER = 1.0
#: Two relays for longer than this are two relays, and not one that hands over while we look from one to the other.
_LONGEST_HANDOVER_SECONDS = 3.0
#: Beyond the service's own time for a statement, which ends every wait, with room for a busy machine.
_LASTING_WAIT_SECONDS = 10.0
#: Beyond what PostgreSQL grants a transaction whose client has gone silent.
_LASTING_TRANSACTION_SECONDS = 15.0

_WAITS = """
    SELECT waiting.pid, left(activity.query, 120) AS query,
        extract(epoch FROM clock_timestamp() - waiting.waitstart)::float8 AS seconds
    FROM pg_locks waiting JOIN pg_stat_activity activity USING (pid)
    WHERE NOT waiting.granted AND waiting.waitstart IS NOT NULL
"""
_TRANSACTIONS = """
    SELECT pid, left(query, 120) AS query, extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds
    FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND application_name LIKE 'result-aggregator-service%'
        AND xact_start IS NOT NULL
"""
_DEADLOCKS = "SELECT deadlocks::int FROM pg_stat_database WHERE datname = current_database()"


class Watch:
    """Looks on from `with` on, in a thread of its own; `assert_quiet` tells what it did not like."""

    def __init__(self, database_url: str, askable: Callable[[], Sequence[Replica]]) -> None:
        self._database_url = database_url.replace("+asyncpg", "")
        self._askable = askable
        self._complaints: dict[str, str] = {}
        self._two_since: float | None = None
        self._ending = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._look_on()), name="watch", daemon=True)
        self.looks = 0
        self.longest_wait = 0.0
        self.longest_transaction = 0.0
        self.deadlocks = 0

    def assert_quiet(self) -> None:
        """Nothing lasting was seen.

        Raises:
            TortureError: something was, or nobody looked.
        """
        if not self.looks or self._complaints:
            raise TortureError("\n".join(self._complaints.values()) or "the watch never looked")

    async def _look_on(self) -> None:
        connection = await asyncpg.connect(self._database_url, timeout=10, command_timeout=10)
        try:
            async with httpx.AsyncClient(timeout=_SECONDS_TO_ANSWER) as client:
                while not self._ending.is_set():
                    await self._look_at_transactions(connection)
                    await self._look_at_relays(client)
                    self.looks += 1
                    await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
        finally:
            await connection.close(timeout=5)

    async def _look_at_transactions(self, connection: asyncpg.Connection) -> None:
        for row in await connection.fetch(_WAITS):
            self.longest_wait = max(self.longest_wait, row["seconds"])
            if row["seconds"] > _LASTING_WAIT_SECONDS:
                self._complain(f"wait {row['pid']}", f"waits for a lock for {row['seconds']:.1f} s: {row['query']}")
        for row in await connection.fetch(_TRANSACTIONS):
            self.longest_transaction = max(self.longest_transaction, row["seconds"])
            if row["seconds"] > _LASTING_TRANSACTION_SECONDS:
                self._complain(
                    f"transaction {row['pid']}", f"a transaction of {row['seconds']:.1f} s, last with {row['query']}"
                )
        self.deadlocks = await connection.fetchval(_DEADLOCKS)

    async def _look_at_relays(self, client: httpx.AsyncClient) -> None:
        replicas = self._askable()
        answers = await asyncio.gather(*(_is_active(client, replica) for replica in replicas))
        active = [replica.label for replica, is_active in zip(replicas, answers, strict=True) if is_active]
        now = time.monotonic()
        if len(active) < 2:
            self._two_since = None
        elif self._two_since is None:
            self._two_since = now
        elif now - self._two_since > _LONGEST_HANDOVER_SECONDS:
            self._complain(
                "relays", f"relays of {', '.join(active)} are active at once for {now - self._two_since:.1f} s"
            )

    def _complain(self, about: str, text: str) -> None:
        self._complaints[about] = text

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()


async def _is_active(client: httpx.AsyncClient, replica: Replica) -> bool:
    try:
        text = (await client.get(f"{replica.url}/metrics")).text
    except httpx.HTTPError:
        return False  # it cannot be asked
    return f"\n{RELAY_ACTIVE} 1.0\n" in text
