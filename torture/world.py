"""A world to torture: real servers of its own, replicas of the service, traffic, and a shadow that meets no fault.

The shadow is another whole deployment, on servers nobody touches: PostgreSQL, Valkey, a Kafka mock and one replica,
fed with the same messages. Its rows are what the tortured ones are compared with.
"""

import random
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from demo.stage import Stage, migrate, stage
from demo.traffic import traffic
from demo.wire import PAYLOADS, PUBLISHED_TOPICS, Message
from embedded import ApacheKafka, ApacheKafkaCluster, EmbeddedPostgres, EmbeddedValkey, server_folder
from torture.feed import Feed
from torture.replica import Replica

GRACE_SECONDS = 2.0
GROUP = "tortured-group"
_PARTITIONS = 4
_MORE_THAN_ANYBODY_PLAYS = 100_000

# Short times, so that what takes minutes in production is over in seconds.
SHORT_TIMES = {
    "KAFKA_SESSION_TIMEOUT_MS": "3000",
    "KAFKA_MAX_POLL_INTERVAL_MS": "6000",
    "OUTBOX_POLL_INTERVAL": "0.5",
    "OUTBOX_SEND_TIMEOUT_SECONDS": "5",
    "DATABASE_COMMAND_TIMEOUT_SECONDS": "5",
    "DATABASE_BREAKER_SECONDS": "1",
    "OUTBOX_BREAKER_SECONDS": "1",
    "SHUTDOWN_TIMEOUT_SECONDS": "10",
    "ENVIRONMENT": "torture",
    "LOG_LEVEL": "INFO",
}


class World:
    """Everything stands once the block is entered; replicas are started by whoever tortures them."""

    kafka: ApacheKafka | ApacheKafkaCluster

    def __init__(
        self, seed: int, *, messages: Iterable[Message] | None = None, settings: dict[str, str] | None = None
    ) -> None:
        self.seed = seed
        self.random = random.Random(f"torture/{seed}")
        self.replicas: list[Replica] = []
        self._messages = messages
        self._further_settings = settings or {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self.folder: Path = stack.enter_context(server_folder("result-aggregator-torture-"))
            self.postgres = stack.enter_context(self.make_postgres())
            self.valkey = stack.enter_context(self.make_valkey())
            self.kafka = self.make_kafka()
            stack.enter_context(self.kafka)
            self.database_url = self.postgres.url
            migrate(self.database_url, log=self.folder / "alembic.log")
            self.make_topics()
            self.shadow: Stage = stack.enter_context(stage(GRACE_SECONDS))
            messages = self._messages
            if messages is None:
                messages = traffic(seed=self.seed, batches=_MORE_THAN_ANYBODY_PLAYS, run="torture")
            self.feed = stack.enter_context(Feed(messages, self.kafka.bootstrap_servers, self.shadow.bootstrap_servers))
            stack.callback(self._kill_replicas)
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    # What a world of another make has otherwise.

    def make_postgres(self) -> EmbeddedPostgres:
        """The PostgreSQL that is tortured."""
        return EmbeddedPostgres(self.folder / "postgres", durable=False)

    def make_valkey(self) -> EmbeddedValkey:
        """The Redis that is tortured."""
        return EmbeddedValkey(self.folder / "valkey")

    def make_kafka(self) -> ApacheKafka | ApacheKafkaCluster:
        """The broker that is tortured."""
        return ApacheKafka(self.folder / "kafka", auto_create_topics=False)

    def make_topics(self) -> None:
        """All topics, so that no consumer has to find out about new ones."""
        admin = AdminClient({"bootstrap.servers": self.kafka.bootstrap_servers, "log_level": 0})
        made = admin.create_topics([NewTopic(topic, _PARTITIONS, 1) for topic in (*PAYLOADS, *PUBLISHED_TOPICS)])
        for future in made.values():
            future.result()

    def service_settings(self) -> dict[str, str]:
        """Where the service finds its servers."""
        return {
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.valkey.url,
            "KAFKA_BOOTSTRAP_SERVERS": self.kafka.bootstrap_servers,
        }

    def replica(self, name: str | None = None, **settings: str) -> Replica:
        """Another replica, not started yet; a member of the group that keeps its partitions over a restart."""
        name = name or f"replica-{len(self.replicas) + 1}"
        usual = {
            **SHORT_TIMES,
            **self.service_settings(),
            "KAFKA_CONSUMER_GROUP_ID": GROUP,
            "KAFKA_GROUP_INSTANCE_ID": name,
            "RESULTS_GRACE_SECONDS": f"{GRACE_SECONDS:g}",
            "HOST": "127.0.0.1",
            **self._further_settings,
        }
        replica = Replica(name, self.folder, {**usual, **settings})
        self.replicas.append(replica)
        return replica

    def _kill_replicas(self) -> None:
        for replica in self.replicas:
            replica.kill()
