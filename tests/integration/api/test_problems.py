"""Every error is RFC 9457 problem JSON that tells the client what it can know, and nothing of the inside."""

import asyncio

import asyncpg
import httpx
import pytest
from quart import Quart
from sqlalchemy.engine import make_url

from embedded import EmbeddedPostgres
from result_aggregator_service.api.problems import ProblemError
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.settings import Settings
from tests.garbage import uncollected
from tests.integration.api.conftest import MakeSettings
from tests.integration.api.read_model import ReadModel
from tests.servers import migrate
from tests.unit.domain import messages as say
from tests.waiting import eventually

STATUS = "/internal/v1/batches/b/status"


def check_problem(response: httpx.Response, status: int, error: str) -> dict[str, object]:
    problem: dict[str, object] = response.json()
    assert response.status_code == status, problem
    assert response.headers["Content-Type"] == "application/problem+json"
    assert response.headers["Cache-Control"] == "no-store"
    assert set(problem) == {
        "type",
        "title",
        "status",
        "detail",
        "instance",
        "error",
        "details",
        "correlation_id",
    }
    assert (problem["status"], problem["error"]) == (status, error)
    assert problem["type"] == f"urn:huleedu:ras:problem:{error}"
    assert problem["instance"] == response.request.url.raw_path.partition(b"?")[0].decode()
    assert problem["correlation_id"] == response.headers["X-Correlation-ID"]
    return problem


async def test_a_path_that_is_not_there(client: httpx.AsyncClient) -> None:
    for path in ("/nothing", "/", "//", "/internal/v1/nothing", "/internal/v1/batches//status", "/livez/"):
        check_problem(await client.get(path), 404, "not_found")


async def test_problems_leave_nothing_to_the_garbage_collector(client: httpx.AsyncClient) -> None:
    with uncollected(ProblemError) as left:
        for _ in range(3):
            check_problem(await client.get(STATUS), 404, "batch_not_found")
        assert left() == 0


async def test_a_method_that_a_path_does_not_take(client: httpx.AsyncClient) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH", "NONSENSE"):
        response = await client.request(method, STATUS)
        check_problem(response, 405, "method_not_allowed")
        assert set(response.headers["Allow"].split(", ")) == {"GET", "HEAD", "OPTIONS"}


async def test_a_body_that_is_too_large(client: httpx.AsyncClient) -> None:
    for path in (STATUS, "/livez"):
        check_problem(await client.request("GET", path, content=b"x" * 20_000), 413, "content_too_large")


async def test_a_small_body_is_ignored(client: httpx.AsyncClient) -> None:
    assert (await client.request("GET", "/livez", content=b"x" * 100)).status_code == 200


BAD_INPUTS = [
    ("/internal/v1/batches/%00/status", "batch_id"),
    ("/internal/v1/batches/%ff/status", "batch_id"),
    (f"/internal/v1/batches/{'x' * 256}/status", "batch_id"),
    ("/internal/v1/batches/user/%0A", "user_id"),
    ("/internal/v1/batches/user/u?limit=0", "limit"),
    ("/internal/v1/batches/user/u?limit=101", "limit"),
    ("/internal/v1/batches/user/u?offset=-1", "offset"),
    ("/internal/v1/batches/user/u?offset=9223372036854775808", "offset"),
    ("/internal/v1/batches/user/u?status=done", "status"),
    ("/internal/v1/batches/user/u?status=%00", "status"),
    ("/internal/v1/batches/user/u?view=none", "view"),
    ("/internal/v1/batches/user/u?cursor=%00", "cursor"),
    ("/internal/v1/batches/user/u?cursor=&offset=5", "offset"),
]


async def test_bad_input_is_named(client: httpx.AsyncClient) -> None:
    for path, field in BAD_INPUTS:
        problem = check_problem(await client.get(path), 400, "invalid_input")
        details = problem["details"]
        assert isinstance(details, dict)
        assert details["field"] == field
        assert details["allowed"]
        assert str(problem["detail"]).startswith(f"{field}: ")


async def test_an_error_of_our_own_tells_nothing_of_the_inside(
    app: Quart, client: httpx.AsyncClient, metrics: Metrics
) -> None:
    @app.get("/internal/broken")
    async def broken() -> str:
        raise LookupError("secret of the inside")

    response = await client.get("/internal/broken")
    check_problem(response, 500, "internal_error")
    assert "secret" not in response.text
    labels = {"endpoint": "broken", "error_type": "internal_error"}
    assert metrics.registry.get_sample_value("ras_api_errors_total", labels) == 1


async def test_a_server_that_gives_no_answer_in_its_own_time_is_a_503_of_that_name(
    app: Quart, client: httpx.AsyncClient
) -> None:
    @app.get("/internal/slow")
    async def slow() -> str:
        raise TimeoutError

    check_problem(await client.get("/internal/slow"), 503, "unavailable")


async def test_missing_migrations_are_a_503_and_not_a_500(client: httpx.AsyncClient, settings: Settings) -> None:
    connection = await asyncpg.connect(
        make_url(settings.postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    )
    await connection.execute("DROP TABLE batch_results CASCADE")
    await connection.close()
    response = await client.get(STATUS)
    check_problem(response, 503, "unavailable")
    assert "batch_results" not in response.text


class TestWithPostgresOfItsOwn:
    """PostgreSQL stopped, paused, and back."""

    @pytest.fixture
    def settings(self, make_settings: MakeSettings, own_postgres: EmbeddedPostgres, redis_url: str) -> Settings:
        migrate(own_postgres.url)
        return make_settings(database_url=own_postgres.url, redis_url=redis_url, api_timeout_seconds=1)

    async def test_while_it_is_away_answers_come_from_the_cache_or_are_503(
        self, client: httpx.AsyncClient, read_model: ReadModel, own_postgres: EmbeddedPostgres
    ) -> None:
        await read_model.tell(say.registered(["e"], "b"), say.registered(["o"], "other"))
        cached = await client.get(STATUS)
        await asyncio.to_thread(own_postgres.stop)
        assert (await client.get(STATUS)).content == cached.content
        for path in ("/internal/v1/batches/other/status", "/internal/v1/batches/user/teacher"):
            response = await client.get(path)
            check_problem(response, 503, "unavailable")
            assert int(response.headers["Retry-After"]) > 0
        await asyncio.to_thread(own_postgres.start)
        assert (await client.get("/internal/v1/batches/other/status")).status_code == 200

    async def test_while_it_does_not_answer_requests_end_in_time(
        self, client: httpx.AsyncClient, read_model: ReadModel, own_postgres: EmbeddedPostgres
    ) -> None:
        await read_model.tell(say.registered(["e"], "b"))
        await asyncio.to_thread(own_postgres.pause)
        async with asyncio.timeout(3):
            response = await client.get(STATUS)
        check_problem(response, 503, "timeout")
        await asyncio.to_thread(own_postgres.resume)

        async def answers() -> bool:
            return (await client.get(STATUS)).status_code == 200

        await eventually(answers)


class TestWithAShortTimeLimit:
    """A query that is held up by a lock."""

    @pytest.fixture
    def settings(self, make_settings: MakeSettings, database_url: str, redis_url: str) -> Settings:
        return make_settings(database_url=database_url, redis_url=redis_url, api_timeout_seconds=0.3)

    async def test_a_request_that_outlives_it_is_503_and_its_query_stops(
        self, client: httpx.AsyncClient, read_model: ReadModel, settings: Settings
    ) -> None:
        await read_model.tell(say.registered(["e"], "b"))
        url = make_url(settings.postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
        connection, onlooker = await asyncpg.connect(url), await asyncpg.connect(url)
        waiting = (
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )

        async def readers_wait(count: int) -> bool:
            return bool(await onlooker.fetchval(waiting) == count)

        async with connection.transaction():
            await connection.execute("LOCK TABLE batch_results IN ACCESS EXCLUSIVE MODE")
            request = asyncio.create_task(client.get(STATUS))
            await eventually(lambda: readers_wait(1))
            response = await request
            check_problem(response, 503, "timeout")
            assert int(response.headers["Retry-After"]) > 0
            await eventually(lambda: readers_wait(0))
        await connection.close()
        await onlooker.close()
        assert (await client.get(STATUS)).status_code == 200
