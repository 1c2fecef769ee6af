"""`docs/contributing.md` followed step by step, in a copy of the code: at its end such a message shows in an answer."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from result_aggregator_service.contracts.topics import CONSUMED
from result_aggregator_service.storage.migrations import REQUIRED_REVISION
from tests.integration.service.process import ServiceProcess
from tests.integration.service.wiring import Wire, on_the_wire
from tests.servers import CHECKOUT, KafkaServer
from tests.unit.domain import messages as say
from tests.waiting import eventually

PAGE = CHECKOUT / "docs" / "contributing.md"
TOPIC = "huleedu.essay.plagiarism.checked.v1"
MESSAGE = b"""{
    "event_id": "6f1c1f0e-7f0e-4a67-9a5e-1f4c6cf8a001", "event_type": "huleedu.essay.plagiarism.checked.v1",
    "event_timestamp": "2026-03-02T08:05:00Z", "source_service": "plagiarism_service", "schema_version": 1,
    "correlation_id": "6f1c1f0e-7f0e-4a67-9a5e-1f4c6cf8a002", "data_schema_uri": null, "metadata": null,
    "data": {"essay_id": "e1", "batch_id": "b", "similarity": 0.12, "report_storage_id": "report-1"}
}"""
COPIED = ("result_aggregator_service", "alembic", "tests", "demo", "embedded", "benchmarks", "torture")


def blocks(page: str, names: Mapping[str, str]) -> Iterator[tuple[str, bool, list[list[str]]]]:
    """The page's diffs, its names filled in: a file, whether it is new, and its hunks as lines with their signs."""
    for name, value in names.items():
        page = page.replace(f"<{name}>", value)
    for block in re.findall(r"^```diff\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        head, *hunks = re.split(r"^@@\n", block, flags=re.MULTILINE)
        matched = re.fullmatch(r"--- (\S+)( \(new\))?\n", head)
        assert matched, f"a diff of {PAGE.name} names no file: {head!r}"
        yield matched[1], matched[2] is not None, [hunk.splitlines() for hunk in hunks]


def applied(text: str, hunks: Iterable[list[str]], what: str) -> str:
    """A file's text with hunks applied in their order; AssertionError where one does not fit in exactly one place."""
    done, rest = "", text
    for hunk in hunks:
        assert all(line == "" or line[0] in " +-" for line in hunk), f"{what}: a line without its sign in {hunk}"
        before = "".join(f"{line[1:]}\n" for line in hunk if line[:1] != "+")
        after = "".join(f"{line[1:]}\n" for line in hunk if line[:1] != "-")
        places = [match.start() for match in re.finditer("^" + re.escape(before), rest, re.MULTILINE)]
        if before:
            assert len(places) == 1, f"{what}: in {len(places)} places, where the page has\n{before}"
            done, rest = done + rest[: places[0]] + after, rest[places[0] + len(before) :]
        else:
            assert not rest, f"{what} is there already"
            done += after
    return done + rest


def followed(folder: Path) -> list[str]:
    """Copy the code and do what the page says; the files that it changes."""
    for name in COPIED:
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("alembic.ini", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, folder)
    head = max(file.name[:4] for file in (folder / "alembic" / "versions").glob("*.py"))
    names = {"head": head, "next": f"{int(head) + 1:04}", "required": REQUIRED_REVISION}
    changed = []
    for name, is_new, hunks in blocks(PAGE.read_text(), names):
        file = folder / name
        assert file.exists() != is_new, f"{name} is said to be {'new' if is_new else 'there'}"
        file.write_text(applied("" if is_new else file.read_text(), hunks, name))
        changed.append(name)
    return changed


def run(folder: Path, *command: str, **environment: str) -> str:
    """What a command prints in the copy; AssertionError with all it says if it fails."""
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


async def test_an_event_kind_is_added_by_what_the_page_says(
    own_folder: Path,
    empty_database_url: str,
    redis_url: str,
    kafka_server: KafkaServer,
    kafka_group: Callable[[Iterable[str]], Awaitable[str]],
) -> None:
    copy = own_folder / "copy"
    copy.mkdir()
    changed = followed(copy)
    run(copy, "ruff", "check", "--no-cache", *changed)
    run(copy, "ruff", "format", "--no-cache", "--check", *changed)
    run(copy, "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", *(name for name in changed if "/test_" in name))
    run(copy, "alembic", "upgrade", "head", DATABASE_URL=empty_database_url)
    assert f'"{TOPIC}"' in run(copy, "result_aggregator_service", "asyncapi")

    group = await kafka_group([*CONSUMED, TOPIC])
    async with Wire(kafka_server.bootstrap_servers, is_apache=kafka_server.is_apache) as wire:
        with ServiceProcess(
            own_folder / "service",
            PYTHONPATH=str(copy),
            DATABASE_URL=empty_database_url,
            REDIS_URL=redis_url,
            KAFKA_BOOTSTRAP_SERVERS=kafka_server.bootstrap_servers,
            KAFKA_CONSUMER_GROUP_ID=group,
            KAFKA_SESSION_TIMEOUT_MS="6000",
        ) as service:
            registered = say.registered(["e1", "e2"], "b")
            await wire.send(registered.topic, on_the_wire(registered))
            await wire.send(TOPIC, MESSAGE)

            async def shown() -> dict[str, Any]:
                essays = (await service.answers("/internal/v1/batches/b/status", 200))["essays"]
                assert essays[0]["plagiarism_similarity"] is not None, service.output()
                return {essay["essay_id"]: essay for essay in essays}

            essays = await eventually(shown, within=60, what="the message in the answer")
    assert essays["e1"]["plagiarism_similarity"] == 0.12
    assert essays["e1"]["plagiarism_report_storage_id"] == "report-1"
    assert essays["e2"]["plagiarism_similarity"] is None
