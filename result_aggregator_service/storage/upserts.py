"""The upserts that keep facets: one statement for all rows of a table, each facet replaced only by a later clock.

Rows travel as one JSON document (`json_to_recordset`): it carries lists and absent columns that `unnest` cannot, at the
same speed, and a row is written once however many of its facets changed. Rows are sorted by key, so that two replicas
take their locks in one order.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson
from sqlalchemy import Table, TextClause, text
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from result_aggregator_service.domain.facets import Facet

_DIALECT = dialect()  # type: ignore[no-untyped-call]


def recordset(table: Table, columns: Collection[str]) -> str:
    """A FROM item that reads `:rows`, a JSON list of objects, as rows of the table's columns."""
    typed = ", ".join(f'"{name}" {table.c[name].type.compile(_DIALECT)}' for name in columns)
    return f"json_to_recordset(CAST(:rows AS json)) AS r({typed})"


def rows_parameter(rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The value of `:rows`."""
    return {"rows": orjson.dumps(rows, default=_plain).decode()}


def _plain(value: object) -> str:
    """What orjson does not know: asyncpg's own kind of UUID."""
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} does not go into a column")


def is_later(prefix: str) -> str:
    """SQL that holds if the row at hand (`excluded`) states the facet later than the one that is kept (`t`)."""
    new, old = (f"({row}.{prefix}_at, {row}.{prefix}_event_id)" for row in ("excluded", "t"))
    return f"(excluded.{prefix}_at IS NOT NULL AND (t.{prefix}_at IS NULL OR {old} < {new}))"


def replace_when_later(facets: Sequence[type[Facet]]) -> list[str]:
    """SET items that replace each facet as a whole if the row at hand states it later."""
    return [
        f"{column} = CASE WHEN {is_later(facet.PREFIX)} THEN excluded.{column} ELSE t.{column} END"
        for facet in facets
        for column in facet.columns()
    ]


def upsert(
    table: Table,
    columns: Sequence[str],
    *,
    key: Sequence[str],
    assignments: Sequence[str],
    where: str | None = None,
    returning: str | None = None,
    order: str | None = None,
) -> TextClause:
    """`INSERT ... ON CONFLICT (key) DO UPDATE SET assignments`; `t` is the row that is there.

    In the key's order, as the database sorts texts, or in another `order`.
    """
    names, keys = ", ".join(f'"{c}"' for c in columns), ", ".join(key)
    return text(
        f"INSERT INTO {table.name} AS t ({names}) SELECT {names} FROM {recordset(table, columns)} "
        f"ORDER BY {order or keys} ON CONFLICT ({keys}) DO UPDATE SET {', '.join(assignments)}"
        + (f" WHERE {where}" if where else "")
        + (f" RETURNING {returning}" if returning else "")
    )
