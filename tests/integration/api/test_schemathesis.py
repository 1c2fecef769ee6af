"""Schemathesis against the live service: what the OpenAPI document says is what is answered, to whatever is asked.

Every operation, all checks, all phases. The seed is fixed (`SCHEMATHESIS_SEED`); how much is drawn follows
`HYPOTHESIS_PROFILE`. The summary is shown where this is run by itself, in one process.
"""

import asyncio
import json
import os
import sys
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from quart import Quart
from structlog.testing import capture_logs

from tests.hypothesis_profiles import examples
from tests.integration.api.conftest import CREDENTIALS
from tests.integration.api.read_model import ReadModel
from tests.integration.api.test_over_sockets import Peer, served
from tests.servers import CHECKOUT
from tests.unit.domain import messages as say

SEED = int(os.environ.get("SCHEMATHESIS_SEED", "1"))
TEACHER = "teacher-4711"  # who owns the batch of the samples, of which the document's examples tell, too
SAMPLED = "b7e6c1f2-3a44-4d0c-9b61-6f1f2a7f9d10"
IDS = [SAMPLED, "a/b", "100%", "Åsa", "a?b#c", "x" * 255]
USER_BATCHES = "/internal/v1/batches/user/{user_id}"
BATCH_STATUS = "/internal/v1/batches/{batch_id}/status"
SECONDS = 900

#: The statuses that have to be met for the run to have said something.
TO_BE_MET = {
    BATCH_STATUS: {200, 304, 400, 401, 404, 405},
    USER_BATCHES: {200, 304, 400, 401, 405},
    "/livez": {200, 405},
    "/readyz": {200, 405},
    "/healthz": {200, 405},
    "/metrics": {200, 405},
    "/openapi.json": {200, 304, 405},
    "/docs": {200, 304, 405},
}


@pytest.fixture
async def peer(app: Quart) -> AsyncIterator[Peer]:
    async for running in served(app, "on"):
        yield running


@pytest.fixture
async def told(read_model: ReadModel) -> None:
    """One batch of which everything is known that the platform's samples say, and some with awkward ids."""
    names = sorted(path.stem for path in (CHECKOUT / "tests" / "samples" / "consumed").glob("*.json"))
    await read_model.tell(*(say.sample(name) for name in names))
    for number, batch_id in enumerate(IDS[1:]):
        essay = f"essay-{number}"
        await read_model.tell(
            say.registered([essay], batch_id, user=TEACHER, at=number), say.spellcheck(essay, batch_id, ok=number > 2)
        )


async def answered_tags(client: httpx.AsyncClient) -> list[str]:
    """`If-None-Match` that is met by some present answer."""
    paths = [f"/internal/v1/batches/{quote(batch_id, safe='')}/status" for batch_id in IDS]
    paths += [f"/internal/v1/batches/user/{TEACHER}", "/openapi.json", "/docs"]
    return ["*", *[(await client.get(path)).headers["ETag"] for path in paths]]


async def cursors(client: httpx.AsyncClient) -> list[str]:
    """Every cursor that leads through the teacher's list, one batch at a time; the first is empty."""
    found, url = [""], f"/internal/v1/batches/user/{TEACHER}?limit=1&cursor="
    while following := (await client.get(url)).json()["pagination"]["next"]:
        found.append(following.rpartition("cursor=")[2])
        assert len(found) <= len(IDS), f"the list does not end: {found}"
        url = following
    assert len(found) == len(IDS)
    return found


def toml(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def config(tags: list[str]) -> str:
    """Real ids and tags stand for half of what is drawn; everything else is as it is without a configuration."""
    return f"""
        seed = {SEED}
        hooks = "tests.integration.api.schemathesis_hooks"
        [dictionaries]
        batch_ids = {{ values = {toml(IDS)} }}
        user_ids = {{ values = {toml([TEACHER, "nobody"])} }}
        tags = {{ values = {toml(tags)} }}
        [parameters]
        "path.batch_id" = {{ dictionary = "batch_ids", probability = 0.5 }}
        "path.user_id" = {{ dictionary = "user_ids", probability = 0.5 }}
        "header.If-None-Match" = {{ dictionary = "tags", probability = 0.5 }}
        [auth.openapi]
        InternalApiKey = {{ api_key = {toml(CREDENTIALS["X-Internal-API-Key"])} }}
        ServiceId = {{ api_key = {toml(CREDENTIALS["X-Service-ID"])} }}
        [phases.coverage]
        generate-duplicate-query-parameters = true
    """


class Report:
    """What Schemathesis did, by its own record of it: each status that was met, each check that was made."""

    def __init__(self, lines: str) -> None:
        self.statuses: defaultdict[str, Counter[int]] = defaultdict(Counter)
        self.checks: Counter[str] = Counter()
        for line in lines.splitlines():
            recorder = json.loads(line).get("ScenarioFinished", {}).get("recorder", {})
            for case_id, case in recorder.get("cases", {}).items():
                response = recorder["interactions"].get(case_id, {}).get("response")
                if response is not None:
                    self.statuses[case["value"]["path"]][response["status_code"]] += 1
                self.checks.update(check["name"] for check in recorder["checks"].get(case_id, ()))

    def __str__(self) -> str:
        lines = [f"  {path}: {dict(sorted(met.items()))}" for path, met in self.statuses.items()]
        return "\n".join(["Statuses met:", *lines, f"Checks made: {self.checks.total()}", f"  {dict(self.checks)}"])


@pytest.mark.usefixtures("told")
async def test_schemathesis_finds_nothing(
    peer: Peer, client: httpx.AsyncClient, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "schemathesis.toml").write_text(config(await answered_tags(client)))
    # As a file, since what it fetches by URL is no operation to Schemathesis.
    (tmp_path / "openapi.json").write_bytes((await client.get("/openapi.json")).content)
    command = [sys.executable, "-m", "schemathesis.cli", "--no-color", "run", "openapi.json"]
    command += ["--url", f"http://127.0.0.1:{peer.port}", "--max-examples", str(examples(0.3).max_examples)]
    command += ["--generation-database", "none", "--report-ndjson-path", "report.ndjson"]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT), "SCHEMATHESIS_CURSORS": json.dumps(await cursors(client))}
    with capture_logs() as logs:
        running = await asyncio.create_subprocess_exec(
            *command,
            cwd=tmp_path,
            env=environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(SECONDS):
                output = (await running.communicate())[0].decode()
        finally:
            if running.returncode is None:
                running.kill()
                await running.wait()
    report = Report((tmp_path / "report.ndjson").read_text()) if (tmp_path / "report.ndjson").exists() else None
    with capsys.disabled():
        print(f"\n{output[output.find('= SUMMARY =') :]}\n{report}")  # noqa: T201
    assert running.returncode == 0, f"Schemathesis, seed {SEED}:\n{output}"
    assert report is not None
    assert not [line for line in logs if line["event"] == "request_failed"]
    for path, statuses in TO_BE_MET.items():
        assert statuses <= report.statuses[path].keys(), f"{path} met only {report.statuses[path]}; seed {SEED}"
