"""What an operator types at the quarantine, in a process of its own, against a real database and cache."""

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from dishka import AsyncContainer
from sqlalchemy import text

from result_aggregator_service.__main__ import main
from result_aggregator_service.consumer.decoder import InvalidReason
from result_aggregator_service.contracts.topics import ESSAY_NLP_COMPLETED, ESSAY_SLOT_ASSIGNED
from result_aggregator_service.projection.projector import Poll, Projector
from result_aggregator_service.providers import create_container
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.quarantine import BadMessage
from tests.integration.commands.operator import Ended, Operator

SAMPLES = Path(__file__).parents[2] / "samples" / "consumed"
SLOT = (SAMPLES / "essay_slot_assigned.json").read_bytes()
NOT_UTF8 = b'\x1b{"a":\xff}\n'


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
        *(ESSAY_NLP_COMPLETED, 0, 4, None, NOT_UTF8, [("h", b"\x00v")], None, InvalidReason.NOT_UTF8),
        "byte 0xff: \x1b[31mnot UTF-8",
    )
    await projector.project(Poll((), [sound]))
    await projector.project(Poll((), [broken]))


def told(ended: Ended) -> list[dict[str, Any]]:
    return [json.loads(line) for line in ended.out.splitlines()]


@pytest.mark.usefixtures("quarantined")
class TestTheQuarantine:
    async def test_lists_what_it_holds_oldest_first(self, operator: Operator) -> None:
        ended = await operator("list")
        lines = ended.out.decode().splitlines()
        assert (ended.status, ended.err) == (0, b"")
        assert lines[0].split() == ["ID", "MESSAGE", "AGE", "KIND", "ERROR"]
        shown = [line.split() for line in lines[1:3]]
        assert [[cells[0], cells[1], cells[3], " ".join(cells[4:])] for cells in shown] == [
            ["1", f"{ESSAY_SLOT_ASSIGNED}:3:17", "unprocessable", "?"],
            ["2", f"{ESSAY_NLP_COMPLETED}:0:4", "not_utf8", "byte 0xff: \\x1b[31mnot UTF-8"],
        ]
        assert lines[3] == "2 of 2 shown"

    async def test_fits_a_terminal_of_eighty_columns(self, operator: Operator) -> None:
        lines = (await operator.on_terminal("list", columns=80)).decode().splitlines()
        assert len(lines) == 4
        assert max(map(len, lines)) == 80
        assert all(word in lines[2] for word in ("huleedu.", ":0:4", "not_utf8", "byte 0xff"))

    async def test_lists_as_json_by_topic_kind_error_and_time(self, operator: Operator) -> None:
        [message] = told(await operator("list", "--json", "--topic", ESSAY_NLP_COMPLETED, "--error-type", "not_utf8"))
        assert (message["id"], message["offset"], message["bytes"], message["produced_at"]) == (2, 4, 9, None)
        found: dict[tuple[str, ...], list[int]] = {
            ("--error", "BYTE 0xFF", "--since", "1h"): [2],
            ("--error", "unproc", "--until", "2999-01-01T00:00:00Z"): [1],
            ("--until", "1h"): [],
        }
        for arguments, ids in found.items():
            assert [row["id"] for row in told(await operator("list", "--json", *arguments))] == ids, arguments

    async def test_shows_a_message_in_full_and_raw_and_as_json(self, operator: Operator) -> None:
        shown = (await operator("show", "2")).out.decode()
        assert "h = b'\\x00v'" in shown
        assert '{"a":\\xff}' in shown
        assert "\x1b" not in shown, "a control character came through"
        assert (await operator("show", "2", "--raw")).out == NOT_UTF8
        [message] = told(await operator("show", "2", "--json"))
        assert (message["value"], base64.b64decode(message["value_base64"])) == (None, NOT_UTF8)
        assert (message["key"], message["key_base64"]) == (None, None)
        assert message["headers"] == [{"name": "h", "value": "\x00v", "value_base64": "AHY="}]

    async def test_folds_a_retried_message_and_keeps_one_that_is_still_bad(
        self, operator: Operator, container: AsyncContainer
    ) -> None:
        ended = await operator("retry", "--all")
        assert ended.status == 1
        assert ended.out == b"1 of 2 retried with success\n"
        assert ended.err.startswith(b"2: still bad: not_utf8: ")
        async with (await container.get(Database)).snapshot() as session:
            essay = (await session.execute(text("SELECT batch_id, file_upload_id FROM essay_results"))).one()
            left = (await session.scalars(text("SELECT id FROM quarantined_messages"))).all()
        assert tuple(essay) == ("b7e6c1f2-3a44-4d0c-9b61-6f1f2a7f9d10", "upload-01")
        assert left == [2]

    async def test_retries_what_is_named_or_chosen_and_tells_scripts_what_became_of_it(
        self, operator: Operator
    ) -> None:
        named = await operator("retry", "9", "1")
        assert (named.status, named.err) == (1, b"9: not found\n")
        assert named.out.decode().splitlines() == ["1: folded", "1 of 2 retried with success"]
        [chosen] = told(await operator("retry", "--error", "byte", "--json"))
        assert (chosen["id"], chosen["result"], chosen["done"]) == (2, "still_bad", False)
        assert chosen["error"].startswith("not_utf8: ")

    async def test_drops_nothing_without_yes(self, operator: Operator) -> None:
        refused = await operator("drop", "--topic", ESSAY_NLP_COMPLETED)
        assert (refused.status, refused.out) == (2, b"")
        assert refused.err.startswith(b"quarantine: 1 messages would be gone for good")
        dropped = await operator("drop", "2", "9", "--yes")
        assert (dropped.status, dropped.out, dropped.err) == (1, b"2: dropped\n1 of 2 dropped\n", b"9: not found\n")
        assert told(await operator("drop", "--all", "--yes", "--json")) == [
            {"id": 1, "result": "dropped", "done": True, "error": None}
        ]


@pytest.mark.parametrize(
    "arguments", ["retry", "retry 9 --all", "drop --yes", "drop 9 --error x", "retry --all --since 1h"]
)
def test_it_wants_to_be_told_which(environment: dict[str, str], arguments: str) -> None:
    refused = CliRunner().invoke(main, ["quarantine", *arguments.split()], env=environment)
    assert refused.exit_code == 2
    assert refused.stderr == "quarantine: say which: either ids, or filters, or --all\n"


async def test_a_database_that_is_away_is_told_in_one_line(operator: Operator) -> None:
    ended = await operator("list", DATABASE_URL="postgresql://nobody:secret@127.0.0.1:1/nothing")
    assert ended.status == 2
    assert len(ended.err.decode().splitlines()) == 1
    assert b"secret" not in ended.err


async def test_a_wrong_setting_is_told_in_one_line(operator: Operator) -> None:
    ended = await operator("list", PORT="none")
    assert (ended.status, ended.err.decode().splitlines()[0][:18]) == (2, "quarantine: PORT: ")
