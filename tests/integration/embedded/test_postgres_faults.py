"""The faults that the embedded PostgreSQL can be given: a failover to read-only, and a full disk."""

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from embedded import EmbeddedPostgres, ServerError
from tests.servers import CHECKOUT, leave_out_for
from tests.waiting import eventually

SMALL_DISK_BYTES = 40 << 20
ROWS = "INSERT INTO memory SELECT n, repeat('x', 1000) FROM generate_series($1::int, $2::int) n"


@asynccontextmanager
async def connected(server: EmbeddedPostgres) -> AsyncIterator["asyncpg.Connection[asyncpg.Record]"]:
    connection = await asyncpg.connect(server.url.replace("+asyncpg", ""))
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


async def remember(server: EmbeddedPostgres, first: int, last: int) -> None:
    async with connected(server) as connection:
        await connection.execute("CREATE TABLE IF NOT EXISTS memory (number int PRIMARY KEY, text text)")
        await connection.execute(ROWS, first, last)


async def remembered(server: EmbeddedPostgres) -> int:
    async with connected(server) as connection:
        return int(await connection.fetchval("SELECT count(*) FROM memory"))


async def test_a_standby_reads_and_refuses_writes_until_it_is_promoted(own_postgres: EmbeddedPostgres) -> None:
    port = own_postgres.port
    await remember(own_postgres, 1, 3)
    with pytest.raises(ServerError, match="not in standby mode"):
        own_postgres.promote()

    # Twice, as a promotion begins a new timeline.
    for number in (4, 5):
        own_postgres.restart_read_only()
        assert own_postgres.port == port
        # Of itself it stays one.
        own_postgres.kill()
        own_postgres.start()
        own_postgres.stop()
        own_postgres.start()
        async with connected(own_postgres) as connection:
            assert await connection.fetchval("SELECT count(*) FROM memory") == number - 1
            with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
                await connection.execute(ROWS, number, number)
            own_postgres.promote()
            # On the connection that the promotion found.
            await connection.execute(ROWS, number, number)
    assert await remembered(own_postgres) == 5


async def test_on_a_full_disk_what_grows_a_table_fails_even_after_a_crash_until_there_is_room(own_folder: Path) -> None:
    leave_out_for(EmbeddedPostgres.why_no_small_disk())
    with EmbeddedPostgres(own_folder / "postgres", durable=False, small_disk=SMALL_DISK_BYTES) as server:
        await remember(server, 1, 1000)
        assert 0 < server.free_disk_bytes < SMALL_DISK_BYTES
        server.fill_disk()
        assert server.free_disk_bytes == 0

        for end in (None, server.kill, server.stop):
            if end is not None:
                end()
                server.start()
            async with connected(server) as connection:
                with pytest.raises(asyncpg.DiskFullError):
                    await connection.execute(ROWS, 1001, 3000)
                # The connection is as good as before.
                assert await connection.fetchval("SELECT count(*) FROM memory") == 1000

        server.free_disk()
        await remember(server, 1001, 3000)
        assert await remembered(server) == 3000


def test_a_server_without_a_small_disk_says_so(own_folder: Path) -> None:
    with pytest.raises(ServerError, match="no small disk"):
        EmbeddedPostgres(own_folder).fill_disk()


def mounts() -> str:
    return Path("/proc/self/mounts").read_text()


PARENT = """
    import sys
    from pathlib import Path
    from embedded import EmbeddedPostgres

    with EmbeddedPostgres(Path(sys.argv[1]), small_disk=40 << 20) as postgres:
        print(postgres.pid, postgres._disk.namespace, flush=True)
        sys.stdin.read()
"""


async def test_a_small_disk_is_seen_by_nobody_else_and_does_not_outlive_a_killed_parent(own_folder: Path) -> None:
    leave_out_for(EmbeddedPostgres.why_no_small_disk())
    parent = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        textwrap.dedent(PARENT),
        str(own_folder / "postgres"),
        cwd=CHECKOUT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    inside = [Path("/proc", pid) for pid in (await parent.stdout.readline()).decode().split()]
    assert len(inside) == 2
    namespaces = {os.readlink(process / "ns" / "mnt") for process in inside}
    assert len(namespaces) == 1
    assert str(own_folder) not in mounts()

    os.kill(parent.pid, signal.SIGKILL)
    await parent.wait()

    await eventually(lambda: not namespaces & set(namespaces_in_use()), what="no process sees the disk")
    with pytest.raises(ServerError, match="small disk, which is gone"):
        EmbeddedPostgres(own_folder / "postgres").start()


def namespaces_in_use() -> Iterator[str]:
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            yield os.readlink(entry / "ns" / "mnt")
        except OSError:
            continue
