"""What every request leaves behind: its correlation id, one log line, its metrics."""

import re
from uuid import UUID

import httpx
import structlog
from structlog.testing import capture_logs

from result_aggregator_service.observability.metrics import Metrics
from tests.integration.api.read_model import ReadModel
from tests.unit.domain import messages as say

PATHS = ["/internal/v1/batches/b/status", "/internal/v1/batches/user/u", "/nothing", "/livez", "/metrics"]


async def test_a_sane_correlation_id_is_taken_over(client: httpx.AsyncClient) -> None:
    for path in PATHS:
        for sane in ("a", "0b1aab4b-4a25-5d2b-9760-2b1ee722d445", "A.b_c:d-9", "x" * 128):
            response = await client.get(path, headers={"X-Correlation-ID": sane})
            assert response.headers["X-Correlation-ID"] == sane


async def test_any_other_is_replaced_by_a_new_one(client: httpx.AsyncClient) -> None:
    insane = (None, "", "x" * 129, "a b", "a\tb", "é", "<script>", "a;b", "a/b", "\xff")
    answered = set()
    for given in insane:
        headers = [] if given is None else [(b"X-Correlation-ID", given.encode("latin-1"))]
        answered.add(UUID((await client.get("/nothing", headers=headers)).headers["X-Correlation-ID"]))
    assert len(answered) == len(insane)


async def test_each_request_is_one_log_line(client: httpx.AsyncClient, read_model: ReadModel) -> None:
    await read_model.tell(say.registered(["e"], "b"))
    with capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        await client.get("/internal/v1/batches/b/status", headers={"X-Correlation-ID": "mine"})
        await client.get("/internal/v1/batches/b/status?limit=x", headers={"X-Internal-API-Key": "wrong"})
        await client.get("/livez")
    requests = [line for line in lines if line["event"] == "request"]
    assert [(line["endpoint"], line["status_code"], line["log_level"]) for line in requests] == [
        ("get_batch_status", 200, "info"),
        ("get_batch_status", 401, "info"),
        ("get_liveness", 200, "debug"),
    ]
    assert requests[0]["batch_id"] == "b"
    assert requests[0]["service_id"] == "api-gateway-service"
    assert requests[0]["duration_ms"] >= 0
    assert requests[0]["correlation_id"] == "mine"
    assert requests[1]["service_id"] is None
    assert "batch_id" not in requests[1]
    assert "wrong" not in str(lines)


async def test_a_path_of_any_length_makes_a_short_log_line(client: httpx.AsyncClient) -> None:
    with capture_logs() as lines:
        await client.get("/" + "x" * 10_000)
    assert len(str(lines)) < 1_000


async def test_requests_are_counted_by_view_and_never_by_path_or_id(
    client: httpx.AsyncClient, read_model: ReadModel
) -> None:
    await read_model.tell(say.registered(["e"], "b"))
    for method, path in (
        ("GET", "/internal/v1/batches/b/status"),
        ("GET", "/internal/v1/batches/b/status"),
        ("HEAD", "/internal/v1/batches/b/status"),
        ("GET", "/internal/v1/batches/secret-id/status"),
        ("GET", "/internal/v1/batches/user/secret-user?limit=1"),
        ("GET", "/internal/v1/batches/user/secret-user?limit=0"),
        ("GET", "/secret-path"),
        ("PUT", "/internal/v1/batches/b/status"),
        ("SECRET", "/livez"),
    ):
        await client.request(method, path)
    text = (await client.get("/metrics")).text
    counted = {
        match.groups()
        for match in re.finditer(
            r'^ras_api_requests_total\{endpoint="(.*)",method="(.*)",status_code="(.*)"\} (.*)$', text, re.MULTILINE
        )
    }
    assert counted == {
        ("get_batch_status", "GET", "200", "2.0"),
        ("get_batch_status", "HEAD", "200", "1.0"),
        ("get_batch_status", "GET", "404", "1.0"),
        ("get_user_batches", "GET", "200", "1.0"),
        ("get_user_batches", "GET", "400", "1.0"),
        ("unmatched", "GET", "404", "1.0"),
        ("unmatched", "PUT", "405", "1.0"),
        ("unmatched", "OTHER", "405", "1.0"),
    }
    assert "secret" not in text.lower()
    assert 'ras_api_request_duration_seconds_count{endpoint="get_batch_status",method="GET"} 3.0' in text


async def test_errors_are_counted_by_their_names(client: httpx.AsyncClient, metrics: Metrics) -> None:
    await client.get("/internal/v1/batches/b/status")
    await client.get("/internal/v1/batches/%00/status")
    await client.get("/internal/v1/batches/b/status", headers={"X-Service-ID": "wrong"})
    await client.get("/nothing")
    counted = {
        (sample.labels["endpoint"], sample.labels["error_type"])
        for metric in metrics.api_errors.collect()
        for sample in metric.samples
        if sample.name.endswith("_total")
    }
    assert counted == {
        ("get_batch_status", "batch_not_found"),
        ("get_batch_status", "invalid_input"),
        ("get_batch_status", "unauthorized"),
        ("unmatched", "not_found"),
    }


async def test_reading_the_database_is_measured(client: httpx.AsyncClient, metrics: Metrics) -> None:
    await client.get("/internal/v1/batches/b/status")
    await client.get("/internal/v1/batches/user/u")
    for operation in ("read_batch", "read_user_batches"):
        labels = {"operation": operation, "status": "success"}
        assert metrics.registry.get_sample_value("ras_db_operations_total", labels) == 1
