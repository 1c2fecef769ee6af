"""How an operator's command runs: to an exit status, and to one clear line where it cannot run."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from io import TextIOWrapper
from typing import ParamSpec

import click
from aiokafka.errors import KafkaError
from dishka import AsyncContainer, Provider

from result_aggregator_service.failpoints import arm
from result_aggregator_service.observability.logging import configure_logging
from result_aggregator_service.providers import create_container
from result_aggregator_service.settings import Settings, SettingsError
from result_aggregator_service.storage.errors import DATABASE_ERRORS

Arguments = ParamSpec("Arguments")

STATUS_DONE, STATUS_NOT_DONE, STATUS_CANNOT_RUN = 0, 1, 2


class CannotRunError(Exception):
    """What was asked for cannot be done. The text is one line that says why and, where known, the mend."""


def command(work: Callable[Arguments, Awaitable[int]]) -> Callable[Arguments, None]:
    """Run an async command to its exit status; settings and servers in trouble end it with one clear line."""

    @wraps(work)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")  # a terminal that knows few characters ends no command
        try:
            sys.exit(asyncio.run(_awaited(work(*args, **kwargs))))
        except BrokenPipeError:
            raise  # a reader such as `head` has seen enough; click ends the process without a word
        except (CannotRunError, SettingsError, KafkaError, *DATABASE_ERRORS) as error:
            name = click.get_current_context().command_path.split()[1]
            click.echo(f"{name}: {(str(error) or type(error).__name__).splitlines()[0]}", err=True)
            sys.exit(STATUS_CANNOT_RUN)

    return run


async def _awaited(work: Awaitable[int]) -> int:
    return await work


@asynccontextmanager
async def opened(*swapped: Provider) -> AsyncIterator[AsyncContainer]:
    """The service's container, without its loops; what `swapped` provides takes the place of the service's own."""
    settings = Settings.load().model_copy(update={"log_level": "ERROR"})
    configure_logging(settings)
    arm(settings.failpoints)
    container = create_container(settings, *swapped)
    try:
        yield container
    finally:
        await container.close()
