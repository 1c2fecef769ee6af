"""Servers for development and tests without Docker: PostgreSQL, Valkey, a Kafka mock and Apache Kafka.

Nothing here imports the service, and every server started here ends with the process that started it.
"""

from embedded.apache_kafka import ApacheKafka
from embedded.mock_kafka import MockKafka
from embedded.postgres import EmbeddedPostgres
from embedded.process import ServerError, ServerProcess, server_folder
from embedded.valkey import EmbeddedValkey

__all__ = [
    "ApacheKafka",
    "EmbeddedPostgres",
    "EmbeddedValkey",
    "MockKafka",
    "ServerError",
    "ServerProcess",
    "server_folder",
]
