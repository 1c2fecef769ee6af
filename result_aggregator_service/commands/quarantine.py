"""`quarantine list|show|retry|drop`: what was set aside as bad, and what becomes of it.

A retried message goes the way of a fresh one; it leaves quarantine only after its effects have committed.
"""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import click
import orjson
from dishka import AsyncContainer

from result_aggregator_service.commands.command import (
    STATUS_CANNOT_RUN,
    STATUS_DONE,
    STATUS_NOT_DONE,
    command,
    opened,
)
from result_aggregator_service.consumer.poll_handler import PollHandler
from result_aggregator_service.contracts.fields import wire_time
from result_aggregator_service.contracts.topics import CONSUMED
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.quarantine import Quarantine, QuarantinedMessage


@click.group()
def quarantine() -> None:
    """Messages that could not be folded."""


@quarantine.command("list")
@click.option("--topic", help="Only messages of this topic.")
@click.option("--error-type", help="Only messages that are bad in this way.")
@click.option("--limit", default=100, show_default=True, type=click.IntRange(1, 10_000))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@command
async def list_(topic: str | None, error_type: str | None, limit: int, as_json: bool) -> int:
    """List messages, the oldest first."""
    async with opened() as container:
        database, table = await container.get(Database), await container.get(Quarantine)
        async with database.snapshot() as session:
            size = await table.size(session)
            messages = await table.page(session, topic=topic, error_type=error_type, limit=limit)
    if as_json:
        for message in messages:
            click.echo(orjson.dumps(_summary(message)))
        return STATUS_DONE
    rows = [
        (
            str(m.id),
            f"{m.message.topic}:{m.message.partition}:{m.message.offset}",
            m.message.error_type,
            wire_time(m.quarantined_at)[:19] + "Z",
            m.message.error.splitlines()[0] if m.message.error else "",
        )
        for m in messages
    ]
    _table(("ID", "MESSAGE", "KIND", "SINCE", "ERROR"), rows)
    click.echo(f"{len(messages)} shown, {size} in quarantine")
    return STATUS_DONE


@quarantine.command()
@click.argument("message_id", type=int)
@click.option("--raw", is_flag=True, help="Only the message's bytes, as they came.")
@command
async def show(message_id: int, raw: bool) -> int:
    """Show one message in full."""
    async with opened() as container:
        found = await _find(container, message_id)
    if found is None:
        return STATUS_NOT_DONE
    message = found.message
    if raw:
        sys.stdout.buffer.write(message.value or b"")
        return STATUS_DONE
    for name, text in _summary(found).items():
        click.echo(f"{name + ':':16} {text}")
    for header, content in message.headers:
        click.echo(f"{'header:':16} {header} = {content!r}")
    click.echo(f"{'key:':16} {message.key!r}")
    click.echo((message.value or b"").decode(errors="backslashreplace"))
    return STATUS_DONE


@quarantine.command()
@click.argument("message_ids", type=int, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All messages, the oldest first.")
@command
async def retry(message_ids: Sequence[int], everything: bool) -> int:
    """Fold messages again, after what was wrong has been mended. Those that are still bad stay."""
    if bool(message_ids) == everything:
        click.echo("quarantine: name the messages to retry, or --all", err=True)
        return STATUS_CANNOT_RUN
    async with opened() as container:
        if everything:
            database, table = await container.get(Database), await container.get(Quarantine)
            async with database.snapshot() as session:
                message_ids = await table.ids(session)
        outcomes = [await _retry(container, message_id) for message_id in message_ids]
    click.echo(f"{sum(outcomes)} of {len(outcomes)} retried with success")
    return STATUS_DONE if all(outcomes) else STATUS_NOT_DONE


@quarantine.command()
@click.argument("message_ids", type=int, nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Really delete: what is dropped is gone for good.")
@command
async def drop(message_ids: Sequence[int], yes: bool) -> int:
    """Delete messages for good."""
    if not yes:
        click.echo(f"quarantine: {len(message_ids)} messages would be gone for good; say --yes to drop them", err=True)
        return STATUS_CANNOT_RUN
    async with opened() as container:
        database, table = await container.get(Database), await container.get(Quarantine)
        status = STATUS_DONE
        for message_id in message_ids:
            async with database.transaction() as session:
                dropped = await table.drop(session, message_id)
            click.echo(f"{message_id}: {'dropped' if dropped else 'is not in quarantine'}", err=not dropped)
            status = status if dropped else STATUS_NOT_DONE
    return status


@dataclass(frozen=True, slots=True)
class _Record:
    """A message from quarantine in the form in which Kafka gave it."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]]


async def _retry(container: AsyncContainer, message_id: int) -> bool:
    found = await _find(container, message_id)
    if found is None:
        return False
    bad = found.message
    if bad.topic not in CONSUMED:
        click.echo(f"{message_id}: {bad.topic} is not consumed by this version", err=True)
        return False
    record = _Record(bad.topic, bad.partition, bad.offset, bad.produced_ms or 0, bad.key, bad.value, bad.headers)
    handled = await (await container.get(PollHandler)).handle([record], _do_not_wait)
    for still_bad in handled.bad:
        click.echo(f"{message_id}: still bad: {still_bad.error_type}: {still_bad.error}", err=True)
        return False
    database, table = await container.get(Database), await container.get(Quarantine)
    async with database.transaction() as session:
        await table.drop(session, message_id)
    click.echo(f"{message_id}: {'folded' if handled.folded else 'had been folded before'}")
    return True


async def _do_not_wait(seconds: float) -> None:
    raise ConnectionError("a server is in trouble; what was not retried stays in quarantine: try again later")


async def _find(container: AsyncContainer, message_id: int) -> QuarantinedMessage | None:
    database, table = await container.get(Database), await container.get(Quarantine)
    async with database.snapshot() as session:
        found = await table.get(session, message_id)
    if found is None:
        click.echo(f"{message_id}: is not in quarantine", err=True)
    return found


def _summary(found: QuarantinedMessage) -> dict[str, Any]:
    message = found.message
    produced = datetime.fromtimestamp((message.produced_ms or 0) / 1000, found.quarantined_at.tzinfo)
    return {
        "id": found.id,
        "topic": message.topic,
        "partition": message.partition,
        "offset": message.offset,
        "produced_at": wire_time(produced) if message.produced_ms is not None else None,
        "quarantined_at": wire_time(found.quarantined_at),
        "error_type": message.error_type,
        "error": message.error,
        "bytes": len(message.value or b""),
    }


def _table(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads) - 1)]
    for row in [heads, *rows]:
        cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=False)]
        click.echo("  ".join([*cells, row[-1]])[: shutil.get_terminal_size((160, 24)).columns])
