"""Logs: structlog, JSON lines in production, readable on a terminal; the standard library's logs go the same way.

A line of structlog's is rendered once and written by the root logger's handler: the records of the standard library,
which look for their caller and are copied for each formatter, would cost more than the line. Invariant: whatever is
wrong with a line, or with the place that it is written to, stops nothing.
"""

import asyncio
import atexit
import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from types import TracebackType
from typing import Any, TextIO

import orjson
import structlog
from structlog.typing import Processor

from result_aggregator_service.settings import Settings

_OF_SPANS = "opentelemetry.exporter.otlp.proto.http.trace_exporter"

_log = structlog.get_logger(__name__)


def configure_logging(settings: Settings) -> None:
    """Set up structlog and the standard library's root logger, once for each process."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _service(settings.service_name, settings.service_version),
    ]
    # A process that was started without a standard error has None for it.
    stream = sys.stderr or open(os.devnull, "w")  # noqa: SIM115 - for as long as the process lives
    renderer = _safely(structlog.dev.ConsoleRenderer() if stream.isatty() else _to_json)
    atexit.register(_give_up, stream)
    handler = logging.StreamHandler(stream)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level]),
        logger_factory=lambda *_: _Lines(handler),
        cache_logger_on_first_use=False,
    )
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for name in ("aiokafka", "uvicorn", "hypercorn", "quart", "asyncio"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # Kafka away is told of once for each try by whoever tries; aiokafka tells of every connection. So does whoever
    # exports spans, where the SDK tells of each try, and of each span that its full queue has no room for.
    for name in ("aiokafka", _OF_SPANS, "opentelemetry.sdk._shared_internal"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.captureWarnings(True)
    logging.raiseExceptions = False  # a log line that cannot be written stops nothing


def log_what_nobody_catches(loop: asyncio.AbstractEventLoop) -> None:
    """Have what ends a task, a thread, a destructor or the process logged, rather than printed over many lines."""

    def of_loop(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        _unhandled("event loop", context.get("exception"), context["message"])

    def of_process(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
        _unhandled("process", error)

    def of_thread(told: threading.ExceptHookArgs) -> None:
        _unhandled("thread", told.exc_value, None if told.thread is None else told.thread.name)

    def of_destructor(told: "sys.UnraisableHookArgs") -> None:
        _unhandled("destructor", told.exc_value, told.err_msg)

    loop.set_exception_handler(of_loop)
    sys.excepthook, threading.excepthook, sys.unraisablehook = of_process, of_thread, of_destructor


def _unhandled(where: str, error: BaseException | None, reason: str | None = None) -> None:
    _log.error("unhandled_exception", where=where, reason=reason, exc_info=error)


class _Lines:
    """Writes whole lines where a handler writes its own."""

    def __init__(self, handler: "logging.StreamHandler[TextIO]") -> None:
        self._handler = handler

    def msg(self, line: str) -> None:
        """Write a line; one that cannot be written stops nothing."""
        with suppress(OSError, ValueError), self._handler.lock or nullcontext():
            self._handler.stream.write(f"{line}\n")
            self._handler.flush()

    debug = info = warning = error = critical = exception = msg


def _give_up(stream: TextIO) -> None:
    """Throw away what could not be written: Python, which tries again at its end, would make it exit status 120."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def first_line(error: BaseException | None) -> str:
    """What an error says, in one line of at most 500 characters; its type, where it says nothing (a timeout, say)."""
    return next(iter(str(error or "").splitlines()), "")[:500] or type(error).__name__


def traceback_of(error: BaseException) -> str:
    """Where an error comes from, and what led to it. Of what each says the first line only.

    In further lines PostgreSQL, SQLAlchemy and pydantic quote the values that they did not like.
    """
    return "\n".join(_told(error, set()))


def _told(error: BaseException, seen: set[int]) -> Iterator[str]:
    seen.add(id(error))
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen:
        yield from _told(before, seen)
        yield "which led to:"
    yield "Traceback (most recent call last):"
    yield "".join(traceback.format_tb(error.__traceback__)).rstrip("\n")
    yield f"{type(error).__module__}.{type(error).__qualname__}: {first_line(error)}".removeprefix("builtins.")
    for part in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        if id(part) not in seen:
            yield from _told(part, seen)


def _safely(render: Processor) -> Processor:
    """The last step of a line: with its exception in it, and at least its event told, whatever its fields are like."""
    tell_exception = structlog.processors.ExceptionRenderer(lambda given: traceback_of(given[1]))

    def rendered(logger: Any, method: str, event: Any) -> Any:
        try:
            return render(logger, method, tell_exception(logger, method, dict(event)))
        except Exception as error:  # noqa: BLE001 - a log line that cannot be made stops nothing
            kept = {name: str(event[name]) for name in ("event", "level", "timestamp", "service") if name in event}
            return json.dumps({**kept, "not_rendered": type(error).__name__})

    return rendered


def _to_json(_logger: Any, _method: str, event: Any) -> str:
    try:
        return orjson.dumps(event, default=_repr, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # a lone surrogate, a whole number beyond 64 bits
        return json.dumps(event, default=_repr)


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception as error:  # noqa: BLE001 - whatever it is, the other fields are told
        return f"<{type(value).__name__}: {type(error).__name__}>"


def _service(name: str, version: str) -> Processor:
    def add(_logger: Any, _method: str, event: Any) -> Any:
        event["service"] = name
        event["version"] = version
        return event

    return add
