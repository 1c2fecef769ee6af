"""Traces through the service: in from Kafka and HTTP, out to Kafka, and to a collector."""

import dataclasses
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from embedded.process import LOOPBACK, free_port
from result_aggregator_service.app import create_app
from result_aggregator_service.consumer.consumer import Consumer
from result_aggregator_service.contracts.topics import CONSUMED
from result_aggregator_service.observability.opentelemetry_tracing import OpenTelemetryTracing
from result_aggregator_service.observability.tracing import Tracing
from result_aggregator_service.publishing.relay import Relay
from tests.integration.service.process import CREDENTIALS, ServiceProcess
from tests.integration.service.wiring import Wire, container_of, on_the_wire, settings_for, swap, turning
from tests.servers import KafkaServer
from tests.unit.domain import messages as say
from tests.waiting import eventually

ASSESSED = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
JUDGED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
BAD = "00-22222222222222222222222222222222-3333333333333333-01"
Positioned = Callable[[Iterable[str]], Awaitable[str]]


def of_kind(spans: Sequence[ReadableSpan], kind: SpanKind) -> list[ReadableSpan]:
    return [span for span in spans if span.kind is kind]


def messages_in(spans: Sequence[ReadableSpan]) -> int:
    return sum(int(str((span.attributes or {})["messaging.batch.message_count"])) for span in spans)


def linked(spans: Sequence[ReadableSpan]) -> set[str]:
    """What the spans are linked to, as it stands in a header."""
    return {f"00-{link.context.trace_id:032x}-{link.context.span_id:016x}-01" for span in spans for link in span.links}


async def test_a_message_is_traced_from_kafka_to_kafka_and_its_own_context_goes_through_unchanged(
    database_url: str, redis_url: str, kafka_server: KafkaServer, kafka_group: Positioned
) -> None:
    settings = settings_for(
        database_url,
        redis_url=redis_url,
        kafka_bootstrap_servers=kafka_server.bootstrap_servers,
        kafka_consumer_group_id=await kafka_group(CONSUMED),
    )
    exporter = InMemorySpanExporter()
    tracing = swap(OpenTelemetryTracing(settings, SimpleSpanProcessor(exporter)), Tracing)
    told = [
        (say.registered(["e1"]), None),
        (say.spellcheck("e1"), None),
        (say.outcome("spellcheck", ["e1"], at=100), None),
        (say.assessment({"e1": (1, 0.5)}, at=110), ASSESSED),
        (say.outcome("cj_assessment", ["e1"], at=200), JUDGED),
    ]
    async with (
        Wire(kafka_server.bootstrap_servers, is_apache=kafka_server.is_apache) as wire,
        container_of(settings, tracing) as container,
    ):
        for event, context in told:
            headers = [] if context is None else [("traceparent", context.encode())]
            content = on_the_wire(dataclasses.replace(event, traceparent=None))
            await wire.send(event.topic, content, key=b"b", headers=headers)
        await wire.send(told[0][0].topic, b"no JSON", headers=[("traceparent", BAD.encode())])
        async with turning(await container.get(Consumer), await container.get(Relay)):
            published = await wire.published(4, within=60)
    assert {dict(record.headers)["traceparent"].decode() for record in published} == {ASSESSED, JUDGED}

    spans = exporter.get_finished_spans()
    polls, sends = of_kind(spans, SpanKind.CONSUMER), of_kind(spans, SpanKind.PRODUCER)
    assert {span.name.partition(" ")[0] for span in polls} == {"process"}
    assert messages_in(polls) == 6
    assert linked(polls) == {ASSESSED, JUDGED, BAD}
    transactions = of_kind(spans, SpanKind.CLIENT)
    assert {span.parent.span_id for span in transactions if span.parent} == {span.context.span_id for span in polls}
    assert {span.name.partition(" ")[0] for span in sends} == {"send"}
    assert messages_in(sends) == 4
    assert linked(sends) == {ASSESSED, JUDGED}
    assert not [span.name for span in spans if span.events]


@pytest.mark.parametrize("server_is_there", [True, False], ids=["served", "unserved"])
async def test_a_request_is_a_child_of_its_caller_through_the_front_and_through_quart(
    server_is_there: bool, database_url: str, redis_url: str
) -> None:
    url = database_url if server_is_there else f"postgresql://nobody@{LOOPBACK}:{free_port()}/none"
    settings = settings_for(url, redis_url=redis_url)
    exporter = InMemorySpanExporter()
    tracing = swap(OpenTelemetryTracing(settings, SimpleSpanProcessor(exporter)), Tracing)
    async with container_of(settings, tracing) as container:
        transport = httpx.ASGITransport(app=create_app(container))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://ras", headers=CREDENTIALS) as client:
            for path, body in (("/b/status", b""), ("/b/status", b"!"), ("/user/teacher", b""), ("/user/teacher", b"")):
                headers = {"traceparent": JUDGED, **CREDENTIALS}
                await client.request("GET", f"/internal/v1/batches{path}", headers=headers, content=body)
            await client.get("/nothing/b", headers={"traceparent": JUDGED})
            await client.get("/livez")
    spans = exporter.get_finished_spans()
    assert {span.parent.span_id for span in spans if span.parent is not None} == {0x00F067AA0BA902B7}
    assert {f"{span.context.trace_id:032x}" for span in spans if span.context is not None} == {JUDGED[3:35]}
    statuses = Counter((span.name, (span.attributes or {})["http.response.status_code"]) for span in spans)
    assert statuses == {
        ("GET /internal/v1/batches/{batch_id}/status", 404 if server_is_there else 503): 2,
        ("GET /internal/v1/batches/user/{user_id}", 200 if server_is_there else 503): 2,
        ("GET", 404): 1,
    }
    recorded = [event.name for span in spans for event in span.events]
    assert recorded == ([] if server_is_there else ["exception"] * 4)


class Collector(HTTPServer):
    """Takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), _Taking)
        self.spans: list[Any] = []
        self.resources: list[dict[str, str]] = []

    @property
    def endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self.server_port}"


class _Taking(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        request = ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        for resource in request.resource_spans:
            self.server.resources.append({a.key: a.value.string_value for a in resource.resource.attributes})
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        yield server
        server.shutdown()
        serving.join()


async def test_a_process_sends_its_spans_to_a_collector_and_goes_on_without_one(
    own_folder: Path, database_url: str, redis_url: str, collector: Collector
) -> None:
    with ServiceProcess(
        own_folder / "service",
        DATABASE_URL=database_url,
        REDIS_URL=redis_url,
        KAFKA_BOOTSTRAP_SERVERS=f"{LOOPBACK}:{free_port()}",
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
        OTEL_BSP_SCHEDULE_DELAY="50",
        OTEL_EXPORTER_OTLP_TIMEOUT="0.5",
        ENVIRONMENT="test",
    ) as service:
        await service.answers("/readyz", 200)
        await service.answers("/internal/v1/batches/b/status", 404)
        (span,) = await eventually(lambda: list(collector.spans))
        assert span.name == "GET /internal/v1/batches/{batch_id}/status"
        (line,) = service.logged("request")
        assert (line["trace_id"], line["span_id"]) == (span.trace_id.hex(), span.span_id.hex())
        resource = collector.resources[0]
        assert (resource["service.name"], resource["deployment.environment.name"]) == (
            "result-aggregator-service",
            "test",
        )
        collector.shutdown()
        collector.server_close()
        await service.answers("/internal/v1/batches/b/status", 404)
        await eventually(lambda: service.logged("spans_not_exported"))
        for _ in range(20):
            await service.answers("/internal/v1/batches/b/status", 404)
        assert await service.terminated(within=35) == 0
        assert len(service.logged("spans_not_exported")) == 1
        assert not [line for line in service.output().splitlines() if "opentelemetry" in line]
