"""Sessions: SQLAlchemy's statements, run by the driver itself on one connection of the pool.

SQLAlchemy writes the SQL, once for each statement, and keeps the connections. What else it would do for each execution
costs several times as much as the driver does.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Any, NewType, cast

import asyncpg
import orjson
from asyncpg.prepared_stmt import PreparedStatement
from sqlalchemy import BindParameter, ClauseElement
from sqlalchemy.dialects.postgresql.asyncpg import dialect as asyncpg_dialect
from sqlalchemy.exc import MultipleResultsFound, NoResultFound
from sqlalchemy.sql.compiler import SQLCompiler

_DIALECT = asyncpg_dialect(json_serializer=lambda value: orjson.dumps(value).decode())  # type: ignore[no-untyped-call]
#: More than there are; those made for one execution only would push out each other.
_STATEMENTS = 200


class Rows:
    """What a statement gave; each row is both a tuple and a mapping of columns."""

    def __init__(self, rows: Sequence[asyncpg.Record]) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[asyncpg.Record]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def mappings(self) -> "Rows":
        """The rows, by column."""
        return self

    def all(self) -> list[asyncpg.Record]:
        """All rows, as a list."""
        return list(self._rows)

    def one(self) -> asyncpg.Record:
        """The only row.

        Raises:
            NoResultFound: there is none.
            MultipleResultsFound: there are several.
        """
        row: asyncpg.Record = _one(self._rows)
        return row

    def one_or_none(self) -> asyncpg.Record | None:
        """The only row, if there is one.

        Raises:
            MultipleResultsFound: there are several.
        """
        return _one(self._rows) if self._rows else None


class Values:
    """The first column of what a statement gave."""

    def __init__(self, values: Sequence[Any]) -> None:
        self._values = values

    def __iter__(self) -> Iterator[Any]:
        return iter(self._values)

    def all(self) -> list[Any]:
        """All of them, as a list."""
        return list(self._values)

    def one(self) -> Any:
        """The only one; raises as for a row."""
        return _one(self._values)

    def one_or_none(self) -> Any:
        """The only one, if there is one; raises as for a row."""
        return _one(self._values) if self._values else None


def _one(found: Sequence[Any]) -> Any:
    if not found:
        raise NoResultFound("nothing was found where one was needed")
    if len(found) > 1:
        raise MultipleResultsFound(f"{len(found)} were found where one was needed")
    return found[0]


class Session(ABC):
    """Runs statements, one at a time. Raises asyncpg's errors and TimeoutError."""

    async def execute(self, statement: ClauseElement, parameters: Mapping[str, Any] | None = None) -> Rows:
        """Run a statement."""
        return Rows(await self.fetch(*bound(statement, parameters)))

    async def scalars(self, statement: ClauseElement, parameters: Mapping[str, Any] | None = None) -> Values:
        """Run a statement whose first column is what is wanted."""
        return Values([row[0] for row in await self.fetch(*bound(statement, parameters))])

    async def scalar(self, statement: ClauseElement, parameters: Mapping[str, Any] | None = None) -> Any:
        """Run a statement whose only row's first column is what is wanted."""
        return (await self.scalars(statement, parameters)).one()

    @abstractmethod
    async def fetch(self, sql: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        """Run SQL as the driver takes it."""


class DriverSession(Session):
    """Runs statements on one connection.

    `prepared` holds what was prepared on it, under what `name` gives. If that is empty, PostgreSQL keeps nothing: the
    text goes with each execution, and only what it takes and returns is remembered here.
    """

    def __init__(
        self,
        driver: "asyncpg.Connection[asyncpg.Record]",
        prepared: "dict[str, PreparedStatement[asyncpg.Record]]",
        name: Callable[[], str],
    ) -> None:
        self.driver = driver
        self._prepared = prepared
        self._name = name

    async def fetch(self, sql: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        """Run SQL as the driver takes it."""
        statement = self._prepared.get(sql)
        if statement is None:
            statement = self._prepared[sql] = await self.driver.prepare(sql, name=self._name())
        return await statement.fetch(*arguments)


ReadSession = NewType("ReadSession", Session)
"""A session that reads one snapshot throughout and writes nothing."""

WriteSession = NewType("WriteSession", Session)
"""A session inside the one transaction of a unit of work; whoever is handed it neither begins nor commits."""


def bound(statement: ClauseElement, parameters: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
    """A statement's SQL as the driver takes it, and then its arguments."""
    sql, takers = _compiled(statement)
    given = parameters or {}
    return sql, *(take(given) for take in takers)


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
