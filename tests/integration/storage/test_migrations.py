"""The migrations make the tables that the code knows, and can be taken back."""

import asyncio
import hashlib
import os
import shutil
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, bindparam, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from result_aggregator_service.domain.facets import BATCH_FACETS, ESSAY_FACETS
from result_aggregator_service.storage.batch_reader import BatchReader
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.tables import batch_results, cj_assessments, essay_results, metadata
from tests.waiting import eventually

CHECKOUT = Path(__file__).parents[3]

# Everything that a table is made of, as PostgreSQL tells it.
_SCHEMA = {
    "columns": """
        SELECT table_name, column_name, data_type, character_maximum_length, is_nullable, column_default, is_identity
        FROM information_schema.columns WHERE table_schema = 'public' AND table_name <> 'alembic_version'""",
    "indexes": """
        SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public' AND tablename <> 'alembic_version'""",
    "constraints": """
        SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid) FROM pg_constraint
        WHERE connamespace = 'public'::regnamespace AND conrelid::regclass::text <> 'alembic_version'""",
    "options": "SELECT relname, reloptions FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'"
    " AND relname <> 'alembic_version'",
    "comments": """
        SELECT objoid::regclass::text, objsubid, description FROM pg_description
        WHERE classoid = 'pg_class'::regclass AND objoid::regclass::text NOT LIKE 'pg_%'""",
}


async def alembic(url: str, *arguments: str) -> None:
    """Run Alembic as a deployment runs it."""
    status, output = await alembic_in(CHECKOUT, url, *arguments)
    assert status == 0, output


async def alembic_in(folder: Path, url: str, *arguments: str) -> tuple[int | None, str]:
    """Run Alembic on a folder's migrations; its exit status, and what it said."""
    process = await started_alembic(folder, url, *arguments)
    output, _ = await process.communicate()
    return process.returncode, output.decode()


async def started_alembic(folder: Path, url: str, *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "alembic",
        *arguments,
        cwd=folder,
        env={**os.environ, "DATABASE_URL": url, "PYTHONPATH": str(CHECKOUT)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )


async def schema(url: str) -> dict[str, list[tuple[Any, ...]]]:
    engine = create_async_engine(url, poolclass=NullPool)
    async with engine.connect() as connection:
        told = {
            part: sorted((tuple(row) for row in await connection.execute(text(query))), key=repr)
            for part, query in _SCHEMA.items()
        }
    await engine.dispose()
    return told


async def test_migrations_go_up_down_to_nothing_and_up_again(empty_database_url: str) -> None:
    await alembic(empty_database_url, "upgrade", "head")
    once = await schema(empty_database_url)
    assert once["columns"]
    await alembic(empty_database_url, "downgrade", "base")
    assert await schema(empty_database_url) == {part: [] for part in once}
    await alembic(empty_database_url, "upgrade", "head")
    assert await schema(empty_database_url) == once


async def test_a_migration_that_cannot_have_its_lock_keeps_nobody_waiting_and_tries_again(
    empty_database_url: str,
) -> None:
    await alembic(empty_database_url, "upgrade", "0002")
    engine = create_async_engine(empty_database_url, poolclass=NullPool)
    read = text("SELECT count(*) FROM batch_results")
    waiting = text("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'batch_results'::regclass")
    async with engine.connect() as long_reader, engine.connect() as watcher, engine.connect() as reader:
        await long_reader.execute(read)
        migrating = asyncio.create_task(alembic_in(CHECKOUT, empty_database_url, "upgrade", "head"))

        async def migration_waits() -> bool:
            assert not migrating.done(), migrating.result()
            found: int = await watcher.scalar(waiting) or 0
            await watcher.rollback()
            return found == 1

        await eventually(migration_waits, within=60, what="a migration that waits for its lock")
        await asyncio.wait_for(reader.execute(read), 60)  # behind the migration, which lets it pass
        assert not migrating.done(), migrating.result()
        await reader.rollback()
        await long_reader.rollback()
    status, said = await asyncio.wait_for(migrating, 90)
    assert status == 0, said
    assert "a table is in use: trying again in " in said
    await engine.dispose()


async def test_a_run_waits_until_no_other_one_migrates(empty_database_url: str) -> None:
    engine = create_async_engine(empty_database_url, poolclass=NullPool)
    lock = int.from_bytes(hashlib.sha256(b"result-aggregator-service/migrations").digest()[:8], "big", signed=True)
    async with engine.connect() as other_run, engine.connect() as watcher:
        await other_run.execute(text(f"SELECT pg_advisory_xact_lock({lock})"))
        migrating = await started_alembic(CHECKOUT, empty_database_url, "upgrade", "head")
        assert migrating.stdout is not None
        said = b""
        while b"another run migrates: trying again in " not in said:
            line = await asyncio.wait_for(migrating.stdout.readline(), 60)
            assert line, said.decode()
            said += line
        assert await watcher.scalar(text("SELECT to_regclass('alembic_version')")) is None
        await other_run.rollback()
    rest, _ = await asyncio.wait_for(migrating.communicate(), 90)
    assert migrating.returncode == 0, (said + rest).decode()
    await engine.dispose()


async def test_an_index_that_was_left_invalid_half_way_is_made_anew(database_url: str, tmp_path: Path) -> None:
    shutil.copytree(CHECKOUT / "alembic", tmp_path / "alembic")
    shutil.copy(CHECKOUT / "alembic.ini", tmp_path)
    versions = tmp_path / "alembic" / "versions"
    head = max(path.name[:4] for path in versions.glob("*.py"))
    (versions / "9999_an_index.py").write_text(
        "from alembic import op\n"
        f'revision, down_revision = "9999", "{head}"\n'
        "def upgrade():\n"
        "    with op.get_context().autocommit_block():\n"
        '        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_new")\n'
        '        op.execute("CREATE UNIQUE INDEX CONCURRENTLY ix_new ON pending_invalidations (batch_id)")\n'
    )
    engine = create_async_engine(database_url, poolclass=NullPool)
    valid = text("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('ix_new')")
    async with engine.begin() as connection:
        await connection.execute(text("INSERT INTO pending_invalidations (batch_id) VALUES ('b'), ('b')"))
    status, said = await alembic_in(tmp_path, database_url, "upgrade", "head")
    assert (status, "could not create unique index" in said) == (1, True), said
    async with engine.begin() as connection:
        assert await connection.scalar(valid) is False
        await connection.execute(text("DELETE FROM pending_invalidations"))
    status, said = await alembic_in(tmp_path, database_url, "upgrade", "head")
    assert status == 0, said
    async with engine.connect() as connection:
        assert await connection.scalar(valid) is True
        assert await connection.scalar(text("SELECT version_num FROM alembic_version")) == "9999"
    await engine.dispose()


async def test_rankings_outlive_the_way_up_and_down_and_the_version_before_goes_on_in_between(
    empty_database_url: str,
) -> None:
    engine = create_async_engine(empty_database_url, poolclass=NullPool)

    async def insert(*, graded: bool, **more: UUID) -> None:
        values = {"batch_id": "b", "job_id": "job", "assessed_at": datetime.now(UTC), "rankings": []}
        values |= {"graded": graded, "correlation_id": uuid4(), "announcement_id": uuid4(), **more}
        columns = [column for name, column in cj_assessments.c.items() if name in values]
        written = text(
            f"INSERT INTO cj_assessments ({', '.join(c.name for c in columns)}) "
            f"VALUES ({', '.join(f':{c.name}' for c in columns)}) ON CONFLICT DO NOTHING"
        ).bindparams(*(bindparam(c.name, type_=c.type) for c in columns))
        async with engine.begin() as connection:
            await connection.execute(written, values)

    async def forms() -> list[bool]:
        async with engine.connect() as connection:
            found = await connection.execute(text("SELECT graded FROM cj_assessments ORDER BY place"))
            return list(found.scalars())

    await alembic(empty_database_url, "upgrade", "0001")
    await insert(graded=True)
    await alembic(empty_database_url, "upgrade", "0002")
    for graded in (True, False, False):  # as the version before does: it keeps the first of each form
        await insert(graded=graded)
    assert await forms() == [True, False]
    for graded in (True, False):
        await insert(graded=graded, event_id=uuid4())
    assert await forms() == [True, False, True, False]
    await alembic(empty_database_url, "downgrade", "0001")
    assert await forms() == [True, False]
    await engine.dispose()


async def test_batches_from_before_versions_and_tallies_are_not_rewritten_but_read_all_the_same(
    empty_database_url: str,
) -> None:
    engine = create_async_engine(empty_database_url, poolclass=NullPool)

    async def run(statement: str) -> list[tuple[Any, ...]]:
        async with engine.begin() as connection:
            result = await connection.execute(text(statement))
            return [tuple(row) for row in result] if result.returns_rows else []

    async def insert(batch_id: str) -> None:
        """As the version before does."""
        await run(
            "INSERT INTO batch_results (batch_id, heard_at, created_at, registration_at, registration_event_id, "
            f"user_id, expected_essay_count, essay_ids) VALUES ('{batch_id}', now(), now(), now(), gen_random_uuid(), "
            "'teacher', 1, '[]')"
        )
        await run(
            "INSERT INTO essay_results (essay_id, batch_id, heard_at, spellcheck_at, spellcheck_event_id, "
            f"spellcheck_status) VALUES ('essay of {batch_id}', '{batch_id}', now(), now(), gen_random_uuid(), "
            "'completed')"
        )

    async def read() -> dict[str, tuple[UUID, dict[str, int] | None]]:
        """Each batch's version, and how many essays are in which stages, as a reader has them."""
        async with Database(engine).snapshot() as session:
            found = await BatchReader().summaries(session, ["b1", "b2"])
        return {s.facts.batch_id: (s.version, dict(s.tally.stages) if s.tally else None) for s in found}

    await alembic(empty_database_url, "upgrade", "0002")
    await insert("b1")
    where = "SELECT pg_relation_filenode('batch_results'), ctid::text, xmin::text FROM batch_results"
    before = await run(where)
    await alembic(empty_database_url, "upgrade", "0003")
    assert await run(where) == before
    await insert("b2")
    nil, counted = UUID(int=0), {"c----": 1}
    migrated = await read()
    assert migrated["b1"] == (nil, counted)
    assert migrated["b2"][0] != nil
    assert migrated["b2"][1] == counted
    await run("UPDATE batch_results SET version = gen_random_uuid(), tally = NULL")
    healed = await read()
    assert len({nil, migrated["b2"][0], healed["b1"][0], healed["b2"][0]}) == 4
    assert [stages for _, stages in healed.values()] == [counted, counted]
    await engine.dispose()


async def test_there_is_nothing_left_to_migrate(database_url: str) -> None:
    def differences(connection: Connection) -> Any:
        options = {"compare_type": True, "compare_server_default": True}
        return compare_metadata(MigrationContext.configure(connection, opts=options), metadata)

    engine = create_async_engine(database_url, poolclass=NullPool)
    async with engine.connect() as connection:
        assert await connection.run_sync(differences) == []
    await engine.dispose()


async def test_the_migrations_make_exactly_the_tables_that_the_code_knows(
    database_url: str, empty_database_url: str
) -> None:
    engine = create_async_engine(empty_database_url, poolclass=NullPool)
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    await engine.dispose()
    migrated, known = await schema(database_url), await schema(empty_database_url)
    for part, rows in known.items():
        assert migrated[part] == rows, part


async def test_a_new_database_has_its_one_row_of_state(database_url: str) -> None:
    engine = create_async_engine(database_url, poolclass=NullPool)
    async with engine.connect() as connection:
        rows = (await connection.execute(text("SELECT id, caught_up_seconds, caught_up FROM service_state"))).all()
    await engine.dispose()
    assert [tuple(row) for row in rows] == [(1, 0.0, False)]


def test_every_field_of_a_facet_has_its_column() -> None:
    for table, facets in ((batch_results, BATCH_FACETS), (essay_results, ESSAY_FACETS)):
        columns = [column for facet in facets for column in facet.columns()]
        assert set(columns) <= set(table.columns.keys())
        assert len(columns) == len(set(columns))
