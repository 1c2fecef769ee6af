"""Logs: structlog, JSON lines in production, readable on a terminal; the standard library's logs go the same way.

A line of structlog's is rendered once and written by the root logger's handler: the records of the standard library,
which look for their caller and are copied for each formatter, would cost more than the line.
"""

import json
import logging
import sys
from contextlib import nullcontext, suppress
from typing import Any, TextIO

import orjson
import structlog
from structlog.typing import Processor

from result_aggregator_service.settings import Settings


def configure_logging(settings: Settings) -> None:
    """Set up structlog and the standard library's root logger, once for each process."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        _service(settings.service_name, settings.service_version),
    ]
    renderer: list[Processor] = (
        [structlog.dev.ConsoleRenderer()] if sys.stderr.isatty() else [structlog.processors.format_exc_info, _to_json]
    )
    handler = logging.StreamHandler(sys.stderr)
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level]),
        logger_factory=lambda *_: _Lines(handler),
        cache_logger_on_first_use=False,
    )
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level)
    for name in ("aiokafka", "uvicorn", "hypercorn", "quart", "asyncio"):
        logging.getLogger(name).handlers.clear()
        logging.getLogger(name).propagate = True
    # Kafka away is told of once for each try by whoever tries; aiokafka tells of every connection.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.raiseExceptions = False  # a log line that cannot be written stops nothing


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


def first_line(error: BaseException | None) -> str:
    """What an error says, in one line of at most 500 characters; its type, where it says nothing (a timeout, say)."""
    return next(iter(str(error or "").splitlines()), "")[:500] or type(error).__name__


def _to_json(_logger: Any, _method: str, event: Any) -> str:
    try:
        return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:  # a lone surrogate, a whole number beyond 64 bits
        return json.dumps(event, default=repr)


def _service(name: str, version: str) -> Processor:
    def add(_logger: Any, _method: str, event: Any) -> Any:
        event["service"] = name
        event["version"] = version
        return event

    return add
