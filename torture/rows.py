"""The service's tables, read from outside, in a form in which two databases can be compared.

Left out is only what tells how a database came by its facts: serial numbers, the machine's times, Kafka's offsets.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg

Row = Mapping[str, Any]

# What a table's rows are compared by, and the columns that may differ between two runs over the same messages.
_COMPARED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "batch_results": (("batch_id",), ("grace_due", "version")),
    "essay_results": (("essay_id",), ()),
    "phase_outcomes": (("batch_id", "phase"), ()),
    "pipeline_ends": (("event_id",), ()),
    "cj_assessments": (("batch_id", "job_id", "graded", "event_id"), ("place",)),
    "processed_events": (("event_id",), ("partition", "offset", "processed_at")),
    "quarantined_messages": (
        ("topic", "digest", "key", "headers"),
        ("id", "partition", "offset", "produced_at", "quarantined_at"),
    ),
}


@dataclass(frozen=True)
class RowDifference:
    """A row that is not the same in both, or is in one only; `fields` are those that differ."""

    table: str
    key: tuple[object, ...]
    fields: tuple[str, ...]
    expected: object
    actual: object

    def __str__(self) -> str:
        return f"{self.table} {self.key}: {', '.join(self.fields)}: expected {self.expected}, got {self.actual}"


def fetch(database_url: str, query: str, *arguments: object) -> list[Row]:
    """The rows that a query finds, on a connection of its own."""

    async def work() -> list[Row]:
        connection = await asyncpg.connect(database_url.replace("+asyncpg", ""), timeout=10, command_timeout=60)
        try:
            return [dict(row) for row in await connection.fetch(query, *arguments)]
        finally:
            await connection.close()

    return asyncio.run(work())


def row_differences(expected_url: str, actual_url: str) -> list[RowDifference]:
    """Where the read model, inbox and quarantine of a database differ from those of another."""
    found: list[RowDifference] = []
    for table, (key, ignored) in _COMPARED.items():
        expected, actual = (
            _keyed(fetch(url, f"SELECT * FROM {table}"), key, ignored) for url in (expected_url, actual_url)
        )
        for row_key in sorted(expected.keys() | actual.keys(), key=repr):
            found += _differences(table, row_key, expected.get(row_key, []), actual.get(row_key, []))
    return found


def _keyed(rows: Sequence[Row], key: Sequence[str], ignored: Sequence[str]) -> dict[tuple[object, ...], list[Row]]:
    """Rows by their key; several of one key are rows of several messages with the same bytes."""
    found: dict[tuple[object, ...], list[Row]] = {}
    for row in rows:
        kept = {name: value for name, value in row.items() if name not in ignored}
        found.setdefault(tuple(row[name] for name in key), []).append(kept)
    return found


def _differences(
    table: str, key: tuple[object, ...], expected: Sequence[Row], actual: Sequence[Row]
) -> list[RowDifference]:
    if len(expected) != len(actual):
        return [RowDifference(table, key, ("rows",), len(expected), len(actual))]
    found = []
    for one, other in zip(expected, actual, strict=True):
        fields = tuple(name for name in one if one[name] != other[name])
        if fields:
            found.append(RowDifference(table, key, fields, [one[f] for f in fields], [other[f] for f in fields]))
    return found


def grace_is_pending(database_url: str) -> bool:
    """Whether a batch still waits for its grace to run out."""
    return bool(fetch(database_url, "SELECT FROM batch_results WHERE grace_due IS NOT NULL LIMIT 1"))


def is_settled(database_url: str) -> bool:
    """Whether, without further messages, nothing more will become of any batch or of what is cached of it."""
    pending = fetch(database_url, "SELECT FROM pending_invalidations LIMIT 1")
    return not pending and not grace_is_pending(database_url)


def unpublished(database_url: str) -> int:
    """Rows of the outbox that Kafka has not acknowledged."""
    return int(fetch(database_url, "SELECT count(*) AS rows FROM event_outbox WHERE published_at IS NULL")[0]["rows"])


def outbox(database_url: str) -> list[Row]:
    """All rows of the outbox, in their order; `event_data` decoded."""
    rows = fetch(
        database_url,
        "SELECT id, event_id::text, aggregate_id, event_key, topic, event_data FROM event_outbox ORDER BY id",
    )
    return [{**row, "event_data": json.loads(row["event_data"])} for row in rows]


def identities(database_url: str) -> set[str]:
    """The event ids in the ledger of announcements."""
    return {row["event_id"] for row in fetch(database_url, "SELECT event_id::text FROM announcements")}


def known_events(database_url: str) -> set[str]:
    """The event ids in the inbox."""
    return {row["event_id"] for row in fetch(database_url, "SELECT event_id::text FROM processed_events")}


def quarantined(database_url: str) -> Counter[tuple[str, bytes | None, bytes | None]]:
    """What is in quarantine: topic, key and value of each message, with how often."""
    rows = fetch(database_url, "SELECT topic, key, value FROM quarantined_messages")
    return Counter((row["topic"], row["key"], row["value"]) for row in rows)
