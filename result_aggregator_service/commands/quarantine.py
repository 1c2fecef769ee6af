"""`quarantine list|show|retry|drop`: what was set aside as bad, and what becomes of it.

A retried message goes the way of a fresh one; it leaves quarantine only after its effects have committed.
"""

import base64
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import click
from dishka import AsyncContainer

from result_aggregator_service.commands.command import STATUS_DONE, STATUS_NOT_DONE, CannotRunError, command, opened
from result_aggregator_service.commands.terminal import (
    BATCH_ROWS,
    NextIds,
    Report,
    Time,
    age,
    all_option,
    batches,
    id_argument,
    ids_argument,
    in_batches,
    json_option,
    limit_option,
    options,
    printable,
    require_choice,
    table,
    tell_fields,
    tell_json,
    terminal_width,
)
from result_aggregator_service.consumer.poll_handler import PollHandler
from result_aggregator_service.contracts.fields import wire_time
from result_aggregator_service.contracts.topics import CONSUMED
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.quarantine import Quarantine, QuarantinedMessage, QuarantineFilter

_filters = options(
    click.option("--topic", help="Only messages of this topic."),
    click.option("--error-type", help="Only messages that are bad in exactly this way."),
    click.option("--error", help="Only messages whose error or its type contains this text."),
    click.option("--since", type=Time(), help="Only what was set aside then or later: ISO 8601, or like 2h."),
    click.option("--until", type=Time(), help="Only what was set aside before then."),
)


@click.group()
def quarantine() -> None:
    """Messages that could not be folded."""


@quarantine.command("list")
@_filters
@limit_option
@json_option
@command
async def list_(limit: int, as_json: bool, **chosen: Any) -> int:
    """List messages, the oldest first."""
    filter_ = QuarantineFilter(**chosen)
    async with opened() as container:
        database, kept = await container.get(Database), await container.get(Quarantine)
        async with database.snapshot() as session:
            total, _ = await kept.extent(session, filter_)
            messages = await kept.page(session, filter_, limit=limit)
    if as_json:
        for message in messages:
            tell_json(_summary(message))
        return STATUS_DONE
    now = datetime.now(UTC)
    rows = [
        (
            str(m.id),
            f"{m.message.topic}:{m.message.partition}:{m.message.offset}",
            age(m.quarantined_at, now),
            m.message.error_type,
            m.message.error.partition("\n")[0],
        )
        for m in messages
    ]
    for line in table(("ID", "MESSAGE", "AGE", "KIND", "ERROR"), rows, terminal_width()):
        click.echo(line)
    click.echo(f"{len(messages):,} of {total:,} shown")
    return STATUS_DONE


@quarantine.command()
@id_argument
@click.option("--raw", is_flag=True, help="Only the message's bytes, as they came.")
@json_option
@command
async def show(chosen_id: int, raw: bool, as_json: bool) -> int:
    """Show one message in full."""
    if raw and as_json:
        raise CannotRunError("--raw and --json exclude each other")
    async with opened() as container:
        found = await _find(container, chosen_id)
    if found is None:
        click.echo(f"{chosen_id}: not found", err=True)
        return STATUS_NOT_DONE
    message = found.message
    if raw:
        sys.stdout.buffer.write(message.value or b"")
        return STATUS_DONE
    if as_json:
        headers = [{"name": name, **_bytes("value", content)} for name, content in message.headers]
        tell_json(
            {**_summary(found), **_bytes("key", message.key), **_bytes("value", message.value), "headers": headers}
        )
        return STATUS_DONE
    tell_fields(_summary(found))
    for name, content in message.headers:
        tell_fields({"header": f"{name} = {content!r}"})
    tell_fields({"key": message.key})
    for line in (message.value or b"").decode(errors="backslashreplace").split("\n"):
        click.echo(printable(line))
    return STATUS_DONE


@quarantine.command()
@ids_argument
@all_option("All messages.")
@_filters
@json_option
@command
async def retry(ids: Sequence[int], everything: bool, as_json: bool, **chosen: Any) -> int:
    """Fold messages again, after what was wrong has been mended. Those that are still bad stay."""
    require_choice(ids, chosen, everything)
    async with opened() as container:
        following, total = await _chosen(container, ids, QuarantineFilter(**chosen))
        with Report("retried with success", total, each=bool(ids), as_json=as_json) as report:
            async for batch in batches(following):
                for message_id in batch:
                    await _retry(container, message_id, report)
    return report.status


@quarantine.command()
@ids_argument
@all_option("All messages.")
@_filters
@click.option("--yes", is_flag=True, help="Really delete: what is dropped is gone for good.")
@json_option
@command
async def drop(ids: Sequence[int], everything: bool, yes: bool, as_json: bool, **chosen: Any) -> int:
    """Delete messages for good."""
    require_choice(ids, chosen, everything)
    async with opened() as container:
        database, kept = await container.get(Database), await container.get(Quarantine)
        following, total = await _chosen(container, ids, QuarantineFilter(**chosen))
        if not yes:
            raise CannotRunError(
                f"{total:,} messages would be gone for good, unless Kafka retains them for a replay; "
                "say --yes to drop them"
            )
        with Report("dropped", total, each=bool(ids), as_json=as_json) as report:
            async for batch in batches(following):
                async with database.transaction() as session:
                    dropped = await kept.drop(session, batch)
                for message_id in batch:
                    is_dropped = message_id in dropped
                    report.tell(message_id, "dropped" if is_dropped else "not_found", done=is_dropped)
    return report.status


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


async def _retry(container: AsyncContainer, message_id: int, report: Report) -> None:
    found = await _find(container, message_id)
    if found is None:
        report.tell(message_id, "not_found", done=False)
        return
    bad = found.message
    if bad.topic not in CONSUMED:
        report.tell(message_id, "not_consumed", done=False, error=f"this version does not consume {bad.topic}")
        return
    record = _Record(bad.topic, bad.partition, bad.offset, bad.produced_ms or 0, bad.key, bad.value, bad.headers)
    handled = await (await container.get(PollHandler)).handle([record], _do_not_wait)
    for still_bad in handled.bad:
        report.tell(message_id, "still_bad", done=False, error=f"{still_bad.error_type}: {still_bad.error}")
        return
    database, kept = await container.get(Database), await container.get(Quarantine)
    async with database.transaction() as session:
        await kept.drop(session, [message_id])
    report.tell(message_id, "folded" if handled.folded else "folded_before")


async def _do_not_wait(seconds: float) -> None:
    raise ConnectionError("a server is in trouble; what was not retried stays in quarantine: try again later")


async def _chosen(container: AsyncContainer, ids: Sequence[int], filter_: QuarantineFilter) -> tuple[NextIds, int]:
    """The messages that are meant, as they are now, and how many."""
    if ids:
        return in_batches(ids), len(set(ids))
    database, kept = await container.get(Database), await container.get(Quarantine)
    async with database.snapshot() as session:
        total, last = await kept.extent(session, filter_)

    async def following(after: int) -> list[int]:
        async with database.snapshot() as session:
            return await kept.ids(session, filter_, after=after, up_to=last, limit=BATCH_ROWS)

    return following, total


async def _find(container: AsyncContainer, message_id: int) -> QuarantinedMessage | None:
    database, kept = await container.get(Database), await container.get(Quarantine)
    async with database.snapshot() as session:
        return await kept.get(session, message_id)


def _bytes(name: str, content: bytes | None) -> dict[str, str | None]:
    """Bytes for JSON: whole in base64, and as text where they are text."""
    if content is None:
        return {name: None, f"{name}_base64": None}
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = None
    return {name: text, f"{name}_base64": base64.b64encode(content).decode()}


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
