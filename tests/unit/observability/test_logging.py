"""Logs: JSON lines that carry who says it, on whose behalf, and a whole traceback in one line."""

import asyncio
import contextlib
import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any, Literal
from uuid import UUID

import pytest
import structlog
from pydantic import SecretStr, TypeAdapter, ValidationError

from result_aggregator_service.observability.logging import configure_logging, first_line
from result_aggregator_service.settings import Settings


def settings(level: Literal["INFO", "WARNING"] = "INFO") -> Settings:
    return Settings(
        database_url=SecretStr("postgresql://localhost/x"),
        environment="development",
        service_name="the-service",
        service_version="1.2.3",
        log_level=level,
    )


@pytest.fixture
def configured() -> Iterator[None]:
    """Logging as the service sets it up, and afterwards as it was."""
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    others = {name: logging.getLogger(name).level for name in ("aiokafka", "uvicorn")}
    try:
        configure_logging(settings())
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.raiseExceptions = raising
        for name, known in others.items():
            logging.getLogger(name).setLevel(known)
        logging.captureWarnings(False)
        structlog.reset_defaults()


class Terminal(io.StringIO):
    """Where somebody reads."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def configured_terminal(configured: None) -> Iterator[Terminal]:
    """Logging as the service sets it up on a terminal."""
    with contextlib.redirect_stderr(Terminal()) as terminal:
        configure_logging(settings())
        yield terminal


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """What was logged, each line by itself."""
    out, err = capsys.readouterr()
    assert out == ""
    return [json.loads(line) for line in err.splitlines()]


@pytest.mark.usefixtures("configured")
def test_a_line_is_json_and_says_which_service_and_version_it_is_from(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings())
    structlog.get_logger().info("batch finished", batch_id="b", text="ö\n")
    (line,) = lines(capsys)
    assert line["event"] == "batch finished"
    assert (line["service"], line["version"], line["level"]) == ("the-service", "1.2.3", "info")
    assert (line["batch_id"], line["text"]) == ("b", "ö\n")
    assert line["timestamp"].endswith("Z")


@pytest.mark.usefixtures("configured")
def test_whatever_is_told_is_a_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings())
    for value in ("\ud800", 2**70, float("nan"), {1: UUID(int=1)}, {1}, b"\xff", object()):
        structlog.get_logger().info("odd", value=value)
        logging.getLogger("other").info("odd: %s", value)
    assert len(lines(capsys)) == 14


@pytest.mark.usefixtures("configured")
def test_the_standard_librarys_lines_look_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings())
    logging.getLogger("somebody.else").warning("careful: %s", "hot")
    (line,) = lines(capsys)
    assert (line["event"], line["level"], line["service"]) == ("careful: hot", "warning", "the-service")


@pytest.mark.usefixtures("configured")
def test_what_is_bound_to_the_context_is_in_every_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings())
    with structlog.contextvars.bound_contextvars(correlation_id="c", topic="t", partition=1, offset=2):
        structlog.get_logger().info("one")
        logging.getLogger("other").info("two")
    structlog.get_logger().info("three")
    one, two, three = lines(capsys)
    assert all((line["correlation_id"], line["offset"]) == ("c", 2) for line in (one, two))
    assert "correlation_id" not in three


@pytest.mark.usefixtures("configured")
def test_a_traceback_is_part_of_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings())
    try:
        raise ValueError("here it broke")
    except ValueError:
        structlog.get_logger().exception("failed")
    (line,) = lines(capsys)
    assert line["level"] == "error"
    assert "ValueError: here it broke" in line["exception"]


@pytest.mark.usefixtures("configured")
def test_lines_below_the_level_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings("WARNING"))
    structlog.get_logger().info("no")
    logging.getLogger("other").info("no")
    logging.getLogger("aiokafka.consumer").info("no")
    structlog.get_logger().warning("yes")
    assert [line["event"] for line in lines(capsys)] == ["yes"]


def test_a_log_that_nobody_reads_any_more_stops_nothing() -> None:
    program = """
import os, structlog
from tests.unit.observability.test_logging import settings
from result_aggregator_service.observability.logging import configure_logging, first_line
configure_logging(settings())
reader, writer = os.pipe()
os.dup2(writer, 2)
os.close(reader)
os.close(writer)
structlog.get_logger().info("into the void")
print("still here")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.returncode) == ("still here\n", 0)


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("one\ntwo"), "one"),
        (TimeoutError(), "TimeoutError"),
        (ValueError("\n"), "ValueError"),
        (ValueError("x" * 1000), "x" * 500),
        (None, "NoneType"),
    ],
)
def test_an_error_is_told_in_one_line_even_if_it_says_nothing(error: BaseException | None, line: str) -> None:
    assert first_line(error) == line


class Unspeakable:
    """A value that cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("not even its name")

    __str__ = __repr__


@pytest.mark.usefixtures("configured")
def test_a_value_that_cannot_be_shown_costs_no_other_field(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings())
    structlog.get_logger().info("odd", value=Unspeakable(), other=1)
    structlog.get_logger().info("odd", value={"surrogate": "\ud800", "deep": [Unspeakable()]}, other=1)
    for line in lines(capsys):
        assert (line["event"], line["other"]) == ("odd", 1)
        assert "Unspeakable" in str(line["value"])


@pytest.mark.usefixtures("configured")
def test_a_line_that_cannot_be_rendered_still_tells_its_event(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings())

    class UnspeakableError(Exception):
        __str__ = Unspeakable.__repr__

    structlog.get_logger().error("failed", exc_info=UnspeakableError())
    logging.getLogger("other").error("stated: %s", Unspeakable())
    (line,) = lines(capsys)
    assert (line["event"], line["level"], line["not_rendered"]) == ("failed", "error", "RuntimeError")


def test_on_a_terminal_a_line_is_readable_and_shows_no_variables(configured_terminal: Terminal) -> None:
    secret = "hunter2"
    try:
        raise ValueError("here it broke")
    except ValueError:
        structlog.get_logger().exception("failed", batch_id="b", odd=Unspeakable())
        structlog.get_logger().exception("failed", batch_id="b")
    first, *rest = configured_terminal.getvalue().splitlines()
    assert json.loads(first)["event"] == "failed"
    assert "failed" in rest[0]
    assert "ValueError: here it broke" in "\n".join(rest)
    assert secret not in configured_terminal.getvalue()


@pytest.mark.usefixtures("configured")
def test_of_an_errors_text_only_the_first_line_is_told_and_of_its_causes_too(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Further lines of PostgreSQL's and pydantic's errors quote values."""
    configure_logging(settings())
    text = "what a pupil " + "wrote"
    try:
        try:
            TypeAdapter(int).validate_python(text)
        except ValidationError as cause:
            raise ExceptionGroup("two", [ValueError(f"one\nDETAIL: {text}"), KeyError("b")]) from cause
    except ExceptionGroup as error:
        structlog.get_logger().error("failed", exc_info=error)
        logging.getLogger("other").exception("failed")
    for line in lines(capsys):
        told = line["exception"]
        assert text not in str(line)
        assert told.index("1 validation error for int") < told.index("which led to") < told.index("ExceptionGroup: two")
        assert told.endswith("KeyError: 'b'")
        assert told.count("test_logging.py") == 2


@pytest.mark.usefixtures("configured")
def test_an_error_that_is_its_own_cause_ends_nowhere_else(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings())
    first, second = ValueError("first"), ValueError("second")
    first.__context__, second.__context__ = second, first
    structlog.get_logger().error("failed", exc_info=first)
    (line,) = lines(capsys)
    assert line["exception"].count("ValueError") == 2


@pytest.mark.usefixtures("configured")
def test_libraries_lines_and_warnings_say_whose_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging(settings())
    for name in ("uvicorn.error", "sqlalchemy.pool", "asyncio"):
        logging.getLogger(name).error("trouble")
    logging.getLogger("aiokafka.conn").critical("trouble")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)  # now in the place of what the block before this one put there
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    told = lines(capsys)
    assert [line["logger"] for line in told] == [
        "uvicorn.error",
        "sqlalchemy.pool",
        "asyncio",
        "aiokafka.conn",
        "py.warnings",
    ]
    assert "DeprecationWarning: old" in told[-1]["event"]
    assert told[-1]["level"] == "warning"


def test_what_nobody_catches_is_told_in_lines_of_json() -> None:
    program = """
import asyncio, sys, threading
from tests.unit.observability.test_logging import settings
from result_aggregator_service.observability.logging import configure_logging, log_what_nobody_catches

class Falling:
    def __del__(self): raise ValueError("destructor\\nvalue")

async def fail(): raise ValueError("event loop\\nvalue")

def fail_now(where): raise ValueError(f"{where}\\nvalue")

async def main():
    log_what_nobody_catches(asyncio.get_running_loop())
    task = asyncio.create_task(fail())
    await asyncio.wait({task})
    del task
    thread = threading.Thread(target=fail_now, args=("thread",))
    thread.start()
    thread.join()
    falling = Falling()
    del falling
    fail_now("process")

configure_logging(settings())
asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    told = [json.loads(line) for line in done.stderr.splitlines()]
    assert {line["event"] for line in told} == {"unhandled_exception"}
    assert [line["where"] for line in told] == ["event loop", "thread", "destructor", "process"]
    for line in told:
        assert line["exception"].endswith(f"ValueError: {line['where']}")
    assert done.returncode == 1


async def test_what_is_bound_for_one_task_is_seen_by_no_other() -> None:
    """Requests and polls run beside each other; the context of each is its own."""
    both_are_inside = asyncio.Barrier(2)

    async def work(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        with structlog.contextvars.bound_contextvars(correlation_id=name):
            await both_are_inside.wait()
            inside = structlog.contextvars.get_contextvars()
        return inside, structlog.contextvars.get_contextvars()

    (one, after_one), (two, after_two) = await asyncio.gather(work("one"), work("two"))
    assert (one["correlation_id"], two["correlation_id"]) == ("one", "two")
    assert "correlation_id" not in after_one | after_two | structlog.contextvars.get_contextvars()
