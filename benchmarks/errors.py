"""What keeps a benchmark from measuring: each is told in one line, and the exit status is 1."""

import asyncpg
import httpx
from confluent_kafka import KafkaException

from demo.player import PlayerError
from embedded import ServerError


class BenchmarkError(RuntimeError):
    """The service does not do what was to be measured."""


class LoadError(RuntimeError):
    """A load could not be put on, or an answer was not the expected one; the text says why."""


#: All that a run may end with: servers that fail, traffic that is not taken, loads, and what asks and looks at them.
ERRORS = (
    ServerError,
    PlayerError,
    KafkaException,
    LoadError,
    BenchmarkError,
    httpx.HTTPError,
    asyncpg.PostgresError,
    OSError,
)
