"""The rules of docs/migrations.md, as far as they can be seen in the SQL of a migration."""

import re
from collections.abc import Collection, Iterator
from io import StringIO
from types import ModuleType

from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

#: From here on the rules hold; what came before has been run everywhere.
FIRST_LINTED = "0006"

_TAKES_AWAY = [
    (r"\bDROP (?!NOT NULL)", "takes something away"),
    (r"\b(RENAME|SET SCHEMA)\b", "renames"),
    (r"\bSET NOT NULL", "lets a column be NULL no more"),
]
"""What only a contract step may do: the release before may still use it."""

_ADDS_COLUMN = r"\bADD (?!CONSTRAINT\b|CHECK\b|UNIQUE\b|PRIMARY\b|FOREIGN\b|EXCLUDE\b)"
_CONSTANT = r"\(?(''|[-+]?[\d.]|(true|false|null|current_timestamp)\b|now\(\))"

_BLOCKS = [
    (
        r"\bALTER (COLUMN )?\S+ (SET DATA )?TYPE\b",
        "changes a type: add a column, fill it, and take the old one away later",
    ),
    (rf"{_ADDS_COLUMN}(?!.*\bDEFAULT\b).*\bNOT NULL\b", "adds a column NOT NULL without a default"),
    (
        rf"{_ADDS_COLUMN}.*\b(DEFAULT (?!{_CONSTANT})|GENERATED\b|(big|small)?serial\b)",
        "adds a column with a default that differs by row",
    ),
    (rf"{_ADDS_COLUMN}.*\b(CHECK|UNIQUE|PRIMARY KEY|REFERENCES)\b", "adds a column with a constraint"),
    (r"CREATE (UNIQUE )?INDEX (?!CONCURRENTLY)", "makes an index without CONCURRENTLY"),
    (r"\bADD (CONSTRAINT \S+ )?(CHECK|FOREIGN KEY)\b(?!.*NOT VALID)", "adds a constraint without NOT VALID"),
    (r"\bADD (CONSTRAINT \S+ )?(UNIQUE|PRIMARY KEY|EXCLUDE)\b(?!.*USING INDEX)", "adds a key without USING INDEX"),
    (
        r"^(VACUUM\b.*\bFULL|CLUSTER|REINDEX(?!.*CONCURRENTLY)|LOCK|TRUNCATE)\b"
        r"|\bSET (TABLESPACE|LOGGED|UNLOGGED|ACCESS METHOD)\b",
        "locks a table for as long as it takes",
    ),
    (
        r"^(WITH .*)?\b(UPDATE|DELETE FROM|MERGE INTO|INSERT INTO .*SELECT)\b",
        "changes rows: do so in batches, apart from the migration",
    ),
    (r"^(DO|CALL)\b", "hides what it does"),
]
"""What no step may do on a table that is in use."""

_NOT_SQL = re.compile(r"'(?:[^']|'')*'|\$(\w*)\$.*?\$\1\$|--[^\n]*|/\*.*?\*/", re.DOTALL)
_ACTIONS = re.compile(r"(ALTER TABLE (?:IF EXISTS )?(?:ONLY )?\S+ )(.*)", re.IGNORECASE)
_MAKES_INDEX = re.compile(r"CREATE (?:UNIQUE )?INDEX CONCURRENTLY (?:IF NOT EXISTS )?(\S+)", re.IGNORECASE)
_DROPS_INDEX = re.compile(r"DROP INDEX CONCURRENTLY IF EXISTS (\S+)", re.IGNORECASE)
_MAKES_TABLE = re.compile(r"CREATE TABLE (?!IF\b)(\S+)", re.IGNORECASE)
_ON_TABLE = re.compile(r"(?:CREATE .* ON|ALTER TABLE|INSERT INTO|UPDATE) ([^\s(]+)", re.IGNORECASE)


def statements_of(migration: ModuleType) -> list[str]:
    """The SQL of a migration's way up: a statement a line, an ALTER TABLE for each action, literals empty."""
    written = StringIO()
    context = MigrationContext.configure(dialect_name="postgresql", opts={"as_sql": True, "output_buffer": written})
    with Operations.context(context):
        migration.upgrade()
    plain = _NOT_SQL.sub(lambda found: "''" if found[0][0] in "'$" else " ", written.getvalue())
    statements = (" ".join(statement.split()) for statement in plain.split(";"))
    return [one for statement in statements if statement for one in _one_by_one(statement)]


def _one_by_one(statement: str) -> Iterator[str]:
    if (altering := _ACTIONS.fullmatch(statement)) is None:
        yield statement
        return
    for action in re.split(r", (?![^(]*\))", altering[2]):
        yield altering[1] + action


def broken_rules(migration: ModuleType, released: Collection[str]) -> list[str]:
    """What a migration does that it may not, in words; empty if it keeps the rules, as of the versions `released`."""
    since = getattr(migration, "CONTRACTS_AFTER", None)
    broken: list[str] = []
    if since is not None and since not in released:
        broken.append(f"CONTRACTS_AFTER names no release that is out: {since!r}")
    rules = _BLOCKS if since is not None else _BLOCKS + _TAKES_AWAY
    statements = statements_of(migration)
    made_anew = {match[1] for statement in statements if (match := _MAKES_INDEX.match(statement))}
    new_tables: set[str] = set()
    dropped: set[str] = set()
    for statement in statements:
        if table := _MAKES_TABLE.match(statement):
            new_tables.add(table[1])
        if (on := _ON_TABLE.match(statement)) and on[1] in new_tables:
            continue  # nobody uses a table that this migration has made
        if (index := _DROPS_INDEX.fullmatch(statement)) and index[1] in made_anew:
            dropped.add(index[1])
            continue
        broken += [f"{why}: {statement}" for rule, why in rules if re.search(rule, statement, re.IGNORECASE)]
        if (index := _MAKES_INDEX.match(statement)) and index[1] not in dropped:
            broken.append(f"does not drop first what a run that broke off left of the index: {statement}")
    return broken
