"""The replay on real Kafka: into live tables, into an empty database, from anywhere, interrupted, with servers failing.

What is replayed lies on a broker of this file's own. A reference database, folded the way of every day, tells what has
to come out; a clone of it is a live database with its whole past.
"""

import asyncio
import json
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, Self

import asyncpg
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.structs import TopicPartition
from click.testing import CliRunner
from sqlalchemy.engine import make_url

from demo.traffic import traffic
from embedded import ApacheKafka, EmbeddedPostgres, server_folder
from result_aggregator_service.__main__ import main
from result_aggregator_service.consumer.consumer import Consumer
from result_aggregator_service.consumer.offsets import KafkaOffsets, Offsets
from result_aggregator_service.contracts.topics import CONSUMED, ESSAY_SLOT_ASSIGNED, PUBLISHED
from result_aggregator_service.jobs.grace import GraceKeeper
from result_aggregator_service.settings import Settings
from tests.integration.commands.operator import Ended, Operator
from tests.integration.projection.projection import ReadModel
from tests.integration.service.process import ServiceProcess, in_thread
from tests.integration.service.wiring import KEY, Wire, container_of, on_the_wire, settings_for, turning
from tests.servers import Servers, create_topics, fresh_database, leave_out_for, migrate
from tests.unit.domain import messages as say
from tests.unit.domain.messages import FAILURES
from tests.waiting import eventually
from torture.rows import identities, row_differences

SEED = 7
BATCHES = 8
GRACED = (
    say.registered(["g1"], "graced"),
    say.spellcheck("g1", "graced"),
    say.end(["spellcheck"], "graced", status=FAILURES),  # and no outcome, ever
)
FOLDED = "SELECT count(*) FROM processed_events"
NOWHERE = "postgresql://nobody@127.0.0.1:9/none"
OUTBOX = "SELECT count(*) FROM event_outbox"
READ_MODEL = "batch_results, essay_results, phase_outcomes, pipeline_ends, cj_assessments"


@dataclass(frozen=True)
class Log:
    """What lies on the broker, and the database that has folded it; what was produced before `halfway` ends there."""

    bootstrap_servers: str
    halfway: datetime
    halfway_ends: Offsets
    reference_url: str
    folded: dict[TopicPartition, int] = field(default_factory=dict)

    def settings(self, database_url: str, redis_url: str, group: str = "the-group") -> Settings:
        return settings_for(
            database_url,
            redis_url=redis_url,
            kafka_bootstrap_servers=self.bootstrap_servers,
            kafka_consumer_group_id=group,
            results_grace_seconds=1.0,
        )

    def offsets(self, group: str = "the-group") -> KafkaOffsets:
        return KafkaOffsets(self.settings(self.reference_url, "redis://127.0.0.1:9/0", group))

    def operator(self, database_url: str, redis_url: str, group: str = "the-group") -> Operator:
        environment = {
            "DATABASE_URL": database_url,
            "REDIS_URL": redis_url,
            "KAFKA_BOOTSTRAP_SERVERS": self.bootstrap_servers,
            "KAFKA_CONSUMER_GROUP_ID": group,
            "RESULTS_GRACE_SECONDS": "1",
            "INTERNAL_API_KEY": KEY,
        }
        return Operator("replay", environment)


@pytest.fixture(scope="module")
def log(servers: Servers) -> Iterator[Log]:
    leave_out_for(servers.why_no_native_kafka)
    with asyncio.Runner() as runner, server_folder() as folder, ApacheKafka(folder / "kafka") as broker:
        reference = fresh_database(servers.postgres, template=servers.template_database)
        url = runner.run(reference.__aenter__())
        try:
            halfway, ends = runner.run(_produce_history(broker.bootstrap_servers))
            yield Log(broker.bootstrap_servers, halfway, ends, url)
        finally:
            runner.run(reference.__aexit__(None, None, None))


async def _produce_history(bootstrap_servers: str) -> tuple[datetime, Offsets]:
    """Returns a time in the midst of it, and the ends of the partitions then."""
    await create_topics(bootstrap_servers, [*CONSUMED, *PUBLISHED])
    messages = [(m.topic, m.key, m.value) for m in traffic(seed=SEED, batches=BATCHES, broken=False)]
    middle = len(messages) // 2
    await _produce(bootstrap_servers, messages[:middle])
    async with KafkaOffsets(settings_for(NOWHERE, kafka_bootstrap_servers=bootstrap_servers)) as kafka:
        ends = await kafka.ends(await kafka.partitions())
        await kafka.commit(ends)  # for a group of no account: from now on the new broker coordinates groups
    await asyncio.sleep(0.01)  # Kafka's time is in milliseconds
    halfway = datetime.now(UTC)
    await asyncio.sleep(0.01)
    bad = [(ESSAY_SLOT_ASSIGNED, b"k", b'{"event_id": "\xff'), (ESSAY_SLOT_ASSIGNED, b"k", None)]
    graced = [(event.topic, b"graced", on_the_wire(event)) for event in GRACED]
    await _produce(bootstrap_servers, [*bad, *messages[middle:], *graced])
    return halfway, ends


async def _produce(bootstrap_servers: str, messages: Iterable[tuple[str, bytes | None, bytes | None]]) -> None:
    async with AIOKafkaProducer(bootstrap_servers=bootstrap_servers) as producer:
        await asyncio.gather(*[await producer.send(topic, value, key=key) for topic, key, value in messages])


@pytest.fixture
async def reference(log: Log, redis_url: str) -> str:
    """The URL of the reference database, which has folded all that lies on the broker now, and given all grace."""
    if log.folded == (ends := await ends_of(log)):
        return log.reference_url
    async with container_of(log.settings(log.reference_url, redis_url, "the reference")) as container:

        async def everything_is_folded() -> bool:
            return {**dict.fromkeys(ends, 0), **await committed(log, "the reference")} == ends

        async with turning(await container.get(Consumer)):
            await eventually(everything_is_folded, within=60)
        async with turning(await container.get(GraceKeeper)):
            await eventually(lambda: at_rest(log.reference_url), within=60)
    log.folded.update(ends)
    return log.reference_url


@pytest.fixture
async def live_url(servers: Servers, reference: str) -> AsyncIterator[str]:
    """The URL of a database that has folded everything."""
    async with fresh_database(servers.postgres, template=make_url(reference).database) as url:
        yield url


async def ends_of(log: Log) -> Offsets:
    async with log.offsets() as kafka:
        return await kafka.ends(await kafka.partitions())


async def committed(log: Log, group: str) -> Offsets:
    async with log.offsets(group) as kafka:
        return await kafka.committed(await kafka.partitions())


async def commit(log: Log, group: str, offsets: Offsets) -> None:
    async with log.offsets(group) as kafka:
        await kafka.commit(offsets)


async def differences(expected_url: str, actual_url: str) -> list[str]:
    return [str(difference) for difference in await asyncio.to_thread(row_differences, expected_url, actual_url)]


async def ledger(url: str) -> set[str]:
    return await asyncio.to_thread(identities, url)


async def query(url: str, statement: str) -> list[Mapping[str, Any]]:
    connection = await asyncpg.connect(url.replace("+asyncpg", ""))
    try:
        return [dict(row) for row in await connection.fetch(statement)]
    finally:
        await connection.close()


async def at_rest(url: str) -> bool:
    return not await count(url, "SELECT count(*) FROM batch_results WHERE grace_due IS NOT NULL")


async def count(url: str, statement: str) -> int:
    return int(next(iter((await query(url, statement))[0].values())))


def done(how: Ended) -> str:
    """What it said at its end, which was a good one."""
    assert how.status == 0, how.err.decode()
    return how.out.decode()


@dataclass(frozen=True)
class Summary:
    """The numbers that a replay ends with."""

    folded: int
    again: int
    duplicates: int
    bad: int
    by_grace: int
    announced: int

    @classmethod
    def of(cls, said: str) -> Self:
        found = re.match(
            r"(\d+) folded, (\d+) of them again; (\d+) duplicates; (\d+) bad, in quarantine; "
            r"(\d+) batches finished by grace; (\d+) (?:noted as )?announced\n",
            said,
        )
        assert found is not None, said
        return cls(*map(int, found.groups()))

    @property
    def messages(self) -> int:
        return self.folded + self.duplicates + self.bad


async def let_grace_run_out(log: Log, url: str, redis_url: str) -> None:
    """What the service does where a batch waits for results that stay away."""
    async with container_of(log.settings(url, redis_url)) as container:
        await (await ReadModel.of(container)).caught_up(2)


# Into an empty database.


async def test_an_empty_database_is_rebuilt_silently_with_equal_rows(
    log: Log, reference: str, database_url: str, redis_url: str
) -> None:
    total = sum((await ends_of(log)).values())
    how = await log.operator(database_url, redis_url, "silent")("--from-beginning", "--silent", "--commit-offsets")
    said = done(how)
    assert await differences(reference, database_url) == []
    assert await ledger(database_url) == await ledger(reference)
    assert await count(database_url, OUTBOX) == 0
    folded, summary = await count(database_url, FOLDED), Summary.of(said)
    assert (summary.messages, summary.folded - summary.again) == (total, folded)
    by_grace = await count(reference, "SELECT count(*) FROM batch_results WHERE grace_horizon_at IS NOT NULL")
    assert (summary.bad, summary.by_grace, summary.announced) == (2, by_grace, len(await ledger(reference)))
    assert by_grace >= 1
    assert await count(database_url, "SELECT count(*) FROM pending_invalidations") == 0  # nor is anything stale
    assert "committed: group silent goes on where this ended" in said
    assert f"{total:,} of {total:,} messages (100.0%)" in how.err.decode().splitlines()[-1]

    assert await committed(log, "silent") == await ends_of(log)


async def test_an_empty_database_is_rebuilt_with_every_announcement_if_that_is_asked_for(
    log: Log, reference: str, database_url: str, redis_url: str
) -> None:
    said = done(await log.operator(database_url, redis_url)("--from-beginning", "--announce"))
    assert await differences(reference, database_url) == []
    announced = Counter(
        row["id"] for row in await query(database_url, "SELECT event_data ->> 'event_id' AS id FROM event_outbox")
    )
    assert announced == Counter(
        row["id"] for row in await query(reference, "SELECT event_data ->> 'event_id' AS id FROM event_outbox")
    )
    assert Summary.of(said).announced == len(announced) // 2


async def test_a_silent_replay_goes_no_further_than_the_service_has_come_so_that_the_rest_is_announced(
    log: Log, reference: str, database_url: str, redis_url: str
) -> None:
    """The service is stopped on its way; the rebuild ends where it stopped, and the next service announces the rest."""
    ends = await ends_of(log)
    half = {partition: end // 2 for partition, end in ends.items()}
    await commit(log, "half", half)
    said = done(await log.operator(database_url, redis_url, "half")("--from-beginning", "--silent"))
    assert Summary.of(said).messages == sum(half.values())
    assert f"--from-offset {ESSAY_SLOT_ASSIGNED}:0:{half[TopicPartition(ESSAY_SLOT_ASSIGNED, 0)]}" in said
    noted = await ledger(database_url)
    settings = log.settings(database_url, redis_url, "half")
    async with (
        container_of(settings) as container,
        turning(await container.get(Consumer), await container.get(GraceKeeper)),
    ):

        async def everything_is_folded() -> bool:
            return await committed(log, "half") == ends and await at_rest(database_url)

        await eventually(everything_is_folded, within=60)
    assert await differences(reference, database_url) == []
    outbox = await query(database_url, "SELECT event_id::text AS id FROM event_outbox")
    assert noted
    assert {row["id"] for row in outbox} >= await ledger(database_url) - noted != set()
    assert not {row["id"] for row in outbox} & noted


# Into live tables.


async def test_a_replay_into_live_tables_leaves_no_gap_in_service_and_announces_nothing_twice(
    log: Log, live_url: str, redis_url: str, own_folder: Path
) -> None:
    group = "live"
    await commit(log, group, await ends_of(log))
    finished = {
        row["batch_id"]: row["overall_status"]
        for row in await query(
            live_url,
            "SELECT batch_id, overall_status FROM batch_results WHERE overall_status LIKE 'completed%' "
            "AND user_id IS NOT NULL ORDER BY 1 LIMIT 3",
        )
    }
    new = [(m.topic, m.key, m.value) for m in traffic(seed=SEED + 1, batches=3, run="meanwhile", broken=False)]
    operator = log.operator(live_url, redis_url, group)
    reads = 0
    async with Wire(log.bootstrap_servers) as wire:
        with ServiceProcess(
            own_folder / "service",
            DATABASE_URL=live_url,
            REDIS_URL=redis_url,
            KAFKA_BOOTSTRAP_SERVERS=log.bootstrap_servers,
            KAFKA_CONSUMER_GROUP_ID=group,
            KAFKA_SESSION_TIMEOUT_MS="6000",
            RESULTS_GRACE_SECONDS="1",
        ) as service:
            await eventually(lambda: service.logged("partitions_assigned"), within=40)
            replaying = asyncio.create_task(operator("--from-beginning", KAFKA_MAX_POLL_RECORDS="50"))
            producing = asyncio.create_task(_produce(log.bootstrap_servers, new))
            while not replaying.done():
                for batch_id, status in finished.items():
                    response = await service.get(f"/internal/v1/batches/{batch_id}/status")
                    assert (response.status_code, response.json()["overall_status"]) == (200, status)
                    reads += 1
            await producing
            done(await replaying)
            await wire.all_committed(group, within=60)
            await eventually(lambda: _relayed(live_url), within=40)
            assert await service.terminated(within=40) == 0
        rows = await query(live_url, "SELECT event_data ->> 'event_id' AS id FROM event_outbox")
        records = await wire.published(len(rows))
    sent = [json.loads(record.value or b"")["event_id"] for record in records]
    assert sorted(sent) == sorted(row["id"] for row in rows)  # each once, no more and no less
    assert len(rows) == 2 * len(await ledger(live_url))  # each with its notification
    assert reads >= 3
    assert not service.logged("partitions_revoked"), "the group was disturbed"


async def _relayed(url: str) -> bool:
    return not await count(url, "SELECT count(*) FROM event_outbox WHERE published_at IS NULL")


async def test_rows_and_facets_that_are_lost_come_back_in_place_and_nothing_is_announced_again(
    log: Log, reference: str, live_url: str, redis_url: str
) -> None:
    outbox = await count(live_url, OUTBOX)
    for statement in (
        "DELETE FROM essay_results WHERE mod(hashtext(essay_id), 3) = 0",
        "DELETE FROM phase_outcomes WHERE phase = 'spellcheck'",
        "DELETE FROM pipeline_ends WHERE mod(hashtext(batch_id), 2) = 0",
        "UPDATE essay_results SET spellcheck_at = NULL, spellcheck_event_id = NULL, spellcheck_status = NULL "
        "WHERE mod(hashtext(essay_id), 3) = 1",
        "UPDATE batch_results SET user_id = NULL, registration_at = NULL, registration_event_id = NULL "
        "WHERE mod(hashtext(batch_id), 2) = 1",
    ):
        await query(live_url, statement)
    assert await differences(reference, live_url)
    said = done(await log.operator(live_url, redis_url)("--from-beginning"))
    assert (Summary.of(said).announced, Summary.of(said).by_grace) == (0, 0)
    await let_grace_run_out(log, live_url, redis_url)
    assert await differences(reference, live_url) == []
    assert await count(live_url, OUTBOX) == outbox


async def test_a_read_model_that_was_emptied_comes_back_and_grace_runs_again_without_a_second_announcement(
    log: Log, reference: str, live_url: str, redis_url: str
) -> None:
    outbox = await count(live_url, OUTBOX)
    await query(live_url, f"TRUNCATE {READ_MODEL}")
    said = done(await log.operator(live_url, redis_url)("--from-beginning", "--silent"))
    assert Summary.of(said).by_grace == 0  # the service's own clock decides here
    await let_grace_run_out(log, live_url, redis_url)
    assert await differences(reference, live_url) == []
    assert await count(live_url, OUTBOX) == outbox


async def test_what_was_changed_in_place_under_its_clock_needs_an_empty_database(
    log: Log, reference: str, live_url: str, redis_url: str
) -> None:
    await query(live_url, "UPDATE essay_results SET spellcheck_correction_count = 999 WHERE spellcheck_at IS NOT NULL")
    done(await log.operator(live_url, redis_url)("--from-beginning"))
    assert len(await differences(reference, live_url)) == await count(
        live_url, "SELECT count(*) FROM essay_results WHERE spellcheck_correction_count = 999"
    )


# From anywhere, up to anywhere.


async def test_from_a_time_from_an_offset_and_of_a_topic_only_that_much_is_replayed(
    log: Log, database_url: str, redis_url: str
) -> None:
    operator = log.operator(database_url, redis_url, "somewhere")
    ends = await ends_of(log)

    async def replayed(*arguments: str) -> int:
        return Summary.of(done(await operator(*arguments, "--announce"))).messages

    later = {partition: end - log.halfway_ends[partition] for partition, end in ends.items()}
    assert await replayed("--from-time", log.halfway.isoformat()) == sum(later.values())
    lie = await query(database_url, 'SELECT topic, "partition", "offset" FROM processed_events')
    assert lie
    assert all(row["offset"] >= log.halfway_ends[TopicPartition(row["topic"], row["partition"])] for row in lie)

    slots = {partition for partition in ends if partition.topic == ESSAY_SLOT_ASSIGNED}
    local = log.halfway.astimezone(timezone(timedelta(hours=5, minutes=45))).isoformat()
    assert await replayed("--from-time", local, "--topic", ESSAY_SLOT_ASSIGNED) == sum(later[p] for p in slots)
    assert await replayed("--from-beginning", "--topic", ESSAY_SLOT_ASSIGNED) == sum(ends[p] for p in slots)
    some = max(slots, key=ends.__getitem__)
    assert await replayed("--from-offset", f"{some.topic}:{some.partition}:{ends[some] - 5}") == 5
    assert await replayed("--from-time", (datetime.now(UTC) + timedelta(days=1)).isoformat()) == 0


async def test_an_interrupted_replay_says_how_to_go_on_and_goes_on_there(
    log: Log, reference: str, database_url: str, redis_url: str
) -> None:
    operator = log.operator(database_url, redis_url)
    arguments: list[str] = ["--from-beginning", "--silent"]
    for number in (signal.SIGINT, signal.SIGTERM):
        before = await count(database_url, FOLDED)
        with operator.typing(*arguments, KAFKA_MAX_POLL_RECORDS="10") as typed:

            async def is_on_its_way(before: int = before) -> bool:
                return await count(database_url, FOLDED) >= before + 50

            await eventually(is_on_its_way, within=60)
            typed.signal(number)
            how = await typed.ended()
        assert how.status == 1, how.err.decode()
        assert how.err.decode().splitlines()[-1] == "stopped before the end"
        [line] = how.out.decode().splitlines()
        _, _, options = line.partition("python -m result_aggregator_service replay ")
        arguments = options.split()
        assert arguments[0] == "--silent"
    done_before = sum(int(word.rpartition(":")[2]) for word in arguments if word.startswith("huleedu."))
    left = sum((await ends_of(log)).values()) - done_before
    assert done_before >= 100
    assert left > 0, "it was meant to be stopped on the way"
    assert Summary.of(done(await operator(*arguments))).messages == left
    assert await differences(reference, database_url) == []
    assert await ledger(database_url) == await ledger(reference)


async def test_postgresql_may_be_killed_and_come_back_in_the_midst(
    log: Log, reference: str, own_postgres: EmbeddedPostgres, redis_url: str
) -> None:
    await in_thread(migrate, own_postgres.url)
    operator = log.operator(own_postgres.url, redis_url)
    with operator.typing("--from-beginning", "--silent", KAFKA_MAX_POLL_RECORDS="20") as typed:

        async def is_on_its_way() -> bool:
            return await count(own_postgres.url, FOLDED) >= 50

        await eventually(is_on_its_way, within=60)
        await in_thread(own_postgres.kill)
        await in_thread(own_postgres.start)
        assert Summary.of(done(await typed.ended())).messages == sum((await ends_of(log)).values())
    assert await differences(reference, own_postgres.url) == []
    assert await ledger(own_postgres.url) == await ledger(reference)


# What it refuses.


NOTHING = {"DATABASE_URL": NOWHERE, "INTERNAL_API_KEY": KEY}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "say where to start: one of --from-beginning, --from-time and --from-offset"),
        (("--from-beginning", "--from-time", "2026-01-01T00:00:00Z"), "say where to start: one of"),
        (("--from-time", "yesterday"), "--from-time: 'yesterday' is not a time such as 2026-01-31T08:00:00Z"),
        (("--from-time", "2026-01-01T00:00:00"), "--from-time: '2026-01-01T00:00:00' has no offset"),
        (("--from-time", "1969-01-01T00:00:00Z"), "--from-time: '1969-01-01T00:00:00Z' is before 1970"),
        (("--from-offset", "topic:3"), "--from-offset: 'topic:3' is not TOPIC:PARTITION:OFFSET"),
        (("--from-offset", f"{ESSAY_SLOT_ASSIGNED}:0:-1"), f"--from-offset: '{ESSAY_SLOT_ASSIGNED}:0:-1' is not"),
        (("--from-offset", "topic:0:3"), "'topic' is not a topic that is consumed; there are huleedu."),
        (("--from-beginning", "--topic", "topic"), "'topic' is not a topic that is consumed; there are huleedu."),
        (
            ("--from-offset", f"{ESSAY_SLOT_ASSIGNED}:0:3", "--topic", ESSAY_SLOT_ASSIGNED),
            "--from-offset names its topics itself: leave out --topic",
        ),
        (("--from-beginning", "--announce", "--silent"), "--announce and --silent exclude each other"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(arguments: Sequence[str], said: str) -> None:
    how = CliRunner().invoke(main, ["replay", *arguments], env=NOTHING)
    assert how.exit_code == 2
    [line] = how.stderr.splitlines()
    assert line.startswith(f"replay: {said}")


async def test_what_cannot_be_done_is_refused_in_one_line_that_says_why(
    log: Log, live_url: str, empty_database_url: str, database_url: str, redis_url: str
) -> None:
    end = (await ends_of(log))[TopicPartition(ESSAY_SLOT_ASSIGNED, 0)]
    first, last = f"{ESSAY_SLOT_ASSIGNED}:0:0", f"{ESSAY_SLOT_ASSIGNED}:0:{end + 1}"
    operator = log.operator(database_url, redis_url, "busy")
    refused: list[tuple[tuple[str, ...], dict[str, str], str]] = [
        (("--from-beginning",), {}, "the ledger of this database knows no announcement"),
        (("--from-offset", last, "--silent"), {}, f"offset {end + 1} of {ESSAY_SLOT_ASSIGNED}:0 is not retained; "
         f"it may be 0 to {end}"),
        (("--from-offset", f"{ESSAY_SLOT_ASSIGNED}:9:0", "--silent"), {}, f"{ESSAY_SLOT_ASSIGNED} has no partition 9"),
        (("--from-beginning", "--announce", "--commit-offsets"), {}, "--commit-offsets: group busy has 1 members"),
        (("--from-offset", first, "--announce", "--commit-offsets"), {}, "--commit-offsets: only after a replay of"),
        (("--from-beginning",), {"DATABASE_URL": empty_database_url}, "the database has no"),
        (("--from-beginning",), {"DATABASE_URL": NOWHERE}, ""),
        (("--from-beginning", "--silent"), {"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9"}, "KafkaConnectionError: "),
    ]  # fmt: skip
    async with (
        container_of(log.settings(live_url, redis_url, "busy")) as container,
        turning(await container.get(Consumer)),
        Wire(log.bootstrap_servers) as wire,
    ):
        await wire.all_committed("busy", within=60)
        for arguments, changed, said in refused:
            how = await operator(*arguments, **changed)
            assert how.status == 2, (arguments, how)
            [line] = how.err.decode().splitlines()
            assert line.startswith(f"replay: {said}"), line
    assert await count(database_url, FOLDED) == 0
