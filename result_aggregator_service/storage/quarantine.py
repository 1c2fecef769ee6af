"""The quarantine: messages that cannot be folded, kept in full until an operator retries or drops them."""

import base64
import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
from sqlalchemy import ColumnElement, and_, func, or_, select, text, true

from result_aggregator_service.storage.session import ReadSession, WriteSession
from result_aggregator_service.storage.tables import quarantined_messages

_MAX_ERROR_LENGTH = 4000

# Arrays, not JSON as elsewhere: keys and values are bytes, and may be large.
_TYPES = {
    "topic": "text",
    "partition": "integer",
    "offset": "bigint",
    "digest": "bytea",
    "key": "bytea",
    "value": "bytea",
    "headers": "jsonb",
    "produced_at": "timestamptz",
    "error_type": "text",
    "error": "text",
}
_COLUMNS = ", ".join(f'"{name}"' for name in _TYPES)
_STORE = text(
    f"INSERT INTO quarantined_messages ({_COLUMNS}) SELECT * FROM "
    f"unnest({', '.join(f'CAST(:{name} AS {kind}[])' for name, kind in _TYPES.items())}) AS r({_COLUMNS}) "
    'ORDER BY topic, "partition", "offset" ON CONFLICT DO NOTHING'
)
_DROP = text("DELETE FROM quarantined_messages WHERE id = ANY(:ids) RETURNING id")


@dataclass(frozen=True, slots=True)
class BadMessage:
    """A message as Kafka gave it, and why it was not folded. `produced_ms` is Kafka's timestamp."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]
    produced_ms: int | None
    error_type: str
    error: str


@dataclass(frozen=True, slots=True)
class QuarantinedMessage:
    """A message in quarantine."""

    id: int
    quarantined_at: datetime
    message: BadMessage


@dataclass(frozen=True, slots=True)
class QuarantineFilter:
    """Which messages an operator means.

    `error` is any part of the error or of its type; the time of being set aside lies in [`since`, `until`).
    """

    topic: str | None = None
    error_type: str | None = None
    error: str | None = None
    since: datetime | None = None
    until: datetime | None = None

    def condition(self) -> ColumnElement[bool]:
        """As a condition on `quarantined_messages`."""
        row = quarantined_messages.c
        conditions: list[ColumnElement[bool]] = []
        if self.topic is not None:
            conditions.append(row.topic == self.topic)
        if self.error_type is not None:
            conditions.append(row.error_type == self.error_type)
        if self.error is not None:
            parts = (column.icontains(self.error, autoescape=True) for column in (row.error, row.error_type))
            conditions.append(or_(*parts))
        if self.since is not None:
            conditions.append(row.quarantined_at >= self.since)
        if self.until is not None:
            conditions.append(row.quarantined_at < self.until)
        return and_(true(), *conditions)


class Quarantine:
    """The table of bad messages."""

    async def store(self, session: WriteSession, messages: Sequence[BadMessage]) -> None:
        """Keep messages; one that is there already (it was delivered again) stays as it is."""
        rows = [_row(message) for message in messages]
        await session.execute(_STORE, {name: [row[name] for row in rows] for name in _TYPES})

    async def sizes(self, session: ReadSession) -> dict[str, int]:
        """How many messages are in quarantine: counts by `error_type`, of those that occur."""
        error_type = quarantined_messages.c.error_type
        query = select(error_type, func.count().label("messages")).group_by(error_type)
        return {row["error_type"]: row["messages"] for row in (await session.execute(query)).mappings()}

    async def page(
        self, session: ReadSession, chosen: QuarantineFilter | None = None, *, limit: int = 100
    ) -> list[QuarantinedMessage]:
        """The oldest of the chosen messages, or of all."""
        chosen = chosen or QuarantineFilter()
        query = select(quarantined_messages).where(chosen.condition()).order_by(quarantined_messages.c.id).limit(limit)
        return [_message(row) for row in (await session.execute(query)).mappings()]

    async def extent(self, session: ReadSession, chosen: QuarantineFilter) -> tuple[int, int]:
        """How many messages are chosen, and the highest id among them (0 if there is none)."""
        row = quarantined_messages.c
        query = select(func.count(), func.coalesce(func.max(row.id), 0)).where(chosen.condition())
        messages, last = (await session.execute(query)).one()
        return messages, last

    async def ids(
        self, session: ReadSession, chosen: QuarantineFilter, *, after: int, up_to: int, limit: int
    ) -> list[int]:
        """The ids of the next chosen messages, in order, with `after` < id <= `up_to`."""
        row = quarantined_messages.c
        query = select(row.id).where(chosen.condition(), row.id > after, row.id <= up_to)
        return list(await session.scalars(query.order_by(row.id).limit(limit)))

    async def get(self, session: ReadSession | WriteSession, message_id: int) -> QuarantinedMessage | None:
        """One message."""
        query = select(quarantined_messages).where(quarantined_messages.c.id == message_id)
        row = (await session.execute(query)).mappings().one_or_none()
        return None if row is None else _message(row)

    async def drop(self, session: WriteSession, ids: Collection[int]) -> set[int]:
        """Delete messages; return which of them were there."""
        return set(await session.scalars(_DROP, {"ids": sorted(ids)}))


def _row(message: BadMessage) -> dict[str, Any]:
    produced_at = None
    if message.produced_ms is not None and 0 <= message.produced_ms < 250_000_000_000_000:
        produced_at = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=message.produced_ms)
    headers = [
        [_printable(name), None if value is None else base64.b64encode(value).decode()]
        for name, value in message.headers
    ]
    return {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "digest": hashlib.sha256(message.value or b"").digest(),
        "key": message.key,
        "value": message.value,
        "headers": orjson.dumps(headers).decode(),
        "produced_at": produced_at,
        "error_type": message.error_type,
        "error": _printable(message.error)[:_MAX_ERROR_LENGTH],
    }


def _printable(text: str) -> str:
    """Text that PostgreSQL takes, whatever a message made of it."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()


def _message(row: Any) -> QuarantinedMessage:
    produced_at: datetime | None = row["produced_at"]
    return QuarantinedMessage(
        id=row["id"],
        quarantined_at=row["quarantined_at"],
        message=BadMessage(
            topic=row["topic"],
            partition=row["partition"],
            offset=row["offset"],
            key=row["key"],
            value=row["value"],
            headers=[(name, None if value is None else base64.b64decode(value)) for name, value in row["headers"]],
            produced_ms=None if produced_at is None else int(produced_at.timestamp() * 1000),
            error_type=row["error_type"],
            error=row["error"],
        ),
    )
