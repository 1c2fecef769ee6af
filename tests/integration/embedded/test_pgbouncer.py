"""The embedded PgBouncer: what its clients cannot rely on, and that it comes back."""

import asyncio

import asyncpg
import pytest

from embedded import EmbeddedPgBouncer


async def connected(url: str) -> "asyncpg.Connection[asyncpg.Record]":
    return await asyncpg.connect(url.replace("+asyncpg", ""), statement_cache_size=0, timeout=10)


async def test_clients_share_three_sessions_and_keep_one_for_a_transaction_only(
    pgbouncer: EmbeddedPgBouncer, database_url: str
) -> None:
    clients = [await connected(pgbouncer.url_for(database_url)) for _ in range(8)]

    async def pids(client: "asyncpg.Connection[asyncpg.Record]") -> list[int]:
        async with client.transaction():
            return [await client.fetchval("SELECT pg_backend_pid()") for _ in range(5)]

    await clients[0].execute("PREPARE mine AS SELECT 1")
    one, two, three = clients[1:4]
    async with one.transaction(), two.transaction(), three.transaction():
        sessions = {await client.fetchval("SELECT pg_backend_pid()") for client in (one, two, three)}
        assert len(sessions) == 3
        # One of them has the session that the first client had.
        prepared = [await client.fetchval("SELECT count(*) FROM pg_prepared_statements") for client in clients[1:4]]
        assert sorted(prepared) == [0, 0, 1]
        fourth = asyncio.create_task(pids(clients[4]))
        done, _ = await asyncio.wait({fourth}, timeout=0.2)
        assert not done
    for seen in [await fourth, *await asyncio.gather(*(pids(client) for client in clients))]:
        assert len(set(seen)) == 1
        assert set(seen) <= sessions
    for client in clients:
        await client.close()


async def test_it_comes_back_on_its_port_after_a_kill(pgbouncer: EmbeddedPgBouncer, database_url: str) -> None:
    url = pgbouncer.url_for(database_url)
    client = await connected(url)
    await asyncio.to_thread(pgbouncer.kill)
    with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError, OSError)):
        await client.fetchval("SELECT 1")
    await asyncio.to_thread(pgbouncer.start)
    client = await connected(url)
    assert await client.fetchval("SELECT 1") == 1
    await client.close()
