"""What probes are told: liveness of this process alone, readiness of what it needs, and the whole picture."""

import httpx
import pytest

from result_aggregator_service.api.health import DependencyHealth, LoopHealth
from tests.integration.api.conftest import CREDENTIALS, StatedHealth


@pytest.fixture(autouse=True)
def without_credentials(client: httpx.AsyncClient) -> None:
    for name in CREDENTIALS:
        del client.headers[name]


async def statuses(client: httpx.AsyncClient) -> tuple[int, int, int]:
    """Of liveness, readiness, health."""
    livez, readyz, healthz = [await client.get(path) for path in ("/livez", "/readyz", "/healthz")]
    return livez.status_code, readyz.status_code, healthz.status_code


async def test_when_all_is_well_all_say_so(client: httpx.AsyncClient) -> None:
    assert await statuses(client) == (200, 200, 200)
    document = (await client.get("/healthz")).json()
    assert document == {
        "status": "ok",
        "service": "result-aggregator-service",
        "version": "1.0.0",
        "dependencies": {name: {"ok": True, "detail": None} for name in ("postgres", "migrations", "kafka", "redis")},
        "loops": {name: {"alive": True, "making_progress": True, "detail": None} for name in ("consumer", "relay")},
    }


@pytest.mark.parametrize("loop", [LoopHealth(False, False, "died"), LoopHealth(True, False, "no poll for 300 s")])
async def test_a_loop_that_does_not_turn_ends_liveness_and_is_named(
    loop: LoopHealth, client: httpx.AsyncClient, health: StatedHealth
) -> None:
    health.loop_states["relay"] = loop
    assert await statuses(client) == (503, 200, 503)
    document = (await client.get("/livez")).json()
    assert document["status"] == "failing"
    assert document["loops"]["relay"]["detail"] == loop.detail


@pytest.mark.parametrize(
    ("missing", "mend"), [("postgres", "DATABASE_URL"), ("migrations", "run `alembic upgrade head`")]
)
async def test_without_what_reads_need_it_is_not_ready_and_says_what_is_missing_and_how_to_mend_it(
    missing: str, mend: str, client: httpx.AsyncClient, health: StatedHealth
) -> None:
    health.dependency_states[missing] = DependencyHealth(False, "gone")
    assert await statuses(client) == (200, 503, 200)
    document = (await client.get("/readyz")).json()
    assert document["status"] == "unavailable"
    assert [(reason["dependency"], reason["detail"]) for reason in document["reasons"]] == [(missing, "gone")]
    assert mend in document["reasons"][0]["mend"]
    assert (await client.get("/healthz")).json()["status"] == "degraded"


@pytest.mark.parametrize("away", ["redis", "kafka"])
async def test_without_redis_or_kafka_it_is_degraded_and_serves(
    away: str, client: httpx.AsyncClient, health: StatedHealth
) -> None:
    health.dependency_states[away] = DependencyHealth(False, "refused")
    assert await statuses(client) == (200, 200, 200)
    for path in ("/readyz", "/healthz"):
        document = (await client.get(path)).json()
        assert document["status"] == "degraded"
        assert document["dependencies"][away] == {"ok": False, "detail": "refused"}


async def test_before_any_loop_has_begun_the_process_is_alive(client: httpx.AsyncClient, health: StatedHealth) -> None:
    health.loop_states.clear()
    assert await statuses(client) == (200, 200, 200)


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/healthz"])
async def test_health_is_never_kept_by_anybody(path: str, client: httpx.AsyncClient) -> None:
    assert (await client.get(path)).headers["Cache-Control"] == "no-store"
    assert (await client.head(path)).status_code == 200
