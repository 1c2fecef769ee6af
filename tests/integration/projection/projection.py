"""The projector, handed polls by hand; and what can be seen of it in the database."""

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any, Self
from uuid import UUID

import asyncpg
from dishka import AsyncContainer
from redis.asyncio import Redis
from sqlalchemy import text

from result_aggregator_service.consumer.decoder import Decoder, InvalidMessageError
from result_aggregator_service.contracts.topics import BATCH_ASSESSMENT_COMPLETED, BATCH_RESULTS_READY
from result_aggregator_service.domain.event import Event
from result_aggregator_service.jobs.grace import GraceKeeper
from result_aggregator_service.projection.projector import Message, Poll, Projected, Projector, bad_message
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import Database
from tests.integration.service.wiring import container_of, rows, value

_offsets = count()

#: What makes up the read model: all of it that is the same in every order of arrival, once the grace has run.
_STATE = {
    "batch_results": "to_jsonb(t) - 'version'",
    "essay_results": "to_jsonb(t)",
    "phase_outcomes": "to_jsonb(t)",
    "pipeline_ends": "to_jsonb(t)",
    "cj_assessments": "to_jsonb(t) - 'place'",
    "processed_events": "to_jsonb(t.event_id)",
}


@dataclass
class Lying:
    """A record as it lies in Kafka."""

    topic: str
    value: bytes | None
    offset: int
    key: bytes | None = None
    partition: int = 0
    timestamp: int = 1_700_000_000_000
    headers: Sequence[tuple[str, bytes | None]] = ()


def poll_of(*items: Event | Lying) -> Poll:
    """A poll of decoded messages, and of records as they are."""
    messages, bad, decoder = [], [], Decoder(8 * 1024 * 1024)
    for item in items:
        if isinstance(item, Event):
            messages.append(Message(item, Lying(item.topic, b"", next(_offsets))))
        else:
            try:
                messages.append(Message(decoder.decode(item), item))
            except InvalidMessageError as invalid:
                bad.append(bad_message(item, invalid.reason, invalid.detail))
    return Poll(messages, bad)


class ReadModel:
    """A projector and its database."""

    def __init__(self, database: Database, projector: Projector, grace: GraceKeeper, redis: Redis) -> None:
        self.database = database
        self.projector = projector
        self.grace = grace
        self.redis = redis

    @classmethod
    async def of(cls, container: AsyncContainer) -> Self:
        return cls(
            await container.get(Database),
            await container.get(Projector),
            await container.get(GraceKeeper),
            await container.get(Redis),
        )

    async def poll(self, *items: Event | Lying, again: bool = False) -> Projected:
        """Project one poll; `again`: whatever is known of its messages."""
        projected = await self.projector.project(poll_of(*items), again=again)
        await self.projector.mark(projected)
        return projected

    async def polls_ahead(self, *polls: Sequence[Event]) -> list[Projected]:
        """Project polls each of which was prepared before the one before it was projected, as in a backlog."""
        found: list[Projected] = []
        ahead: Poll | None = None
        for events in (*polls, ()):
            prepared = await self.projector.prepare(poll_of(*events))
            if ahead is not None:
                found.append(await self.projector.project(ahead))
                await self.projector.mark(found[-1])
            ahead = prepared
        return found

    async def announced(self, topic: str | None = BATCH_RESULTS_READY) -> list[dict[str, Any]]:
        """The messages of a topic (None: of all) in the outbox, in their order."""
        found = await rows(
            self.database,
            "SELECT event_data FROM event_outbox WHERE topic = coalesce(CAST(:topic AS text), topic) ORDER BY id",
            topic=topic,
        )
        return [row["event_data"] for row in found]

    async def assessments(self) -> list[dict[str, Any]]:
        """The announced rankings."""
        return await self.announced(BATCH_ASSESSMENT_COMPLETED)

    async def ledger(self) -> list[str]:
        """The identities announced, sorted."""
        found = await rows(self.database, "SELECT event_id::text AS id FROM announcements ORDER BY 1")
        return [row["id"] for row in found]

    async def status(self, batch: str = "b") -> str:
        """A batch's status as it was written down."""
        return str(await value(self.database, "SELECT overall_status FROM batch_results WHERE batch_id = :b", b=batch))

    async def state(self) -> dict[str, list[Any]]:
        """Everything that the messages left in the read model."""
        return {table: await self._sorted(table, row) for table, row in _STATE.items()}

    async def _sorted(self, table: str, row: str) -> list[Any]:
        found = await rows(self.database, f"SELECT {row} AS row FROM {table} t ORDER BY 1")
        return [found_row["row"] for found_row in found]

    async def counts(self, *tables: str) -> dict[str, int]:
        """How many rows some tables have."""
        return {table: await value(self.database, f"SELECT count(*) FROM {table}") for table in tables}

    async def clear(self) -> None:
        """Empty all tables, as a new database has them."""
        others = ("announcements", "event_outbox", "quarantined_messages", "pending_invalidations")
        async with self.database.transaction() as session:
            for table in (*_STATE, *others):  # of a few rows each: `TRUNCATE` would take ten times as long
                await session.execute(text(f"DELETE FROM {table}"))
            await session.execute(text("UPDATE service_state SET database_id = gen_random_uuid()"))

    async def announced_ids(self) -> list[UUID]:
        """The ids of everything in the outbox, notifications left out."""
        found = await rows(
            self.database,
            "SELECT CAST(event_data ->> 'event_id' AS uuid) AS id FROM event_outbox "
            "WHERE topic = ANY(:topics) ORDER BY event_outbox.id",
            topics=[BATCH_RESULTS_READY, BATCH_ASSESSMENT_COMPLETED],
        )
        return [row["id"] for row in found]

    async def forget_what_was_seen(self) -> None:
        """Empty the inbox and the marks."""
        async with self.database.transaction() as session:
            await session.execute(text("DELETE FROM processed_events"))
        await self.redis.flushdb()

    async def let_commits_be_refused(self) -> None:
        """Make it possible to have `poll_in_vain`."""
        async with self.database.transaction() as session:
            await session.execute(text("CREATE TABLE refusals (reason text)"))
            await session.execute(
                text(
                    "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
                    "IF EXISTS (SELECT FROM refusals) THEN RAISE EXCEPTION 'refused at commit'; END IF; "
                    "RETURN NULL; END $$"
                )
            )
            await session.execute(
                text(
                    "CREATE CONSTRAINT TRIGGER refuse AFTER INSERT ON processed_events DEFERRABLE INITIALLY DEFERRED "
                    "FOR EACH ROW EXECUTE FUNCTION refuse()"
                )
            )

    async def poll_in_vain(self, *items: Event | Lying) -> None:
        """Project one poll in a transaction whose commit fails; of messages that were known nothing is tried."""
        async with self.database.transaction() as session:
            await session.execute(text("INSERT INTO refusals VALUES ('a test says so')"))
        with contextlib.suppress(asyncpg.PostgresError):
            assert not (await self.poll(*items)).folded
        async with self.database.transaction() as session:
            await session.execute(text("DELETE FROM refusals"))

    # The caught-up clock.

    async def caught_up(self, seconds: float) -> None:
        """The group has been caught up for so long: the last tick was so long ago."""
        await self.grace.tick(caught_up=True)
        while seconds > 0:
            step = min(seconds, 3.0)
            await self._last_tick_was(step)
            await self.grace.tick(caught_up=True)
            seconds -= step
        while await self.grace.finish_some():
            pass

    async def _last_tick_was(self, seconds: float) -> None:
        async with self.database.transaction() as session:
            await session.execute(
                text("UPDATE service_state SET ticked_at = clock_timestamp() - make_interval(secs => :s)"),
                {"s": seconds},
            )


@contextlib.contextmanager
def at_hand(settings: Settings) -> Iterator[tuple[asyncio.Runner, ReadModel]]:
    """A read model for a test that is not asynchronous, such as Hypothesis's, and what runs a call of it to its end."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        container = container_of(settings)
        try:
            yield runner, runner.run(ReadModel.of(runner.run(container.__aenter__())))
        finally:
            runner.run(container.__aexit__(None, None, None))
