"""Tracing: what the service tells of its work, span by span; nothing, unless an OTLP endpoint is set.

Invariant: where tracing is off, nothing is made for it and nothing of its libraries is loaded here.
"""

import os
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

from result_aggregator_service.settings import Settings, SettingsError

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Span:
    """One piece of work, as far as anybody is told of it: here nobody is."""

    __slots__ = ()

    def failed(self, error: BaseException) -> None:
        """Note an error that does not leave the block; one that does is noted anyway."""

    def answered(self, route: str | None, status_code: int) -> None:
        """Note the template of the path that was asked for, if there is one, and the answer."""


class Tracing:
    """Opens the spans of the service; this one none. Each is current within its block.

    A `traceparent` is a W3C trace context, as it came; a malformed one, or None, is none.
    """

    def poll(self, topics: Iterable[str], traceparents: Iterable[str | None]) -> AbstractContextManager[Span]:
        """Handle a poll; each of its messages has a topic, and may have a context."""
        return _NO_SPAN

    def transaction(self, operation: str) -> AbstractContextManager[Span]:
        """Run a transaction on PostgreSQL."""
        return _NO_SPAN

    def send(self, topics: Sequence[str], traceparents: Iterable[str | None]) -> AbstractContextManager[Span]:
        """Send messages to Kafka; each has a topic, and may have a context of its own, which it keeps."""
        return _NO_SPAN

    def request(self, method: str, path: str, headers: dict[bytes, bytes]) -> AbstractContextManager[Span]:
        """Answer an HTTP request; the context is in its headers, whose names are in lower case."""
        return _NO_SPAN

    async def close(self) -> None:
        """Export what is left, within a bounded time."""


_NO_SPAN: AbstractContextManager[Span] = nullcontext(Span())
NO_SPAN = Span()
NO_TRACING = Tracing()


def create_tracing(settings: Settings) -> Tracing:
    """Tracing as the standard OTEL_ variables of the environment ask for it.

    Raises:
        SettingsError: one of them is wrong.
    """
    is_disabled = os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if is_disabled or not any(os.environ.get(name, "").strip() for name in _ENDPOINTS):
        return NO_TRACING
    # Only now: it takes 10 MiB and a third of a second.
    from result_aggregator_service.observability.opentelemetry_tracing import OpenTelemetryTracing, otlp_processor

    try:
        return OpenTelemetryTracing(settings, otlp_processor())
    except ValueError as error:
        raise SettingsError(f"an OTEL_ variable of tracing is wrong: {error}") from None
