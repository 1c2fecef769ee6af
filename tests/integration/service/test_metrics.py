"""The metrics of a process that has had everything happen to it: as documented, enough for the alerts, without ids."""

import json
import re
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path

import httpx

from embedded.process import LOOPBACK
from result_aggregator_service.api.requests import UNMATCHED
from result_aggregator_service.app import create_app, create_metrics_app
from result_aggregator_service.contracts.topics import BATCH_PHASE_OUTCOME, CONSUMED, ESSAY_NLP_COMPLETED
from result_aggregator_service.providers import create_container
from tests.integration.service.process import CREDENTIALS, ServiceProcess
from tests.integration.service.wiring import Wire, settings_for
from tests.samples import CONSUMED_NAMES, consumed, consumed_bytes
from tests.servers import KafkaServer
from tests.unit.observability.watched import (
    Scrape,
    documented,
    documented_values,
    expressions,
    metrics_of,
    read_scrape,
)
from tests.waiting import eventually

Positioned = Callable[[Iterable[str]], Awaitable[str]]

BATCH = str(consumed("batch_essays_registered")["data"]["entity_id"])
USER = str(consumed("batch_essays_registered")["data"]["user_id"])
WRONG_TOPIC = {**consumed("batch_essays_registered"), "event_type": BATCH_PHASE_OUTCOME}
BAD = (None, b"\xff\xfe", b"{", b"{}", b'{"x": "%s"}' % (b"x" * 40_000), json.dumps(WRONG_TOPIC).encode())
REQUESTS = (
    ("GET", f"/internal/v1/batches/{BATCH}/status", 200),
    ("GET", f"/internal/v1/batches/{BATCH}/status", 200),
    ("GET", "/internal/v1/batches/no-such-batch/status", 404),
    ("GET", f"/internal/v1/batches/user/{USER}", 200),
    ("GET", f"/internal/v1/batches/user/{USER}?view=summary", 200),
    ("GET", f"/internal/v1/batches/user/{USER}?limit=-1", 400),
    ("HEAD", f"/internal/v1/batches/{BATCH}/status", 200),
    ("POST", f"/internal/v1/batches/{BATCH}/status", 405),
    ("PROPFIND", f"/internal/v1/batches/{BATCH}/status", 405),
    ("GET", "/internal/v1/secret-path/4711", 404),
    ("GET", "/no/such/secret-path", 404),
    ("GET", "/livez", 200),
    ("GET", "/readyz", 200),
    ("GET", "/healthz", 200),
    ("GET", "/openapi.json", 200),
    ("GET", "/metrics", 200),
)


async def test_what_is_scraped_after_a_run_is_what_is_documented_and_all_that_alerts_and_dashboard_ask_for(
    own_folder: Path, database_url: str, redis_url: str, kafka_server: KafkaServer, kafka_group: Positioned
) -> None:
    async with Wire(kafka_server.bootstrap_servers, is_apache=kafka_server.is_apache) as wire:
        with ServiceProcess(
            own_folder / "service",
            DATABASE_URL=database_url,
            KAFKA_BOOTSTRAP_SERVERS=kafka_server.bootstrap_servers,
            REDIS_URL=redis_url,
            KAFKA_CONSUMER_GROUP_ID=await kafka_group(CONSUMED),
            MAX_MESSAGE_BYTES="32768",
            CACHE_SAMPLE_RATE="1",
            OUTBOX_POLL_INTERVAL="0.2",
        ) as service:
            await service.answers("/readyz", 200)
            for name in (*CONSUMED_NAMES, *CONSUMED_NAMES):
                await wire.send(consumed(name)["event_type"], consumed_bytes(name), key=BATCH.encode())
            for content in BAD:
                await wire.send(ESSAY_NLP_COMPLETED, content, key=BATCH.encode())
            await eventually(lambda: _came_of_all(service), within=40)
            await wire.published(2)
            await _ask_everything(service)
            scrape, exposition = await eventually(lambda: _settled(service), within=30)

    _assert_documented(scrape)
    _assert_bounded(scrape, _routes(database_url))
    for asker, query in expressions():
        assert metrics_of(query) <= scrape.samples, f"{asker} asks for {metrics_of(query) - scrape.samples}"
    assert not re.findall(r"secret|4711|no-such", exposition)
    for told in _ids():
        assert told not in exposition


async def _came_of_all(service: ServiceProcess) -> bool:
    exposition = (await service.get("/metrics")).text
    results = {"quarantined": len(BAD), "duplicate": len(CONSUMED_NAMES), "folded": len(CONSUMED_NAMES)}
    for result, number in results.items():
        found = re.findall(rf'ras_messages_processed_total{{.*result="{result}".*}} (\S+)', exposition)
        assert sum(map(float, found)) == number, (result, found)
    return True


async def _ask_everything(service: ServiceProcess) -> None:
    async with httpx.AsyncClient(base_url=f"http://{LOOPBACK}:{service.port}", timeout=30.0) as client:
        for method, path, status in REQUESTS:
            answer = await client.request(method, path, headers=CREDENTIALS)
            assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        assert (await client.get(REQUESTS[0][1])).status_code == 401
        large = await client.request("GET", REQUESTS[0][1], headers=CREDENTIALS, content=b"x" * 20_000)
        assert large.status_code in (200, 413)
        answer = await client.get(REQUESTS[0][1], headers=CREDENTIALS)
        unchanged = await client.get(REQUESTS[0][1], headers={**CREDENTIALS, "If-None-Match": answer.headers["ETag"]})
        assert unchanged.status_code == 304


async def _settled(service: ServiceProcess) -> tuple[Scrape, str]:
    """The scrape, once the gauges of what is measured now and then have come."""
    exposition = (await service.get("/metrics")).text
    assert f"ras_quarantine_size {float(len(BAD))}" in exposition
    assert 'ras_quarantine_messages{error_type="null_value"} 1.0' in exposition
    assert 'ras_quarantine_messages{error_type="unprocessable"} 0.0' in exposition
    assert "ras_consumer_lag{" in exposition
    assert "ras_outbox_commit_to_ack_seconds_count 0.0" not in exposition
    assert re.search(r'ras_cache_samples_total{.*result="match".*} [1-9]', exposition)
    return read_scrape(exposition), exposition


def _assert_documented(scrape: Scrape) -> None:
    told = documented()
    assert scrape.families.keys() == told.keys()
    for name, family in scrape.families.items():
        assert family.type == told[name].type, name
        if family.labels:
            assert sorted(family.labels) == sorted(told[name].labels), name


def _assert_bounded(scrape: Scrape, routes: Iterable[str]) -> None:
    allowed = documented_values(routes)
    for place, found in scrape.values.items():
        assert found <= allowed[place], f"{place}: {sorted(found - allowed[place])}"


def _routes(database_url: str) -> list[str]:
    """The names of all routes, and that of none."""
    container = create_container(settings_for(database_url))
    apps = (create_app(container), create_metrics_app(container))
    return [UNMATCHED, *(rule.endpoint.rpartition(".")[2] for app in apps for rule in app.url_map.iter_rules())]


def _ids() -> set[str]:
    """Everything in the messages that names somebody or something."""
    found: set[str] = set()
    for name in CONSUMED_NAMES:
        found |= set(re.findall(r'"[a-z_]*_id"\s*:\s*"([^"]{4,})"', consumed_bytes(name).decode()))
    assert {BATCH, USER} <= found
    return found
