"""A migration that would stop the service, or the release before, is refused here."""

import re
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.script import ScriptDirectory

from alembic import op
from tests.servers import CHECKOUT
from tests.unit.storage.migration_rules import FIRST_LINTED, broken_rules

RELEASED = {"1.4.0"}


def migration(*statements: str, **declared: Any) -> ModuleType:
    """One that runs these statements."""
    module = ModuleType("migration")

    def upgrade() -> None:
        for statement in statements:
            if "CONCURRENTLY" in statement:
                with op.get_context().autocommit_block():
                    op.execute(statement)
            else:
                op.execute(statement)

    module.__dict__.update(declared, upgrade=upgrade)
    return module


def test_every_migration_from_now_on_keeps_the_rules() -> None:
    scripts = ScriptDirectory(str(CHECKOUT / "alembic")).walk_revisions()
    found = {script.revision: script.module for script in scripts}
    assert "0005" in found
    released = set(re.findall(r"^## \[(\d\S*)\]", (CHECKOUT / "CHANGELOG.md").read_text(), re.MULTILINE))
    assert "1.0.0" in released
    assert {
        number: broken
        for number, module in found.items()
        if number >= FIRST_LINTED and (broken := broken_rules(module, released))
    } == {}


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("DROP TABLE inbox", "takes something away"),
        ("ALTER TABLE inbox DROP COLUMN topic", "takes something away"),
        ("ALTER TABLE inbox DROP topic", "takes something away"),
        ("ALTER TABLE inbox DROP CONSTRAINT pk_inbox", "takes something away"),
        ("ALTER TABLE inbox ALTER topic DROP DEFAULT", "takes something away"),
        ("drop\nindex concurrently if exists ix", "takes something away"),
        ("DROP VIEW inbox_by_day", "takes something away"),
        ("ALTER TABLE inbox RENAME COLUMN topic TO subject", "renames"),
        ("ALTER TABLE inbox RENAME TO post", "renames"),
        ("ALTER TABLE inbox ALTER COLUMN topic SET NOT NULL", "lets a column be NULL no more"),
    ],
)
def test_only_a_contract_step_takes_away(statement: str, why: str) -> None:
    [broken] = broken_rules(migration(statement), RELEASED)
    assert broken.startswith(why)
    assert broken_rules(migration(statement, CONTRACTS_AFTER="1.4.0"), RELEASED) == []
    [broken] = broken_rules(migration(statement, CONTRACTS_AFTER="1.5.0"), RELEASED)
    assert broken == "CONTRACTS_AFTER names no release that is out: '1.5.0'"


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("ALTER TABLE inbox ALTER COLUMN topic TYPE bigint", "changes a type"),
        ("alter table inbox alter topic set data type bigint", "changes a type"),
        ("ALTER TABLE inbox ADD COLUMN x int NOT NULL", "adds a column NOT NULL"),
        ("alter table inbox\n  add x int\n  not null", "adds a column NOT NULL"),
        ("ALTER TABLE inbox ADD x int DEFAULT 0, ADD y numeric(9, 2) NOT NULL", "adds a column NOT NULL"),
        ("ALTER TABLE inbox ADD COLUMN x uuid DEFAULT gen_random_uuid() NOT NULL", "adds a column with a default that"),
        ("ALTER TABLE inbox ADD COLUMN x uuid DEFAULT uuidv7()", "adds a column with a default that"),
        ("ALTER TABLE inbox ADD COLUMN x bigserial", "adds a column with a default that"),
        ("ALTER TABLE inbox ADD x int GENERATED ALWAYS AS IDENTITY", "adds a column with a default that"),
        ("ALTER TABLE inbox ADD COLUMN x text UNIQUE", "adds a column with a constraint"),
        ("ALTER TABLE inbox ADD COLUMN x int CHECK (x > 0)", "adds a column with a constraint"),
        ("ALTER TABLE inbox ADD COLUMN x int REFERENCES post", "adds a column with a constraint"),
        ("CREATE INDEX ix ON inbox (topic)", "makes an index without"),
        ("create unique index\nix on inbox (topic)", "makes an index without"),
        ("ALTER TABLE inbox ADD CONSTRAINT c CHECK (topic <> '')", "adds a constraint without NOT VALID"),
        ("ALTER TABLE inbox ADD CHECK (x > 0), ADD CHECK (y > 0) NOT VALID", "adds a constraint without NOT VALID"),
        ("ALTER TABLE inbox ADD FOREIGN KEY (x) REFERENCES post", "adds a constraint without NOT VALID"),
        ("ALTER TABLE inbox ADD CONSTRAINT c UNIQUE (topic)", "adds a key without USING INDEX"),
        ("CREATE INDEX CONCURRENTLY ix ON inbox (topic)", "does not drop first"),
        ("/* all of it */ TRUNCATE inbox", "locks a table"),
        ("LOCK inbox", "locks a table"),
        ("VACUUM (FULL) inbox", "locks a table"),
        ("ALTER TABLE inbox SET UNLOGGED", "locks a table"),
        ("UPDATE inbox SET topic = 'x' WHERE true", "changes rows"),
        ("with old as (select id from inbox) delete from inbox using old", "changes rows"),
        ("INSERT INTO post SELECT * FROM inbox", "changes rows"),
        ("DO $$ BEGIN UPDATE inbox SET topic = 'x'; END $$", "hides what it does"),
    ],
)
def test_what_blocks_the_service_is_refused_to_every_step(statement: str, why: str) -> None:
    for declared in ({}, {"CONTRACTS_AFTER": "1.4.0"}):
        [broken] = broken_rules(migration(statement, **declared), RELEASED)
        assert broken.startswith(why)


@pytest.mark.parametrize(
    "statements",
    [
        ("ALTER TABLE inbox ADD COLUMN x int",),
        ("ALTER TABLE inbox ADD COLUMN x int DEFAULT 0 NOT NULL",),
        ("ALTER TABLE inbox ADD x jsonb DEFAULT '{}'::jsonb NOT NULL, ADD y timestamptz DEFAULT now() NOT NULL",),
        ("ALTER TABLE inbox ALTER COLUMN x DROP NOT NULL",),
        ("DROP INDEX CONCURRENTLY IF EXISTS ix", "CREATE INDEX CONCURRENTLY ix ON inbox (topic)"),
        ("ALTER TABLE inbox ADD CONSTRAINT c CHECK (topic <> '') NOT VALID",),
        ("ALTER TABLE inbox VALIDATE CONSTRAINT c",),
        ("ALTER TABLE inbox ADD CONSTRAINT c UNIQUE USING INDEX ix",),
        ("CREATE TABLE post (id int PRIMARY KEY)", "CREATE INDEX ix ON post(id)", "INSERT INTO post SELECT 1"),
        ("ALTER TABLE inbox SET (fillfactor = 50)",),
        ("INSERT INTO post VALUES (1)",),
        ("COMMENT ON TABLE inbox IS 'it''s; DROP TABLE would take it away'",),
    ],
)
def test_what_only_expands_is_let_pass(statements: tuple[str, ...]) -> None:
    assert broken_rules(migration(*statements), RELEASED) == []


def test_a_table_in_use_is_not_taken_for_a_new_one() -> None:
    statements = ("DROP TABLE inbox", "CREATE TABLE IF NOT EXISTS post (id int)", "CREATE INDEX ix ON post (id)")
    assert [
        broken.split(":")[0] for broken in broken_rules(migration(*statements, "CREATE TABLE inbox ()"), RELEASED)
    ] == [
        "takes something away",
        "makes an index without CONCURRENTLY",
    ]


def test_what_alembic_writes_by_itself_is_seen_as_well() -> None:
    module = ModuleType("migration")

    def upgrade() -> None:
        op.add_column("inbox", sa.Column("x", sa.Integer(), nullable=False))
        op.alter_column("inbox", "topic", type_=sa.BigInteger())
        op.create_index("ix", "inbox", ["x"])
        with op.batch_alter_table("inbox") as table:
            table.create_foreign_key("fk", "post", ["x"], ["id"])
            table.drop_column("topic")
        op.execute(sa.update(sa.table("inbox", sa.column("x"))).values(x=1))

    module.__dict__.update(upgrade=upgrade)
    assert [broken.split(":")[0] for broken in broken_rules(module, RELEASED)] == [
        "adds a column NOT NULL without a default",
        "changes a type",
        "makes an index without CONCURRENTLY",
        "adds a constraint without NOT VALID",
        "takes something away",
        "changes rows",
    ]
