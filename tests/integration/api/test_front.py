"""What is answered in front of Quart: all that has an answer about batches, and as Quart would have answered it."""

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import pytest
import structlog
from dishka import AsyncContainer, Provider, Scope, make_async_container, provide
from quart import Quart, request
from redis.asyncio import Redis
from structlog.testing import capture_logs
from werkzeug.exceptions import HTTPException

from result_aggregator_service.api.front import route
from result_aggregator_service.app import create_app
from result_aggregator_service.cache.cache_manager import (
    Answer,
    CacheManager,
    KnownTags,
    NoCache,
    Source,
    Unchanged,
)
from result_aggregator_service.cache.guarded_redis import GuardedRedis
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.settings import Settings
from tests.integration.api.conftest import CREDENTIALS, TestProvider
from tests.integration.api.read_model import ReadModel
from tests.unit.domain import messages as say

PATHS = ["/internal/v1/batches/b/status", "/internal/v1/batches/user/teacher?limit=5"]
EITHER = pytest.mark.parametrize("path", PATHS)
SEED = 7


@pytest.fixture(autouse=True)
async def a_batch(read_model: ReadModel) -> None:
    await read_model.tell(say.registered(["e1"], "b"))


@pytest.fixture
def seen_by_quart(app: Quart) -> list[str]:
    """The paths of the requests that came to Quart."""
    paths: list[str] = []

    @app.before_request
    async def note() -> None:
        paths.append(request.path)

    return paths


def quarts_route(app: Quart, path: str) -> tuple[str, str] | None:
    """The view of a path about batches, and the id in it, by Quart's own map."""
    try:
        endpoint, arguments = app.url_map.bind("ras").match(path, method="GET")
    except HTTPException:
        return None
    name = endpoint.rpartition(".")[2]
    return (name, *arguments.values()) if endpoint.startswith("batches.") else None


def test_it_takes_the_paths_that_quart_routes_and_no_others(app: Quart) -> None:
    drawn, met = random.Random(SEED), set()
    parts = [
        "internal",
        "v1",
        "batches",
        "user",
        "status",
        "b",
        "%2F",
        "a b",
        "Ã¥",
        "",
        "..",
        "%75ser",
        "status\n",
        "livez",
    ]
    known = [*PATHS[:1], "/internal/v1/batches/user/u", "/internal/v1/batches/user/status", "/livez", "/docs"]
    for _ in range(3000):
        path = drawn.choice(known)
        segments = path.split("/")
        for _ in range(drawn.randrange(3)):
            segments[drawn.randrange(1, len(segments))] = drawn.choice(parts)
        if drawn.random() < 0.3:
            segments.insert(drawn.randrange(1, len(segments) + 1), drawn.choice(parts))
        path = "/" + "/".join(segments).lstrip("/")
        assert route(path) == quarts_route(app, path), f"{path!r}, seed {SEED}"
        met.add((route(path) or ("",))[0])
    assert met == {"", "get_batch_status", "get_user_batches"}


@EITHER
async def test_quart_sees_what_has_a_body_or_another_method_and_nothing_else(
    path: str, client: httpx.AsyncClient, seen_by_quart: list[str]
) -> None:
    made = await client.get(path)
    for method, headers in (("GET", {}), ("HEAD", {}), ("GET", {"If-None-Match": made.headers["ETag"]})):
        assert (await client.request(method, path, headers=headers)).status_code in (200, 304)
    assert (await client.get("/internal/v1/batches/unknown/status")).status_code == 404
    assert seen_by_quart == []
    await client.get(path, headers={"Content-Length": "0"})
    await client.post(path)
    assert len(seen_by_quart) == 2


@EITHER
async def test_an_answer_its_log_line_and_its_metrics_are_the_same_from_either(
    path: str, client: httpx.AsyncClient, metrics: Metrics, seen_by_quart: list[str]
) -> None:
    told, counted = [], []
    for ask in ({}, {"Content-Length": "0"}):  # in front of Quart, and by Quart
        before = requests_counted(metrics)
        with capture_logs([structlog.contextvars.merge_contextvars]) as lines:
            response = await client.get(path, headers={"X-Correlation-ID": "mine", **ask})
        (line,) = (line for line in lines if line["event"] == "request")
        del line["duration_ms"]
        told.append((line, response.status_code, sorted(response.headers.items()), response.content))
        after = requests_counted(metrics)
        counted.append(
            {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name)}
        )
    assert told[0] == told[1]
    assert counted[0] == counted[1]
    assert len(counted[0]) == 4
    assert len(seen_by_quart) == 1


def requests_counted(metrics: Metrics) -> dict[str, float]:
    """What is counted for every request."""
    return {
        f"{sample.name}{sample.labels}": sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name.startswith("ras_api") and sample.name.endswith(("_total", "_count"))
    }


@EITHER
async def test_a_miss_looks_into_redis_once(path: str, client: httpx.AsyncClient, redis_url: str) -> None:
    async with Redis.from_url(redis_url, protocol=2) as raw:

        async def scripts_run() -> int:
            return int((await raw.info("commandstats")).get("cmdstat_eval", {"calls": 0})["calls"])

        runs = [await scripts_run()]
        for _ in range(2):
            await client.get(path)
            runs.append(await scripts_run())
    assert [runs[1] - runs[0], runs[2] - runs[1]] == [2, 1]  # a look-up and a store; a look-up


class BrokenCache(NoCache):
    """One with a fault of its own."""

    async def batch_status(
        self, batch_id: str, known: KnownTags, source: Source[Answer | None]
    ) -> Answer | Unchanged | None:
        """Fail."""
        raise LookupError("secret of the inside")


class BrokenProvider(Provider):
    scope = Scope.APP

    @provide
    def cache(self, redis: GuardedRedis) -> CacheManager:
        return BrokenCache(redis)


@asynccontextmanager
async def client_of(container: AsyncContainer) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(container))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://ras", headers=CREDENTIALS) as caller:
        yield caller


async def test_an_error_of_our_own_there_is_told_and_logged_as_any_other(settings: Settings) -> None:
    container = make_async_container(TestProvider(settings), BrokenProvider())
    with capture_logs() as lines:
        async with client_of(container) as client:
            response = await client.get(PATHS[0])
    await container.close()
    assert (response.status_code, response.json()["error"]) == (500, "internal_error")
    assert "secret" not in response.text
    assert [line["event"] for line in lines if line["log_level"] == "error"] == ["request_failed"]
