"""The command line: `python -m result_aggregator_service [serve]`. Settings come from the environment only."""

import asyncio
import gc
import sys
from typing import NoReturn

import click

from result_aggregator_service import __version__
from result_aggregator_service.commands.asyncapi import asyncapi
from result_aggregator_service.commands.doctor import doctor
from result_aggregator_service.commands.openapi import openapi
from result_aggregator_service.commands.outbox import outbox
from result_aggregator_service.commands.quarantine import quarantine
from result_aggregator_service.commands.replay import replay
from result_aggregator_service.observability.logging import configure_logging
from result_aggregator_service.settings import Settings, SettingsError

# For each message of a poll's size: nine polls or so are read and not decoded, where a message is 9 objects that refer
# to others (counted), and three are decoded and folded, where it is 23. Two thirds as many again for all else.
_OBJECTS_OF_POLLS_AT_HAND = 250
_OBJECTS_AT_LEAST = 100_000


@click.group(invoke_without_command=True)
@click.version_option(__version__)
@click.pass_context
def main(context: click.Context) -> None:
    """HuleEdu's Result Aggregator Service."""
    if context.invoked_subcommand is None:
        context.invoke(serve)


@main.command()
def serve() -> None:
    """Consume, publish and answer until told to stop (the default command)."""
    from result_aggregator_service.server import serve as serve_until_stopped

    settings = load_settings()
    configure_logging(settings)
    # What is imported stays: it need not be looked through for garbage, which takes tens of milliseconds each time.
    # Nor need the polls at hand: none of their objects is garbage before its poll is over. What is done often leaves
    # nothing behind that refers to itself, so there is little to find.
    gc.freeze()
    at_hand = _OBJECTS_OF_POLLS_AT_HAND * settings.kafka_max_poll_records
    gc.set_threshold(max(at_hand, _OBJECTS_AT_LEAST), 20, 100)
    try:
        # On asyncio's own loop: uvloop raises a RuntimeError where something is written to a connection that the other
        # side has closed, which ends aiokafka's background tasks for good (its issue 1038) and is no error of Redis'.
        sys.exit(asyncio.run(serve_until_stopped(settings)))
    except SettingsError as error:
        fail(error)


def load_settings() -> Settings:
    """The settings, or the end of the process with one clear line."""
    try:
        return Settings.load()
    except SettingsError as error:
        fail(error)


def fail(error: SettingsError) -> NoReturn:
    """End the process."""
    click.echo(f"result-aggregator-service: {error}", err=True)
    sys.exit(2)


main.add_command(asyncapi)
main.add_command(doctor)
main.add_command(openapi)
main.add_command(outbox)
main.add_command(quarantine)
main.add_command(replay)


if __name__ == "__main__":
    main(prog_name="result-aggregator-service")
