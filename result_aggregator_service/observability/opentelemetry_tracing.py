"""Tracing by OpenTelemetry, named by its semantic conventions (1.44; those of messaging are not final yet).

Invariant: the service never waits for a collector, and a collector that is away costs it no more than a bounded queue.
A span says of an error what a log line says of it, so it quotes no values either.
"""

import asyncio
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice

import structlog
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, format_span_id, format_trace_id, use_span
from opentelemetry.trace import Span as RecordedSpan
from opentelemetry.trace.propagation import get_current_span
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from result_aggregator_service.observability.logging import first_line, traceback_of
from result_aggregator_service.observability.tracing import Span, Tracing
from result_aggregator_service.settings import Settings

MOST_LINKS = 128
_SECONDS_TO_EXPORT_AT_THE_END = 2.0
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})
# Probes and the operator's page ask every few seconds; their answers are no news.
_QUIET = frozenset({"/livez", "/readyz", "/healthz", "/metrics", "/history.json"})

_log = structlog.get_logger(__name__)
_propagator = TraceContextTextMapPropagator()


def otlp_processor() -> SpanProcessor:
    """Exports in the background, by OTLP over HTTP, as the OTEL_EXPORTER_OTLP_ and OTEL_BSP_ variables say.

    Raises:
        ValueError: one of them is wrong.
    """
    return BatchSpanProcessor(WatchedExporter(OTLPSpanExporter()))


class WatchedExporter(SpanExporter):
    """Says once when spans cannot be exported any more, and when they can be again."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter
        self._works = True

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = self._exporter.export(spans)
        works = result is SpanExportResult.SUCCESS
        if works and not self._works:
            _log.info("spans_exported_again")
        elif self._works and not works:
            _log.warning("spans_not_exported", spans=len(spans))
        self._works = works
        return result

    def shutdown(self) -> None:
        self._exporter.shutdown()


class _Recorded(Span):
    """A span that is exported, unless the sampler leaves it out."""

    __slots__ = ("_method", "span")

    def __init__(self, span: RecordedSpan, method: str = "") -> None:
        self.span = span
        self._method = method

    def failed(self, error: BaseException) -> None:
        kind = type(error).__qualname__
        self.span.add_event(
            "exception",
            {
                "exception.type": kind,
                "exception.message": first_line(error),
                "exception.stacktrace": traceback_of(error),
            },
        )
        self.span.set_attribute("error.type", kind)
        self.span.set_status(Status(StatusCode.ERROR, first_line(error)))

    def answered(self, route: str | None, status_code: int) -> None:
        self.span.set_attribute("http.response.status_code", status_code)
        if route is not None:
            self.span.set_attribute("http.route", route)
            self.span.update_name(f"{self._method} {route}")
        if status_code >= 500:
            self.span.set_attribute("error.type", str(status_code))
            self.span.set_status(Status(StatusCode.ERROR))


class OpenTelemetryTracing(Tracing):
    """Opens spans that `processor` gets. What is logged while one is current carries its `trace_id` and `span_id`."""

    def __init__(self, settings: Settings, processor: SpanProcessor) -> None:
        self._provider = TracerProvider(
            resource=Resource.create(
                {
                    "service.name": settings.service_name,
                    "service.version": settings.service_version,
                    "deployment.environment.name": settings.environment,
                }
            ),
            shutdown_on_exit=False,  # `close` does it, in its own time
        )
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("result_aggregator_service", settings.service_version)
        url = settings.postgres_url
        self._database = url.database or "postgresql"
        self._of_database: dict[str, AttributeValue] = {
            "db.system.name": "postgresql",
            "db.namespace": self._database,
            "server.address": url.host or "",
            "server.port": url.port or 5432,
        }
        self._of_consumer: dict[str, AttributeValue] = {
            "messaging.system": "kafka",
            "messaging.operation.name": "process",
            "messaging.operation.type": "process",
            "messaging.consumer.group.name": settings.kafka_consumer_group_id,
            "messaging.client.id": settings.service_name,
        }
        self._of_producer: dict[str, AttributeValue] = {
            "messaging.system": "kafka",
            "messaging.operation.name": "send",
            "messaging.operation.type": "send",
            "messaging.client.id": settings.kafka_producer_client_id,
        }

    @contextmanager
    def poll(self, topics: Iterable[str], traceparents: Iterable[str | None]) -> Iterator[Span]:
        with self._of_messages(SpanKind.CONSUMER, self._of_consumer, list(topics), traceparents) as span:
            yield span

    @contextmanager
    def send(self, topics: Sequence[str], traceparents: Iterable[str | None]) -> Iterator[Span]:
        with self._of_messages(SpanKind.PRODUCER, self._of_producer, topics, traceparents) as span:
            yield span

    @contextmanager
    def transaction(self, operation: str) -> Iterator[Span]:
        attributes = {**self._of_database, "db.operation.name": operation}
        span = self._tracer.start_span(f"{operation} {self._database}", None, SpanKind.CLIENT, attributes)
        with self._current(_Recorded(span)) as recorded:
            yield recorded

    @contextmanager
    def request(self, method: str, path: str, headers: dict[bytes, bytes]) -> Iterator[Span]:
        if path in _QUIET:
            yield Span()
            return
        known = method if method in _METHODS else "_OTHER"
        attributes: dict[str, AttributeValue] = {"http.request.method": known, "url.path": path, "url.scheme": "http"}
        name = "HTTP" if known == "_OTHER" else known
        given = {
            field: headers[field.encode()].decode("latin-1")
            for field in ("traceparent", "tracestate")
            if field.encode() in headers
        }
        span = self._tracer.start_span(name, _context_of(given), SpanKind.SERVER, attributes)
        with self._current(_Recorded(span, name)) as recorded:
            yield recorded

    async def close(self) -> None:
        # A thread that nobody waits for: a collector that hangs must not hold up the end of the process.
        closing = threading.Thread(target=self._provider.shutdown, name="last export of spans", daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, _SECONDS_TO_EXPORT_AT_THE_END)

    @contextmanager
    def _of_messages(
        self,
        kind: SpanKind,
        attributes: Mapping[str, AttributeValue],
        topics: Sequence[str],
        traceparents: Iterable[str | None],
    ) -> Iterator[Span]:
        """A span of messages: it has links to their contexts, and is a child only where it has one message."""
        one_topic = topics[0] if len(set(topics)) == 1 else None
        told = {**attributes, "messaging.batch.message_count": len(topics)}
        name = str(told["messaging.operation.name"])
        if one_topic is not None:
            told["messaging.destination.name"] = one_topic
            name = f"{name} {one_topic}"
        different = islice(dict.fromkeys(filter(None, traceparents)), MOST_LINKS)
        contexts = [_context_of({"traceparent": traceparent}) for traceparent in different]
        causes = [get_current_span(context).get_span_context() for context in contexts]
        links = [Link(cause) for cause in causes if cause.is_valid]
        parent = contexts[0] if len(topics) == 1 and contexts else Context()
        span = self._tracer.start_span(name, parent, kind, told, links)
        with self._current(_Recorded(span)) as recorded:
            yield recorded

    @contextmanager
    def _current(self, recorded: _Recorded) -> Iterator[_Recorded]:
        """Within the block the span is current, also for what is logged; an error that leaves it is noted."""
        ids = recorded.span.get_span_context()
        with (
            use_span(recorded.span, end_on_exit=True, record_exception=False, set_status_on_exception=False),
            structlog.contextvars.bound_contextvars(
                trace_id=format_trace_id(ids.trace_id), span_id=format_span_id(ids.span_id)
            ),
        ):
            try:
                yield recorded
            except BaseException as error:
                recorded.failed(error)
                raise


def _context_of(headers: Mapping[str, str]) -> Context:
    """The context that headers carry; one without a span where they carry none."""
    return _propagator.extract(headers, Context())
