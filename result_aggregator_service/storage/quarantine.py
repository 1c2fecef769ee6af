"""The quarantine: messages that cannot be folded, kept in full until an operator retries or drops them."""

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert

from result_aggregator_service.storage.engine import ReadSession, WriteSession
from result_aggregator_service.storage.tables import quarantined_messages

_MAX_ERROR_LENGTH = 4000


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


class Quarantine:
    """The table of bad messages."""

    async def store(self, session: WriteSession, messages: Sequence[BadMessage]) -> None:
        """Keep messages; one that is there already (it was delivered again) stays as it is."""
        rows = [_row(message) for message in messages]
        rows.sort(key=lambda row: (row["topic"], row["partition"], row["offset"]))
        await session.execute(insert(quarantined_messages).on_conflict_do_nothing(), rows)

    async def size(self, session: ReadSession) -> int:
        """How many messages are in quarantine."""
        return int((await session.scalars(select(func.count()).select_from(quarantined_messages))).one())

    async def page(
        self, session: ReadSession, *, topic: str | None = None, error_type: str | None = None, limit: int = 100
    ) -> list[QuarantinedMessage]:
        """The oldest messages, of a topic and a kind of error if these are given."""
        query = select(quarantined_messages).order_by(quarantined_messages.c.id).limit(limit)
        if topic is not None:
            query = query.where(quarantined_messages.c.topic == topic)
        if error_type is not None:
            query = query.where(quarantined_messages.c.error_type == error_type)
        return [_message(row) for row in (await session.execute(query)).mappings()]

    async def ids(self, session: ReadSession) -> list[int]:
        """The ids of all messages, the oldest first."""
        return list(await session.scalars(select(quarantined_messages.c.id).order_by(quarantined_messages.c.id)))

    async def get(self, session: ReadSession | WriteSession, message_id: int) -> QuarantinedMessage | None:
        """One message."""
        query = select(quarantined_messages).where(quarantined_messages.c.id == message_id)
        row = (await session.execute(query)).mappings().one_or_none()
        return None if row is None else _message(row)

    async def drop(self, session: WriteSession, message_id: int) -> bool:
        """Delete one message; False if it is not there."""
        query = delete(quarantined_messages).where(quarantined_messages.c.id == message_id)
        deleted = await session.scalars(query.returning(quarantined_messages.c.id))
        return deleted.one_or_none() is not None


def _row(message: BadMessage) -> dict[str, Any]:
    produced_at = None
    if message.produced_ms is not None and 0 <= message.produced_ms < 250_000_000_000_000:
        produced_at = datetime.fromtimestamp(0, UTC) + timedelta(milliseconds=message.produced_ms)
    return {
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "digest": hashlib.sha256(message.value or b"").digest(),
        "key": message.key,
        "value": message.value,
        "headers": [
            [_printable(name), None if value is None else base64.b64encode(value).decode()]
            for name, value in message.headers
        ],
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
