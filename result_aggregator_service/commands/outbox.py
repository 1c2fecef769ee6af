"""`outbox list|show|requeue|drop|stats`: what is to be announced, what keeps it from going out, and what becomes of it.

No row that the relay may be sending is dropped: while one is elected only parked rows are, which it never sends.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

import click
import orjson
from dishka import AsyncContainer
from sqlalchemy import text

from result_aggregator_service.commands.command import STATUS_DONE, STATUS_NOT_DONE, CannotRunError, command, opened
from result_aggregator_service.commands.terminal import (
    BATCH_ROWS,
    Command,
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
from result_aggregator_service.contracts.fields import wire_time
from result_aggregator_service.publishing.election import ELECTION_LOCK
from result_aggregator_service.publishing.outbox_manager import (
    UNPUBLISHED,
    OutboxCount,
    OutboxFilter,
    OutboxManager,
    OutboxRecord,
    RowState,
)
from result_aggregator_service.storage.engine import Database

_FAILED = (RowState.RETRYING, RowState.PARKED)

# The relay holds it as a session lock. Taken for a transaction, it keeps a relay from being elected until its end.
_KEEP_RELAYS_OUT = text("SELECT pg_try_advisory_xact_lock(:lock)")
RELAY_IS_ELECTED = f"""
    SELECT EXISTS (
        SELECT FROM pg_locks JOIN pg_database d ON d.oid = database AND d.datname = current_database()
        WHERE locktype = 'advisory' AND objsubid = 1 AND granted
        AND (classid::bigint << 32 | objid::bigint) = {ELECTION_LOCK})
"""


def _filters(states: Sequence[RowState]) -> Callable[[Command], Command]:
    return options(
        click.option(
            "--state",
            "states",
            type=click.Choice([state.value for state in states]),
            multiple=True,
            help="Only rows in this state. Repeatable.",
        ),
        click.option("--topic", help="Only rows for this topic."),
        click.option("--key", help="Only rows with this key: the id of a batch or a user."),
        click.option("--error", help="Only rows whose last error or its type contains this text."),
        click.option("--since", type=Time(), help="Only rows made then or later: ISO 8601, or like 2h."),
        click.option("--until", type=Time(), help="Only rows made before then."),
    )


@click.group()
def outbox() -> None:
    """Announcements on their way to Kafka."""


@outbox.command("list")
@_filters(list(RowState))
@limit_option
@json_option
@command
async def list_(states: Sequence[str], limit: int, as_json: bool, **chosen: Any) -> int:
    """List rows, the oldest first; unless --state says so, only unpublished ones."""
    filter_ = _filter(states, chosen, default=UNPUBLISHED)
    async with opened() as container:
        database, manager = await container.get(Database), await container.get(OutboxManager)
        async with database.snapshot() as session:
            total, _ = await manager.extent(session, filter_)
            records = await manager.page(session, filter_, limit=limit)
    if as_json:
        for record in records:
            tell_json(_summary(record))
        return STATUS_DONE
    now = datetime.now(UTC)
    rows = [(str(r.id), r.state, str(r.retry_count), age(r.created_at, now), r.topic, _why(r)) for r in records]
    for line in table(("ID", "STATE", "TRIES", "AGE", "TOPIC", "WHY"), rows, terminal_width()):
        click.echo(line)
    click.echo(f"{len(records):,} of {total:,} shown")
    return STATUS_DONE


@outbox.command()
@id_argument
@json_option
@command
async def show(chosen_id: int, as_json: bool) -> int:
    """Show one row in full, with the message."""
    async with opened() as container:
        database, manager = await container.get(Database), await container.get(OutboxManager)
        async with database.snapshot() as session:
            record = await manager.get(session, chosen_id)
    if record is None:
        click.echo(f"{chosen_id}: not found", err=True)
        return STATUS_NOT_DONE
    fields = {**_summary(record), "traceparent": record.traceparent}
    if as_json:
        tell_json({**fields, "event_data": record.event_data})
        return STATUS_DONE
    tell_fields(fields)
    for line in orjson.dumps(record.event_data, option=orjson.OPT_INDENT_2).decode().splitlines():
        click.echo(printable(line))
    return STATUS_DONE


@outbox.command()
@ids_argument
@all_option("All rows that failed, parked or not.")
@_filters(_FAILED)
@json_option
@command
async def requeue(ids: Sequence[int], everything: bool, states: Sequence[str], as_json: bool, **chosen: Any) -> int:
    """Send rows that failed again, at once and with all their attempts, after what was wrong has been mended."""
    require_choice(ids, {"states": states, **chosen}, everything)
    async with opened() as container:
        database, manager = await container.get(Database), await container.get(OutboxManager)
        following, total = await _chosen(container, ids, _filter(states, chosen, default=_FAILED))
        with Report("requeued", total, each=bool(ids), as_json=as_json) as report:
            async for batch in batches(following):
                async with database.transaction() as session:
                    requeued = await manager.requeue(session, batch)
                    others = await manager.states(session, set(batch) - requeued)
                for row_id in batch:
                    if row_id in requeued:
                        report.tell(row_id, "requeued")
                    elif (state := others.get(row_id)) is None:
                        report.tell(row_id, "not_found", done=False)
                    else:
                        report.tell(row_id, state, done=state is RowState.WAITING)
    return report.status


@outbox.command()
@ids_argument
@all_option("All parked rows.")
@_filters(UNPUBLISHED)
@click.option("--yes", is_flag=True, help="Really delete: what is dropped is never announced.")
@json_option
@command
async def drop(
    ids: Sequence[int], everything: bool, states: Sequence[str], yes: bool, as_json: bool, **chosen: Any
) -> int:
    """Delete rows that are not to be announced. By filters, or --all, the parked ones unless --state says otherwise."""
    require_choice(ids, {"states": states, **chosen}, everything)
    async with opened() as container:
        database, manager = await container.get(Database), await container.get(OutboxManager)
        following, total = await _chosen(container, ids, _filter(states, chosen, default=(RowState.PARKED,)))
        if not yes:
            raise CannotRunError(
                f"{total:,} announcements would be gone for good: the ledger keeps their ids, so they are never made "
                "again; say --yes to drop them"
            )
        with Report("dropped", total, each=bool(ids), as_json=as_json) as report:
            async for batch in batches(following):
                async with database.transaction() as session:
                    no_relay = await session.scalar(_KEEP_RELAYS_OUT, {"lock": ELECTION_LOCK})
                    dropped = await manager.drop(session, batch, only_parked=not no_relay)
                    others = await manager.states(session, set(batch) - dropped)
                for row_id in batch:
                    if row_id in dropped:
                        report.tell(row_id, "dropped")
                    elif (state := others.get(row_id)) is None:
                        report.tell(row_id, "not_found", done=False)
                    elif state is RowState.PUBLISHED:
                        report.tell(row_id, state, done=False)
                    else:
                        report.tell(
                            row_id, state, done=False, error="a relay may be sending it: stop the service first"
                        )
    return report.status


@outbox.command()
@json_option
@command
async def stats(as_json: bool) -> int:
    """Count the rows, and the unpublished ones by state, topic and type of error."""
    async with opened() as container:
        database, manager = await container.get(Database), await container.get(OutboxManager)
        async with database.snapshot() as session:
            counts = await manager.counts(session)
            published = await manager.published(session)
            relay_is_elected = bool(await session.scalar(text(RELAY_IS_ELECTED)))
    states = Counter({state.value: 0 for state in UNPUBLISHED} | {RowState.PUBLISHED.value: published})
    for count in counts:
        states[count.state] += count.rows
    behind = sum(count.behind for count in counts)
    if as_json:
        tell_json(
            {
                "relay_is_elected": relay_is_elected,
                "states": dict(states),
                "behind_failed": behind,
                "rows": [_count(count) for count in counts],
            }
        )
        return STATUS_DONE
    now = datetime.now(UTC)
    rows = [
        (c.state, f"{c.rows:,}", age(c.oldest_at, now), c.topic, c.error_type or "")
        for c in sorted(counts, key=lambda c: (UNPUBLISHED.index(c.state), c.topic, c.error_type or ""))
    ]
    for line in table(("STATE", "ROWS", "OLDEST", "TOPIC", "ERROR"), rows, terminal_width()):
        click.echo(line)
    click.echo(", ".join(f"{rows:,} {state}" for state, rows in states.items()))
    click.echo(f"{behind:,} behind one of their key and topic that failed")
    click.echo(
        "a relay is elected"
        if relay_is_elected
        else "no relay is elected now: unless they take turns (OUTBOX_LISTEN=false), nothing goes out"
    )
    return STATUS_DONE


def _filter(states: Sequence[str], chosen: dict[str, Any], *, default: Sequence[RowState]) -> OutboxFilter:
    return OutboxFilter(states=tuple(map(RowState, states)) or tuple(default), **chosen)


async def _chosen(container: AsyncContainer, ids: Sequence[int], filter_: OutboxFilter) -> tuple[NextIds, int]:
    """The rows that are meant, as they are now, and how many."""
    if ids:
        return in_batches(ids), len(set(ids))
    database, manager = await container.get(Database), await container.get(OutboxManager)
    async with database.snapshot() as session:
        total, last = await manager.extent(session, filter_)

    async def following(after: int) -> list[int]:
        async with database.snapshot() as session:
            return await manager.ids(session, filter_, after=after, up_to=last, limit=BATCH_ROWS)

    return following, total


def _why(record: OutboxRecord) -> str:
    """Why a row has not gone out."""
    if record.state in _FAILED:
        return record.last_error or ""
    return "" if record.behind is None else f"behind {record.behind}"


def _summary(record: OutboxRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "state": record.state,
        "topic": record.topic,
        "key": record.event_key,
        "event_id": str(record.event_id),
        "event_type": record.event_type,
        "created_at": wire_time(record.created_at),
        "published_at": wire_time(record.published_at) if record.published_at else None,
        "parked_at": wire_time(record.parked_at) if record.parked_at else None,
        "next_attempt_at": wire_time(record.next_attempt_at) if record.next_attempt_at else None,
        "attempts": record.retry_count,
        "behind": record.behind,
        "error": record.last_error,
    }


def _count(count: OutboxCount) -> dict[str, Any]:
    return {
        "state": count.state,
        "topic": count.topic,
        "error_type": count.error_type,
        "rows": count.rows,
        "behind_failed": count.behind,
        "oldest_at": wire_time(count.oldest_at),
    }
