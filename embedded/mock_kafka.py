"""librdkafka's mock cluster from the `confluent-kafka` wheel: the Kafka protocol inside this process, on 127.0.0.1.

A stand-in, good for the demo and for quick runs where there is no Java. Its limits: one member in a consumer group (a
second one fails in SyncGroup, one that was killed is held for its session timeout, the first waits 3 s to be let in);
topics appear on first use, always with 4 partitions, and cannot be created by an administrator; a partition drops its
oldest messages beyond about 5 MB; everything is in memory and gone with the object.
"""

from types import TracebackType
from typing import Self

from confluent_kafka import KafkaException, Producer

from embedded.process import ServerError

PARTITIONS = 4
_START_TIMEOUT_SECONDS = 10.0


class MockKafka:
    """The cluster lives from `start` to `stop`. It can be neither killed nor paused, nor started again on its port."""

    name = "Kafka mock"

    def __init__(self) -> None:
        self._owner: Producer | None = None
        self._bootstrap_servers = ""

    @property
    def bootstrap_servers(self) -> str:
        if self._owner is None:
            raise ServerError("the Kafka mock does not run")
        return self._bootstrap_servers

    def start(self) -> Self:
        """Start the cluster; returns when it accepts requests.

        Raises:
            ServerError: it runs already, or did not answer within 10 s.
        """
        if self._owner is not None:
            raise ServerError("the Kafka mock runs already")
        # The producer is never used to produce: the cluster lives as long as it does.
        owner = Producer(
            {
                "bootstrap.servers": "unused",
                "test.mock.num.brokers": 1,
                # Warnings that a mock is in use would go to stderr.
                "log_level": 3,
            }
        )
        try:
            brokers = owner.list_topics(timeout=_START_TIMEOUT_SECONDS).brokers
        except KafkaException as error:
            raise ServerError(f"the Kafka mock did not start: {error}") from error
        self._bootstrap_servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers.values())
        self._owner = owner
        return self

    def stop(self) -> None:
        self._owner = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
