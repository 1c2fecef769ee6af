"""What an operator types at the quarantine, in a process of its own, against a real database and cache."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from dishka import AsyncContainer
from sqlalchemy import text

from result_aggregator_service.consumer.decoder import InvalidReason
from result_aggregator_service.contracts.topics import ESSAY_NLP_COMPLETED, ESSAY_SLOT_ASSIGNED
from result_aggregator_service.projection.projector import Poll, Projector
from result_aggregator_service.providers import create_container
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.quarantine import BadMessage
from tests.integration.commands.operator import Operator

SAMPLES = Path(__file__).parents[2] / "samples" / "consumed"
SLOT = (SAMPLES / "essay_slot_assigned.json").read_bytes()
NOT_UTF8 = b'{"a":\xff}'


@pytest.fixture
def environment(database_url: str, redis_url: str) -> dict[str, str]:
    return {"DATABASE_URL": database_url, "REDIS_URL": redis_url, "INTERNAL_API_KEY": "key-of-this-test"}


@pytest.fixture
def operator(environment: dict[str, str]) -> Operator:
    return Operator("quarantine", environment)


@pytest.fixture
async def container(environment: dict[str, str]) -> AsyncIterator[AsyncContainer]:
    container = create_container(Settings.model_validate({name.lower(): value for name, value in environment.items()}))
    yield container
    await container.close()


@pytest.fixture
async def quarantined(container: AsyncContainer) -> None:
    """Two messages in quarantine: 1 was refused for a reason that has passed, 2 is bad for good."""
    projector = await container.get(Projector)
    sound = BadMessage(ESSAY_SLOT_ASSIGNED, 3, 17, b"k", SLOT, [], 1_700_000_000_000, InvalidReason.UNPROCESSABLE, "?")
    broken = BadMessage(
        *(ESSAY_NLP_COMPLETED, 0, 4, None, NOT_UTF8, [("h", b"\x00v")], None, InvalidReason.NOT_UTF8, "byte 0xff")
    )
    await projector.project(Poll((), [sound]))
    await projector.project(Poll((), [broken]))


@pytest.mark.usefixtures("quarantined")
class TestTheQuarantine:
    async def test_lists_what_it_holds_oldest_first(self, operator: Operator) -> None:
        ended = await operator("list")
        lines = ended.out.decode().splitlines()
        assert ended.status == 0
        assert [line.split()[:3] for line in lines[1:3]] == [
            ["1", f"{ESSAY_SLOT_ASSIGNED}:3:17", "unprocessable"],
            ["2", f"{ESSAY_NLP_COMPLETED}:0:4", "not_utf8"],
        ]
        assert lines[3] == "2 shown, 2 in quarantine"

    async def test_lists_as_json_by_topic_and_kind(self, operator: Operator) -> None:
        ended = await operator("list", "--json", "--topic", ESSAY_NLP_COMPLETED, "--error-type", "not_utf8")
        (line,) = ended.out.splitlines()
        told = json.loads(line)
        assert (told["id"], told["offset"], told["bytes"], told["produced_at"]) == (2, 4, len(NOT_UTF8), None)

    async def test_shows_a_message_in_full_and_raw(self, operator: Operator) -> None:
        shown = (await operator("show", "2")).out.decode()
        assert "h = b'\\x00v'" in shown
        assert '{"a":\\xff}' in shown
        assert (await operator("show", "2", "--raw")).out == NOT_UTF8

    async def test_folds_a_retried_message_and_keeps_one_that_is_still_bad(
        self, operator: Operator, container: AsyncContainer
    ) -> None:
        ended = await operator("retry", "--all")
        assert ended.status == 1
        assert ended.out.decode().splitlines() == ["1: folded", "1 of 2 retried with success"]
        assert "2: still bad: not_utf8" in ended.err.decode()
        async with (await container.get(Database)).snapshot() as session:
            essay = (await session.execute(text("SELECT batch_id, file_upload_id FROM essay_results"))).one()
            left = (await session.scalars(text("SELECT id FROM quarantined_messages"))).all()
        assert essay == ("b7e6c1f2-3a44-4d0c-9b61-6f1f2a7f9d10", "upload-01")
        assert left == [2]

    async def test_drops_nothing_without_yes(self, operator: Operator) -> None:
        refused = await operator("drop", "2")
        assert (refused.status, "--yes" in refused.err.decode()) == (2, True)
        dropped = await operator("drop", "2", "9", "--yes")
        assert (dropped.status, dropped.out, dropped.err) == (1, b"2: dropped\n", b"9: is not in quarantine\n")
        assert (await operator("list")).out.decode().splitlines()[-1] == "1 shown, 1 in quarantine"

    async def test_wants_to_be_told_what_to_retry(self, operator: Operator) -> None:
        assert (await operator("retry")).status == 2
        assert (await operator("retry", "9")).status == 1


async def test_a_database_that_is_away_is_told_in_one_line(operator: Operator) -> None:
    ended = await operator("list", DATABASE_URL="postgresql://nobody:secret@127.0.0.1:1/nothing")
    assert ended.status == 2
    assert len(ended.err.decode().splitlines()) == 1
    assert b"secret" not in ended.err


async def test_a_wrong_setting_is_told_in_one_line(operator: Operator) -> None:
    ended = await operator("list", PORT="none")
    assert (ended.status, ended.err.decode().splitlines()[0][:18]) == (2, "quarantine: PORT: ")
