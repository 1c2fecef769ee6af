"""Servers for development and tests without Docker: PostgreSQL, PgBouncer, Valkey, Kafka (Apache's, a mock); faults.

Nothing here imports the service, and every server started here ends with the process that started it.
"""

from embedded.apache_kafka import ApacheKafka, ApacheKafkaCluster
from embedded.mock_kafka import MockKafka
from embedded.pgbouncer import EmbeddedPgBouncer
from embedded.postgres import EmbeddedPostgres
from embedded.process import ServerError, ServerProcess, free_port, server_folder
from embedded.tcp_proxy import TcpProxy
from embedded.valkey import EmbeddedValkey

__all__ = [
    "ApacheKafka",
    "ApacheKafkaCluster",
    "EmbeddedPgBouncer",
    "EmbeddedPostgres",
    "EmbeddedValkey",
    "MockKafka",
    "ServerError",
    "ServerProcess",
    "TcpProxy",
    "free_port",
    "server_folder",
]
