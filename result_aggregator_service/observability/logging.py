"""Logs: structlog, JSON lines in production, readable on a terminal; the standard library's logs go the same way."""

import logging
import sys
from typing import Any

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
        [structlog.dev.ConsoleRenderer()]
        if sys.stderr.isatty()
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
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


def first_line(error: BaseException | None) -> str:
    """What an error says, in one line of at most 500 characters; its type, where it says nothing (a timeout, say)."""
    return next(iter(str(error or "").splitlines()), "")[:500] or type(error).__name__


def _service(name: str, version: str) -> Processor:
    def add(_logger: Any, _method: str, event: Any) -> Any:
        event["service"] = name
        event["version"] = version
        return event

    return add
