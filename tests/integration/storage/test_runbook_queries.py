"""What the runbook has an operator ask of PostgreSQL names the session to end."""

import asyncio

import asyncpg

from result_aggregator_service.publishing.election import ELECTION_LOCK
from tests.unit.markdown import ROOT, fences_of
from tests.waiting import eventually

WHO_WAITS, WHO_PUBLISHES = (
    block for language, block in fences_of((ROOT / "docs/runbook.md").read_text()) if language == "sql"
)


async def test_a_session_that_holds_a_lock_is_named_beside_the_one_that_waits_for_it(database_url: str) -> None:
    url = database_url.replace("+asyncpg", "")
    holder, waiting, operator = [
        await asyncpg.connect(url, server_settings={"application_name": name}) for name in ("backup", "ras", "psql")
    ]
    try:
        async with holder.transaction():
            await holder.execute("LOCK TABLE batch_results")
            task = asyncio.create_task(waiting.execute("DELETE FROM batch_results"))
            [row] = await eventually(lambda: operator.fetch(WHO_WAITS))
            assert (row["pid"], row["application_name"]) == (waiting.get_server_pid(), "ras")
            assert (row["for"], row["whose"]) == (holder.get_server_pid(), "backup")
            assert row["query"] == "LOCK TABLE batch_results"
        await task
        assert await operator.fetch(WHO_WAITS) == []
    finally:
        for connection in (holder, waiting, operator):
            await connection.close()


async def test_the_session_that_holds_the_relays_lock_is_named(database_url: str) -> None:
    connection = await asyncpg.connect(database_url.replace("+asyncpg", ""))
    try:
        await connection.execute(f"SELECT pg_advisory_lock({ELECTION_LOCK})")
        assert connection.get_server_pid() in {row["pid"] for row in await connection.fetch(WHO_PUBLISHES)}
    finally:
        await connection.close()
