"""Reads for the API: the same statements as through a session, run by the driver itself.

SQLAlchemy writes the SQL, once for each statement, and keeps the connections. What else it does for each execution
costs several times as much as the driver, and a read of the API is little else.
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache
from operator import itemgetter
from typing import Any, cast

import asyncpg
from sqlalchemy import BindParameter, ClauseElement
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.exc import MultipleResultsFound, NoResultFound
from sqlalchemy.sql.compiler import SQLCompiler

from result_aggregator_service.storage.engine import Database, ReadSession

_DIALECT = asyncpg_dialect()  # type: ignore[no-untyped-call]
#: More than there are; those made for one execution only would push out each other.
_STATEMENTS = 200


@asynccontextmanager
async def quick_snapshot(database: Database) -> AsyncIterator[ReadSession]:
    """One read-only transaction, like `Database.snapshot`: everything read in the block is of one moment.

    What is given can do of a session's work what reading takes: `execute` and `scalars`.
    """
    async with database.engine.connect() as connection:
        driver: asyncpg.Connection[asyncpg.Record] = cast(
            "asyncpg.Connection[asyncpg.Record]", (await connection.get_raw_connection()).driver_connection
        )
        try:
            async with driver.transaction(isolation="repeatable_read", readonly=True):
                yield cast(ReadSession, _QuickSession(driver))
        except BaseException:
            # Given up while it began, it would stand in a transaction of which the pool knows nothing.
            await connection.invalidate()
            raise


class Rows:
    """What a statement gave; each row is both a tuple and a mapping of columns."""

    def __init__(self, rows: Sequence[asyncpg.Record]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[asyncpg.Record]:
        return iter(self._rows)

    def mappings(self) -> Sequence[asyncpg.Record]:
        """The rows, by column."""
        return self._rows


class Values:
    """The first column of what a statement gave."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = values

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def one(self) -> Any:
        """The only one.

        Raises:
            NoResultFound: there is none.
            MultipleResultsFound: there are several.
        """
        if not self._values:
            raise NoResultFound("no row was found where one was needed")
        return self.one_or_none()

    def one_or_none(self) -> Any:
        """The only one, if there is one.

        Raises:
            MultipleResultsFound: there are several.
        """
        if len(self._values) > 1:
            raise MultipleResultsFound(f"{len(self._values)} rows were found where one was needed")
        return self._values[0] if self._values else None


class _QuickSession:
    def __init__(self, driver: "asyncpg.Connection[asyncpg.Record]") -> None:
        self._driver = driver

    async def execute(self, statement: ClauseElement, parameters: Mapping[str, Any] | None = None) -> Rows:
        """Run a statement."""
        return Rows(await self._fetch(statement, parameters))

    async def scalars(self, statement: ClauseElement, parameters: Mapping[str, Any] | None = None) -> Values:
        """Run a statement whose first column is what is wanted."""
        return Values([row[0] for row in await self._fetch(statement, parameters)])

    async def _fetch(self, statement: ClauseElement, parameters: Mapping[str, Any] | None) -> Sequence[asyncpg.Record]:
        sql, takers = _compiled(statement)
        given = parameters or {}
        return await self._driver.fetch(sql, *(take(given) for take in takers))


@lru_cache(_STATEMENTS)
def _compiled(statement: ClauseElement) -> tuple[str, Sequence[Callable[[Mapping[str, Any]], Any]]]:
    """A statement's SQL, and what takes the value of each of its places out of the parameters."""
    compiled = cast(SQLCompiler, statement.compile(dialect=_DIALECT))
    return str(compiled), [_taker(compiled.binds[name]) for name in compiled.positiontup or ()]


def _taker(bind: BindParameter[Any]) -> Callable[[Mapping[str, Any]], Any]:
    if bind.required:
        return itemgetter(bind.key)
    encode = bind.type.dialect_impl(_DIALECT).bind_processor(_DIALECT)
    value = bind.value if encode is None else encode(bind.value)
    return lambda _: value
