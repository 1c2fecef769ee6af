"""Tracing by itself: off without a trace of it, on with spans as the conventions name them, and never in the way."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator, Sequence
from threading import Event

import pytest
import structlog
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import SecretStr
from structlog.testing import capture_logs

from result_aggregator_service.observability.opentelemetry_tracing import (
    MOST_LINKS,
    OpenTelemetryTracing,
    WatchedExporter,
)
from result_aggregator_service.observability.tracing import NO_TRACING, Tracing, create_tracing
from result_aggregator_service.settings import Settings, SettingsError

CAUSE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
OTHER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
NOT_SAMPLED = "00-11111111111111111111111111111111-2222222222222222-00"


def settings() -> Settings:
    return Settings(
        _env_file=None,
        database_url=SecretStr("postgresql://user:hunter2@db.example:6543/results"),
        environment="development",
        service_name="the-service",
        service_version="1.2.3",
        kafka_consumer_group_id="the-group",
    )


@pytest.fixture(autouse=True)
def no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the environment holds."""
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_TRACES_SAMPLER"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Tracing:
    return OpenTelemetryTracing(settings(), SimpleSpanProcessor(exporter))


def trace_ids(spans: Sequence[ReadableSpan]) -> list[str]:
    return [f"{link.context.trace_id:032x}" for span in spans for link in span.links]


def test_off_nothing_of_it_is_loaded() -> None:
    program = """
import sys
from dishka import make_async_container
from result_aggregator_service import server
from result_aggregator_service.observability.tracing import NO_TRACING, create_tracing
from tests.unit.observability.test_logging import settings
assert create_tracing(settings()) is NO_TRACING
# redis loads what it needs to offer metrics, from wherever it is used: 3 MiB of opentelemetry.sdk.metrics
ours = ("opentelemetry.exporter", "opentelemetry.sdk.trace", "opentelemetry.proto", "google.protobuf", "requests")
print([name for name in sys.modules if name.startswith((*ours, "result_aggregator_service.observability.opentel"))])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("[]\n", 0), done.stderr


def test_off_a_span_takes_everything_and_nothing_is_made_for_it() -> None:
    with NO_TRACING.poll(["t"], [CAUSE]) as poll, NO_TRACING.transaction("project") as transaction:
        poll.failed(ValueError())
        transaction.answered(None, 200)
    with (
        NO_TRACING.send(["t"], [None]),
        pytest.raises(ValueError, match="goes through"),
        NO_TRACING.request("", "", {}),
    ):
        raise ValueError("goes through")
    assert NO_TRACING.request("GET", "/", {}) is NO_TRACING.poll(["t"], [CAUSE]), "something is made for each span"


def test_it_is_on_where_an_endpoint_is_set_and_off_where_it_is_disabled(monkeypatch: pytest.MonkeyPatch) -> None:
    assert create_tracing(settings()) is NO_TRACING
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", " ")  # or nothing at all, as compose passes on what is not set
    assert create_tracing(settings()) is NO_TRACING
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"):
        with monkeypatch.context() as endpoint:
            endpoint.setenv(name, "http://127.0.0.1:9")
            tracing = create_tracing(settings())
            assert isinstance(tracing, OpenTelemetryTracing)
            asyncio.run(tracing.close())
            endpoint.setenv("OTEL_SDK_DISABLED", "true")
            assert create_tracing(settings()) is NO_TRACING


def test_a_wrong_variable_stops_the_start_with_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "-1")
    with pytest.raises(SettingsError, match="OTEL_ variable"):
        create_tracing(settings())


def test_a_poll_of_one_message_is_a_child_of_it_and_linked_to_it(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    with tracing.poll(["a-topic"], [CAUSE]), tracing.transaction("project"):
        pass
    transaction, poll = exporter.get_finished_spans()
    assert (poll.name, poll.kind) == ("process a-topic", SpanKind.CONSUMER)
    assert poll.parent is not None
    assert f"{poll.parent.trace_id:032x}-{poll.parent.span_id:016x}" in CAUSE
    assert trace_ids([poll]) == [CAUSE[3:35]]
    assert poll.attributes == {
        "messaging.system": "kafka",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.consumer.group.name": "the-group",
        "messaging.client.id": "the-service",
        "messaging.batch.message_count": 1,
        "messaging.destination.name": "a-topic",
    }
    assert (transaction.name, transaction.kind) == ("project results", SpanKind.CLIENT)
    assert transaction.parent == poll.get_span_context()
    assert transaction.attributes == {
        "db.system.name": "postgresql",
        "db.namespace": "results",
        "db.operation.name": "project",
        "server.address": "db.example",
        "server.port": 6543,
    }
    given = poll.resource.attributes
    assert [given[name] for name in ("service.name", "service.version", "deployment.environment.name")] == [
        "the-service",
        "1.2.3",
        "development",
    ]


def test_a_poll_of_many_is_nobodys_child_and_has_a_link_to_each_context_that_is_one(
    tracing: Tracing, exporter: InMemorySpanExporter
) -> None:
    contexts = [None, CAUSE, OTHER, CAUSE, "nonsense", "00-" + "0" * 32 + "-00f067aa0ba902b7-01"]
    with tracing.poll(["one", "two", "one", "one", "one", "one"], contexts):
        pass
    (poll,) = exporter.get_finished_spans()
    assert (poll.name, poll.parent) == ("process", None)
    assert poll.attributes is not None
    assert "messaging.destination.name" not in poll.attributes
    assert poll.attributes["messaging.batch.message_count"] == 6
    assert trace_ids([poll]) == [CAUSE[3:35], OTHER[3:35]]


def test_links_are_bounded(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    with tracing.poll(["t"] * 1000, (f"00-{number:032x}-00f067aa0ba902b7-01" for number in range(1, 1001))):
        pass
    (poll,) = exporter.get_finished_spans()
    assert trace_ids([poll]) == [f"{number:032x}" for number in range(1, MOST_LINKS + 1)]


def test_a_send_tells_what_kafka_refused(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    with tracing.send(["t", "t"], [CAUSE, OTHER]) as span:
        span.failed(ValueError("too large\nDETAIL: what a pupil wrote"))
    (send,) = exporter.get_finished_spans()
    assert (send.name, send.kind, send.parent) == ("send t", SpanKind.PRODUCER, None)
    assert trace_ids([send]) == [CAUSE[3:35], OTHER[3:35]]
    assert send.attributes is not None
    assert send.attributes["messaging.operation.type"] == "send"
    assert send.attributes["error.type"] == "ValueError"
    assert send.status.status_code is StatusCode.ERROR
    assert "pupil" not in send.to_json()


def test_an_error_that_leaves_a_block_is_recorded(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    for error in (ValueError("bad"), asyncio.CancelledError()):
        exporter.clear()
        with pytest.raises(type(error)), tracing.transaction("project"):
            raise error
        (span,) = exporter.get_finished_spans()
        (event,) = span.events
        assert event.attributes is not None
        assert event.attributes["exception.type"] == type(error).__name__
        assert span.status.status_code is StatusCode.ERROR


def test_what_is_logged_in_a_span_carries_its_ids_and_nothing_after_it(tracing: Tracing) -> None:
    log = structlog.get_logger()
    with capture_logs([structlog.contextvars.merge_contextvars]) as lines:
        with tracing.poll(["t"], [CAUSE]):
            log.info("in poll")
            with tracing.transaction("project"):
                log.info("in transaction")
            log.info("in poll")
        log.info("after")
    poll, transaction, again, after = lines
    assert poll["trace_id"] == transaction["trace_id"] == CAUSE[3:35]
    assert poll["span_id"] == again["span_id"] != transaction["span_id"]
    assert not {"trace_id", "span_id"} & after.keys()


@pytest.mark.parametrize(
    ("sampler", "argument", "sampled"),
    [("always_off", "", 0), ("traceidratio", "0.0", 0), ("parentbased_always_on", "", 1), ("always_on", "", 2)],
)
def test_the_standard_variables_say_what_is_sampled(
    sampler: str, argument: str, sampled: int, exporter: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    tracing = OpenTelemetryTracing(settings(), SimpleSpanProcessor(exporter))
    for parent in (CAUSE, NOT_SAMPLED):
        with tracing.request("GET", "/x", {b"traceparent": parent.encode()}):
            pass
    assert len(exporter.get_finished_spans()) == sampled


@pytest.mark.parametrize(
    ("method", "route", "status", "name", "is_error"),
    [
        ("GET", "/batches/{batch_id}", 200, "GET /batches/{batch_id}", False),
        ("GET", None, 404, "GET", False),
        ("BREW", None, 405, "HTTP", False),
        ("GET", "/batches/{batch_id}", 503, "GET /batches/{batch_id}", True),
    ],
)
def test_a_request_is_named_by_its_route(
    method: str,
    route: str | None,
    status: int,
    name: str,
    is_error: bool,
    tracing: Tracing,
    exporter: InMemorySpanExporter,
) -> None:
    headers = {b"traceparent": CAUSE.encode(), b"tracestate": b"vendor=1", b"x-internal-api-key": b"secret"}
    with tracing.request(method, "/batches/b", headers) as span:
        span.answered(route, status)
    (request,) = exporter.get_finished_spans()
    assert (request.name, request.kind) == (name, SpanKind.SERVER)
    assert request.parent is not None
    assert f"{request.parent.trace_id:032x}-{request.parent.span_id:016x}" in CAUSE
    assert request.parent.trace_state.get("vendor") == "1"
    assert request.attributes is not None
    assert request.attributes.get("http.route") == route
    assert request.attributes["http.response.status_code"] == status
    assert request.attributes["url.path"] == "/batches/b"
    assert (request.status.status_code is StatusCode.ERROR) == is_error
    assert "secret" not in request.to_json()


def test_headers_that_are_no_context_make_a_trace_of_its_own(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    for given in (b"", b"nonsense", b"\xff" * 100, b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01"):
        with tracing.request("GET", "/x", {b"traceparent": given, b"tracestate": b"\xff=,=,"}):
            pass
    assert [span.parent for span in exporter.get_finished_spans()] == [None] * 4


def test_probes_have_no_spans(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    for path in ("/livez", "/readyz", "/healthz", "/metrics"):
        with tracing.request("GET", path, {}) as span:
            span.answered(path, 200)
    assert not exporter.get_finished_spans()


class Collector(SpanExporter):
    """Takes spans or not, as it is told; hangs until it is let go."""

    def __init__(self) -> None:
        self.takes = True
        self.go_on = Event()
        self.asked = Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.asked.set()
        self.go_on.wait()
        return SpanExportResult.SUCCESS if self.takes else SpanExportResult.FAILURE


@pytest.fixture
def hanging() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.go_on.set()


async def test_a_collector_that_hangs_holds_up_neither_the_work_nor_the_end(hanging: Collector) -> None:
    processor: SpanProcessor = BatchSpanProcessor(hanging, max_queue_size=100, max_export_batch_size=10)
    tracing = OpenTelemetryTracing(settings(), processor)
    for _ in range(1000):
        with tracing.transaction("project"):
            pass
    assert await asyncio.to_thread(hanging.asked.wait, 10)
    await asyncio.wait_for(tracing.close(), 10)
    assert not hanging.go_on.is_set()


async def test_what_is_left_is_exported_at_the_end(exporter: InMemorySpanExporter) -> None:
    tracing = OpenTelemetryTracing(settings(), BatchSpanProcessor(exporter, schedule_delay_millis=3_600_000))
    with tracing.transaction("project"):
        pass
    assert not exporter.get_finished_spans()
    await tracing.close()
    assert len(exporter.get_finished_spans()) == 1


def test_a_collector_that_is_away_is_told_of_once_and_so_is_its_return() -> None:
    collector = Collector()
    collector.go_on.set()
    watched = WatchedExporter(collector)
    with capture_logs() as lines:
        for takes in (True, False, False, True, True, False):
            collector.takes = takes
            watched.export([])
    assert [line["event"] for line in lines] == ["spans_not_exported", "spans_exported_again", "spans_not_exported"]
