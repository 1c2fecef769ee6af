"""Logs: JSON lines that carry who says it, on whose behalf, and a whole traceback in one line."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from typing import Any, Literal
from uuid import UUID

import pytest
import structlog
from pydantic import SecretStr

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
        structlog.reset_defaults()


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
