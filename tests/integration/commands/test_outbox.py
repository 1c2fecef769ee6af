"""What an operator types at the outbox, in a process of its own, beside a relay at work on real servers."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from click.testing import CliRunner
from dishka import AsyncContainer
from sqlalchemy import text

from result_aggregator_service.__main__ import main
from result_aggregator_service.contracts.topics import BATCH_RESULTS_READY
from result_aggregator_service.publishing.election import ELECTION_LOCK
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import Database
from tests.integration.commands.operator import Ended, Operator
from tests.integration.publishing.relaying import (
    announcement,
    elected,
    enqueue,
    ids,
    nothing_left,
    queue_of,
    relay_with,
    slow_queue,
)
from tests.integration.service.wiring import KEY, Wire, container_of, rows, settings_for, turning, value
from tests.servers import KafkaServer

NOWHERE = "postgresql://nobody:secret@127.0.0.1:1/nothing"
#: Longer than any test waits: what goes out went because the relay was woken.
NO_POLL_SECONDS = 60.0


@pytest.fixture
def operator(database_url: str) -> Operator:
    return Operator("outbox", {"DATABASE_URL": database_url, "INTERNAL_API_KEY": KEY})


@pytest.fixture
def settings(database_url: str) -> Settings:
    return settings_for(database_url, outbox_poll_interval=NO_POLL_SECONDS)


@pytest.fixture
async def container(settings: Settings) -> AsyncIterator[AsyncContainer]:
    async with container_of(settings) as made:
        yield made


@pytest.fixture
async def relaying(settings: Settings, kafka_server: KafkaServer) -> AsyncIterator[AsyncContainer]:
    """The service's parts for a relay that publishes to the Kafka of this run."""
    settings = settings.model_copy(update={"kafka_bootstrap_servers": kafka_server.bootstrap_servers})
    async with container_of(settings) as made:
        yield made


@pytest.fixture
async def wire(kafka_server: KafkaServer) -> AsyncIterator[Wire]:
    async with Wire(kafka_server.bootstrap_servers, is_apache=kafka_server.is_apache) as up:
        yield up


async def fail(container: AsyncContainer, errors: dict[int, str], *, attempts: int = 1, max_attempts: int = 1) -> None:
    """Kafka has refused these rows so often."""
    async with queue_of(container) as queue:
        for _ in range(attempts):
            await queue.record_failures(errors, max_attempts=max_attempts)


@pytest.fixture
async def filled(container: AsyncContainer) -> AsyncContainer:
    """1 is published, 2 parked with 3 behind it, 4 retrying with an ugly error, 5 waiting for another topic."""
    for number, key in enumerate(("a", "b", "b", "c", "d"), start=1):
        await enqueue(container, announcement(key, number))
    database = await container.get(Database)
    async with queue_of(container) as queue:
        await queue.mark_published([1])
    await fail(container, {2: "MessageSizeTooLargeError: the message is 1048999 bytes, which is more than is taken"})
    await fail(container, {4: "UnknownTopicOrPartitionError: \x1b[31m100% \u00e5\nof it"}, attempts=2, max_attempts=9)
    await rows(database, "UPDATE event_outbox SET topic = 'other' WHERE id = 5 RETURNING id")
    await rows(
        database, "UPDATE event_outbox SET created_at = now() - interval '3 hours' WHERE id IN (1, 2) RETURNING id"
    )
    return container


def told(ended: Ended) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ended.out.splitlines()]


async def left(container: AsyncContainer) -> list[int]:
    return [row["id"] for row in await rows(await container.get(Database), "SELECT id FROM event_outbox ORDER BY id")]


@pytest.mark.usefixtures("filled")
class TestLooking:
    async def test_what_is_unpublished_is_listed_with_why(self, operator: Operator) -> None:
        ended = await operator("list")
        lines = ended.out.decode().splitlines()
        assert (ended.status, ended.err) == (0, b"")
        assert lines[0].split() == ["ID", "STATE", "TRIES", "AGE", "TOPIC", "WHY"]
        assert [line.split()[:3] for line in lines[1:-1]] == [
            ["2", "parked", "1"], ["3", "waiting", "0"], ["4", "retrying", "2"], ["5", "waiting", "0"]
        ]  # fmt: skip
        assert lines[1].split()[3:5] == ["3h", BATCH_RESULTS_READY]
        assert lines[1].endswith("the message is 1048999 bytes, which is more than is taken"), "cut in a pipe"
        assert lines[2].endswith("behind 2")
        assert lines[-1] == "4 of 4 shown"
        assert b"\x1b" not in ended.out, "a control character came through"
        assert "\\x1b[31m100% \u00e5\\nof it" in lines[3]

    async def test_a_terminal_of_eighty_columns_shows_it_without_a_broken_line(self, operator: Operator) -> None:
        shown = (await operator.on_terminal("list", columns=80)).decode()
        lines = shown.splitlines()
        assert len(lines) == 6
        assert max(map(len, lines)) == 80
        assert all(word in lines[1] for word in ("parked", "3h", "huleedu.", "ready.v1", "MessageSize"))
        assert "\x1b" not in shown

    async def test_rows_are_chosen_by_state_topic_key_error_and_time(self, operator: Operator) -> None:
        found: dict[tuple[str, ...], list[int]] = {
            ("--state", "published", "--state", "retrying", "--topic", BATCH_RESULTS_READY): [1, 4],
            ("--key", "b", "--since", "2h"): [3],
            ("--since", "2020-01-01T00:00:00+01:00", "--until", "2h"): [2],
            ("--error", "1%0", "--limit", "2"): [],
            ("--error", "100%", "--limit", "1"): [4],
        }
        for arguments, ids_found in found.items():
            ended = await operator("list", "--json", *arguments)
            assert (ended.status, [row["id"] for row in told(ended)]) == (0, ids_found), arguments

    async def test_a_row_is_shown_in_full(self, operator: Operator) -> None:
        [row] = told(await operator("show", "2", "--json"))
        assert {name: row[name] for name in ("id", "state", "key", "attempts", "behind", "published_at")} == {
            "id": 2, "state": "parked", "key": "b", "attempts": 1, "behind": None, "published_at": None,
        }  # fmt: skip
        assert row["event_data"]["event_id"] == row["event_id"]
        shown = (await operator("show", "3")).out.decode()
        assert "behind:          2\n" in shown
        assert f'  "event_type": "{BATCH_RESULTS_READY}",\n' in shown
        missing = await operator("show", "9")
        assert (missing.status, missing.out, missing.err) == (1, b"", b"9: not found\n")

    async def test_it_is_counted_and_whether_a_relay_is_there(
        self, container: AsyncContainer, operator: Operator
    ) -> None:
        [stats] = told(await operator("stats", "--json"))
        assert stats["states"] == {"waiting": 2, "retrying": 1, "parked": 1, "published": 1}
        assert (stats["relay_is_elected"], stats["behind_failed"]) == (False, 1)
        parked = [count for count in stats["rows"] if count["state"] == "parked"]
        assert [(count["topic"], count["error_type"], count["rows"]) for count in parked] == [
            (BATCH_RESULTS_READY, "MessageSizeTooLargeError", 1)
        ]
        database = await container.get(Database)
        async with database.snapshot() as session:
            await session.execute(text(f"SELECT pg_advisory_xact_lock({ELECTION_LOCK})"))
            lines = (await operator("stats")).out.decode().splitlines()
        assert lines[0].split() == ["STATE", "ROWS", "OLDEST", "TOPIC", "ERROR"]
        assert lines[-3:] == [
            "2 waiting, 1 retrying, 1 parked, 1 published",
            "1 behind one of their key and topic that failed",
            "a relay is elected",
        ]

    async def test_nothing_is_dropped_without_yes(self, container: AsyncContainer, operator: Operator) -> None:
        for arguments, announcements in ((("2", "3"), 2), (("--all",), 1)):
            refused = await operator("drop", *arguments)
            assert (refused.status, refused.out) == (2, b"")
            assert refused.err.decode() == (
                f"outbox: {announcements} announcements would be gone for good: the ledger keeps their ids, so they "
                "are never made again; say --yes to drop them\n"
            )
        assert await left(container) == [1, 2, 3, 4, 5]

    async def test_without_a_relay_whatever_is_unpublished_can_be_dropped(
        self, container: AsyncContainer, operator: Operator
    ) -> None:
        dropped = await operator("drop", "1", "3", "9", "4", "--yes")
        assert dropped.status == 1
        assert dropped.out.decode().splitlines() == ["3: dropped", "4: dropped", "2 of 4 dropped"]
        assert dropped.err.decode().splitlines() == ["1: published", "9: not found"]
        assert told(await operator("drop", "--all", "--yes", "--json")) == [
            {"id": 2, "result": "dropped", "done": True, "error": None}
        ]
        assert await left(container) == [1, 5]

    async def test_what_failed_is_requeued_with_all_its_attempts_and_nothing_else(
        self, container: AsyncContainer, operator: Operator
    ) -> None:
        some = await operator("requeue", "1", "3", "4", "9")
        assert some.status == 1
        assert some.out.decode().splitlines() == ["3: waiting", "4: requeued", "2 of 4 requeued"]
        assert some.err.decode().splitlines() == ["1: published", "9: not found"]
        everything = await operator("requeue", "--all")
        assert (everything.status, everything.out) == (0, b"1 of 1 requeued\n")
        database = await container.get(Database)
        due = "retry_count = 0 AND parked_at IS NULL AND next_attempt_at IS NULL"
        assert await value(database, f"SELECT count(*) FROM event_outbox WHERE {due}") == 5
        assert await value(database, "SELECT count(*) FROM event_outbox WHERE published_at IS NOT NULL") == 1


@pytest.mark.parametrize("command", ["requeue", "drop"])
@pytest.mark.parametrize("arguments", ["", "2 --all", "2 --topic other", "--all --since 2h", "2 --key b --yes"])
def test_it_wants_to_be_told_which(command: str, arguments: str) -> None:
    environment = {"DATABASE_URL": NOWHERE, "INTERNAL_API_KEY": KEY}
    words = [word for word in arguments.split() if (command, word) != ("requeue", "--yes")]
    refused = CliRunner().invoke(main, ["outbox", command, *words], env=environment)
    assert refused.exit_code == 2
    assert refused.stderr == "outbox: say which: either ids, or filters, or --all\n"


async def test_thousands_of_rows_are_requeued_in_batches(container: AsyncContainer, operator: Operator) -> None:
    await enqueue(container, announcement("b"))
    database = await container.get(Database)
    columns = "aggregate_type, aggregate_id, event_type, event_data, event_key, topic"
    await rows(
        database,
        f"INSERT INTO event_outbox (event_id, {columns}) SELECT gen_random_uuid(), {columns} FROM event_outbox, "
        "generate_series(1, 1200) RETURNING id",
    )
    await fail(container, dict.fromkeys(range(2, 1202), "KafkaError"))
    ended = await operator("requeue", "--state", "parked")
    assert (ended.status, ended.out.decode(), ended.err) == (0, "1,200 of 1,200 requeued\n", b"")
    assert await value(database, "SELECT count(*) FROM event_outbox WHERE retry_count = 0") == 1201
    in_one = "SELECT max(rows) FROM (SELECT count(*) AS rows FROM event_outbox WHERE id > 1 GROUP BY xmin::text) AS t"
    assert await value(database, in_one) == 500, "rows changed in one transaction"


async def test_requeued_rows_go_out_at_once_in_the_order_of_their_key(
    relaying: AsyncContainer, operator: Operator, wire: Wire
) -> None:
    made = [announcement("b", number) for number in range(4)]
    await enqueue(relaying, *made)
    await fail(relaying, {1: "KafkaError", 2: "KafkaError"})
    other = announcement("other")
    async with turning(await relay_with(relaying)):
        await enqueue(relaying, other)
        assert ids(await wire.published(1)) == [str(other.event_id)]
        assert (await operator("requeue", "--topic", BATCH_RESULTS_READY)).status == 0
        sent = ids(await wire.published(5))
        await nothing_left(relaying)
    assert sent[1:] == [str(each.event_id) for each in made]


async def test_dropping_a_parked_row_lets_those_behind_it_go_out_at_once(
    relaying: AsyncContainer, operator: Operator, wire: Wire
) -> None:
    parked, behind = announcement("b", 1), announcement("b", 2)
    await enqueue(relaying, parked, behind)
    await fail(relaying, {1: "KafkaError"})
    async with turning(await relay_with(relaying)):
        await elected(relaying)
        assert (await operator("drop", "--all", "--yes")).out == b"1 of 1 dropped\n"
        assert ids(await wire.published(1)) == [str(behind.event_id)]
        await nothing_left(relaying)
    assert await left(relaying) == [2]


async def test_a_row_that_is_being_sent_is_never_said_to_be_dropped(
    relaying: AsyncContainer, operator: Operator, wire: Wire
) -> None:
    sent = announcement("b")
    queue = slow_queue()
    async with turning(await relay_with(relaying, queue=queue)):
        await enqueue(relaying, sent)
        await asyncio.wait_for(queue.claimed.wait(), 30)
        for arguments in (["1"], ["--state", "waiting"]):
            refused = await operator("drop", *arguments, "--yes")
            assert (refused.status, refused.out) == (1, b"0 of 1 dropped\n")
            assert refused.err == b"1: waiting: a relay may be sending it: stop the service first\n"
        queue.go_on.set()
        await nothing_left(relaying)
    assert ids(await wire.published(1)) == [str(sent.event_id)]
    assert (await operator("drop", "1", "--yes")).err == b"1: published\n"
