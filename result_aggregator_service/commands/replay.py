"""`replay`: rebuilds the read model from Kafka, into the live tables or into an empty database, while others serve.

It joins no group and moves no offsets unless it is told to. Announcements that the ledger knows are not made again;
in a database whose ledger knows nothing the operator has to say whether all of them are to be made, or none.
"""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial

import click
from aiokafka import TopicPartition
from aiokafka.errors import CommitFailedError
from dishka import AsyncContainer, Provider, Scope
from sqlalchemy import exists, select

from result_aggregator_service.commands.command import (
    STATUS_DONE,
    STATUS_NOT_DONE,
    CannotRunError,
    command,
    opened,
)
from result_aggregator_service.consumer.offsets import KafkaOffsets, Offsets
from result_aggregator_service.consumer.poll_handler import PollHandler
from result_aggregator_service.consumer.replayer import Replay, Replayer, StoppedError
from result_aggregator_service.contracts.topics import CONSUMED
from result_aggregator_service.jobs.grace import GraceKeeper
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.publishing.outbox_manager import OutboxManager, SilentOutboxManager
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.migrations import missing_migrations
from result_aggregator_service.storage.tables import announcements

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_BETWEEN_UPDATES = 0.2  # of one line, on a terminal

#: From the beginning (None), from a time, or from an offset of each partition that is named.
Start = None | datetime | Mapping[TopicPartition, int]


@click.command()
@click.option("--from-beginning", is_flag=True, help="Start with the earliest messages that are retained.")
@click.option("--from-time", metavar="TIME", help="Start with what was produced then: ISO 8601 with an offset.")
@click.option(
    "--from-offset",
    "from_offsets",
    metavar="TOPIC:PARTITION:OFFSET",
    multiple=True,
    help="Start there; partitions that are not named are not replayed. Repeatable.",
)
@click.option("--topic", "topics", multiple=True, help="Replay only this topic. Repeatable.")
@click.option("--announce", is_flag=True, help="Announce all that the ledger does not know.")
@click.option("--silent", is_flag=True, help="Announce nothing, now or later: it has been announced.")
@click.option("--commit-offsets", is_flag=True, help="At the end, commit for the group, which has no members.")
@command
async def replay(
    from_beginning: bool,
    from_time: str | None,
    from_offsets: Sequence[str],
    topics: Sequence[str],
    announce: bool,
    silent: bool,
    commit_offsets: bool,
) -> int:
    """Fold what Kafka retains once more, from a start that has to be said up to the present end."""
    start = _start(from_beginning, from_time, from_offsets, topics)
    if announce and silent:
        raise CannotRunError("--announce and --silent exclude each other")
    outbox = Provider(scope=Scope.APP)
    if silent:
        outbox.provide(SilentOutboxManager, provides=OutboxManager)
    async with opened(outbox) as container:
        await _check_database(container, told=announce or silent)
        settings, handler = await container.get(Settings), await container.get(PollHandler)
        planned_at = datetime.now(UTC)
        async with KafkaOffsets(settings) as kafka:
            plan, is_all = await _plan(kafka, settings, start, topics, silent=silent)
            if commit_offsets:
                await _check_group(kafka, settings, is_all=is_all)
        replayer = Replayer(settings, handler, plan)
        by_grace = 0
        try:
            async with _stopped_by_signals(replayer), _progress(replayer, plan):
                await replayer.run()
                if is_all:
                    keeper = await container.get(GraceKeeper)
                    finish = partial(keeper.finish_overdue, planned_at)
                    by_grace = await handler.retried(replayer.wait_for_postgresql, "grace", finish)
        except StoppedError:
            click.echo("stopped before the end", err=True)
            _tell_how_to_go_on(replayer.position, announce=announce, silent=silent, commit_offsets=commit_offsets)
            return STATUS_NOT_DONE
        _tell_what_came_of_it(replayer, await container.get(Metrics), by_grace, silent=silent)
        if commit_offsets:
            async with KafkaOffsets(settings) as kafka:
                await _commit(kafka, settings, replayer.position)
        elif announce or silent:
            _tell_how_to_go_on(replayer.position, announce=announce, silent=silent, commit_offsets=False)
    return STATUS_DONE


def _start(from_beginning: bool, from_time: str | None, from_offsets: Sequence[str], topics: Sequence[str]) -> Start:
    if from_beginning + (from_time is not None) + bool(from_offsets) != 1:
        raise CannotRunError("say where to start: one of --from-beginning, --from-time and --from-offset")
    for topic in topics:
        _check_topic(topic)
    if from_time is not None:
        return _parsed_time(from_time)
    if not from_offsets:
        return None
    if topics:
        raise CannotRunError("--from-offset names its topics itself: leave out --topic")
    return dict(_parsed_offset(text) for text in from_offsets)


def _check_topic(topic: str) -> None:
    if topic not in CONSUMED:
        raise CannotRunError(f"{topic!r} is not a topic that is consumed; there are {', '.join(sorted(CONSUMED))}")


def _parsed_time(text: str) -> datetime:
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise CannotRunError(f"--from-time: {text!r} is not a time such as 2026-01-31T08:00:00Z") from None
    if at.utcoffset() is None:
        raise CannotRunError(f"--from-time: {text!r} has no offset; for UTC write {text}Z")
    if at.timestamp() < 0:
        raise CannotRunError(f"--from-time: {text!r} is before 1970; Kafka knows no such time")
    return at


def _parsed_offset(text: str) -> tuple[TopicPartition, int]:
    parts = text.rsplit(":", 2)
    if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
        raise CannotRunError(f"--from-offset: {text!r} is not TOPIC:PARTITION:OFFSET")
    _check_topic(parts[0])
    return TopicPartition(parts[0], int(parts[1])), int(parts[2])


async def _check_database(container: AsyncContainer, *, told: bool) -> None:
    database = await container.get(Database)
    if missing := await missing_migrations(database):
        raise CannotRunError(missing)
    if not told:
        async with database.snapshot() as session:
            ledger_knows_something = await session.scalar(select(exists(select(announcements))))
        if not ledger_knows_something:
            raise CannotRunError(
                "the ledger of this database knows no announcement, so all would be made again: "
                "say --silent where they have been made, or --announce to make them"
            )


async def _plan(
    kafka: KafkaOffsets, settings: Settings, start: Start, topics: Collection[str], *, silent: bool
) -> tuple[Replay, bool]:
    """What is to be replayed; and whether that is of all partitions, and as far as the service would have come."""
    there_are = await kafka.partitions()
    chosen = [partition for partition in there_are if not topics or partition.topic in topics]
    for topic in topics:
        if not any(partition.topic == topic for partition in chosen):
            raise CannotRunError(f"there is no topic {topic} at {settings.kafka_bootstrap_servers}")
    if isinstance(start, Mapping):
        for partition in start:
            if partition not in there_are:
                numbers = sorted(p.partition for p in there_are if p.topic == partition.topic)
                raise CannotRunError(
                    f"{partition.topic} has no partition {partition.partition} at {settings.kafka_bootstrap_servers}; "
                    f"there are {', '.join(map(str, numbers)) or 'none'}"
                )
        chosen = list(start)
    log_ends = await kafka.ends(chosen)
    beginnings = await kafka.beginnings(chosen)
    starts = await _starts(kafka, start, beginnings, log_ends)
    ends = log_ends
    if silent and (committed := await kafka.committed(chosen)):
        # What comes later the service has not folded yet, so it has not announced it either.
        ends = {p: min(end, max(committed.get(p, 0), beginnings[p])) for p, end in log_ends.items()}
    starts = {partition: min(offset, ends[partition]) for partition, offset in starts.items()}
    caught_up = all(log_ends[p] - ends[p] <= settings.kafka_max_poll_records for p in chosen)
    return Replay(starts, ends), caught_up and set(chosen) == set(there_are)


async def _starts(kafka: KafkaOffsets, start: Start, beginnings: Offsets, ends: Offsets) -> Offsets:
    if start is None:
        return beginnings
    if isinstance(start, datetime):
        return {**ends, **await kafka.since(ends, start)}
    for partition, offset in start.items():
        if not beginnings[partition] <= offset <= ends[partition]:
            raise CannotRunError(
                f"offset {offset} of {partition.topic}:{partition.partition} is not retained; "
                f"it may be {beginnings[partition]} to {ends[partition]}"
            )
    return start


async def _check_group(kafka: KafkaOffsets, settings: Settings, *, is_all: bool) -> None:
    group = settings.kafka_consumer_group_id
    if not is_all:
        raise CannotRunError(f"--commit-offsets: only after a replay of all partitions can group {group} go on there")
    if members := await kafka.members():
        raise CannotRunError(f"--commit-offsets: group {group} has {members} members: stop the service first")


async def _commit(kafka: KafkaOffsets, settings: Settings, position: Offsets) -> None:
    group = settings.kafka_consumer_group_id
    try:
        await kafka.commit(position)
    except CommitFailedError:
        raise CannotRunError(
            f"--commit-offsets: group {group} has got members meanwhile: stop the service and replay what came since"
        ) from None
    click.echo(f"committed: group {group} goes on where this ended")


@contextlib.asynccontextmanager
async def _stopped_by_signals(replayer: Replayer) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, replayer.stop)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@contextlib.asynccontextmanager
async def _progress(replayer: Replayer, plan: Replay) -> AsyncIterator[None]:
    """Show on stderr how far it is: one line that changes on a terminal, else a line now and then."""
    on_terminal = sys.stderr.isatty()
    started = time.monotonic()

    def show() -> None:
        line = _progress_line(replayer, plan, time.monotonic() - started)
        click.echo(f"\r\x1b[K{line}" if on_terminal else line, err=True, nl=not on_terminal)

    async def keep_showing() -> None:
        while True:
            show()
            await asyncio.sleep(_SECONDS_BETWEEN_UPDATES if on_terminal else _SECONDS_BETWEEN_LINES)

    showing = asyncio.create_task(keep_showing())
    try:
        yield
    finally:
        showing.cancel()
        show()
        if on_terminal:
            click.echo(err=True)


def _progress_line(replayer: Replayer, plan: Replay, seconds: float) -> str:
    total = len(plan)
    done = sum(replayer.position[partition] - start for partition, start in plan.starts.items())
    rate = done / seconds if seconds else 0.0
    line = f"{done:,} of {total:,} messages ({done / total if total else 1:.1%}), {rate:,.0f}/s"
    if done < total and rate:
        minutes, left = divmod(round((total - done) / rate), 60)
        line += f", {minutes}:{left:02} left"
    return line if replayer.waiting_for is None else f"{line}, waiting for {replayer.waiting_for}"


def _tell_what_came_of_it(replayer: Replayer, metrics: Metrics, by_grace: int, *, silent: bool) -> None:
    totals = replayer.totals
    announced = metrics.registry.get_sample_value("ras_notification_projections_total", {"result": "projected"}) or 0
    click.echo(
        f"{totals.folded} folded, {totals.folded_again} of them again; {totals.duplicates} duplicates; "
        f"{totals.quarantined} bad, in quarantine; {by_grace} batches finished by grace; "
        f"{announced:.0f} {'noted as announced' if silent else 'announced'}"
    )


def _tell_how_to_go_on(position: Offsets, *, announce: bool, silent: bool, commit_offsets: bool) -> None:
    flags = {"--announce": announce, "--silent": silent, "--commit-offsets": commit_offsets}
    options = [flag for flag, is_set in flags.items() if is_set]
    options += [f"--from-offset {p.topic}:{p.partition}:{offset}" for p, offset in sorted(position.items())]
    click.echo(f"to go on from here: python -m result_aggregator_service replay {' '.join(options)}")
