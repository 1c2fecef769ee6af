"""Plays messages into Kafka, watches how far the service has come, and reads what it published.

It is a member of no group: the service's own group may have one member only on the mock broker.
"""

from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition

from demo.verdict import Published
from demo.wire import PAYLOADS, PUBLISHED_TOPICS
from demo.wire import Message as Played

_TIMEOUT_SECONDS = 20.0
_REPORT_EVERY = 100


class PlayerError(RuntimeError):
    """Kafka did not take a message, or could not be asked."""


class Player:
    """A producer of the platform's messages, and a reader of offsets and published topics."""

    def __init__(self, bootstrap_servers: str, group_id: str) -> None:
        common = {"bootstrap.servers": bootstrap_servers, "log_level": 3}
        self._producer = Producer({**common, "acks": "all", "linger.ms": 5, "compression.type": "none"})
        # Only ever asks for the group's offsets; a member it would be by subscribing, which it never does.
        self._reader = Consumer({**common, "group.id": group_id, "enable.auto.commit": False})
        self._failed: KafkaError | None = None
        self._folded_from: dict[tuple[str, int], int] = {}
        self._published_from: dict[tuple[str, int], int] = {}

    def mark_the_start(self) -> None:
        """Remember where the topics end now: what was there before is another run's."""
        self._folded_from = self._ends(PAYLOADS)
        self._published_from = self._ends(PUBLISHED_TOPICS)

    def play(self, messages: Iterable[Played], on_progress: Callable[[int], None]) -> None:
        """Produce the messages in order; returns once Kafka has acknowledged them all.

        Raises:
            PlayerError: it did not.
        """
        for number, message in enumerate(messages, 1):
            while True:
                try:
                    self._producer.produce(
                        message.topic,
                        value=message.value,
                        key=message.key,
                        headers=list(message.headers),
                        on_delivery=self._delivered,
                    )
                    break
                except BufferError:
                    self._producer.poll(0.1)
            self._producer.poll(0)
            if number % _REPORT_EVERY == 0:
                on_progress(number)
        left = self._producer.flush(_TIMEOUT_SECONDS)
        if self._failed is not None or left:
            raise PlayerError(f"Kafka did not take {left} messages: {self._failed}")

    def _delivered(self, error: KafkaError | None, _: Message) -> None:
        if error is not None:
            self._failed = error

    def folded(self) -> int:
        """How many of the messages played since the start the service has committed."""
        partitions = [TopicPartition(topic, number) for topic, number in self._ends(PAYLOADS)]
        return sum(
            max(0, each.offset - self._folded_from.get((each.topic, each.partition), 0))
            for each in self._reader.committed(partitions, timeout=_TIMEOUT_SECONDS)
        )

    def left(self) -> int:
        """How many messages on the consumed topics, whoever played them, the service has not committed."""
        ends = self._ends(PAYLOADS)
        partitions = [TopicPartition(topic, number) for topic, number in ends]
        return sum(
            ends[each.topic, each.partition] - max(0, each.offset)
            for each in self._reader.committed(partitions, timeout=_TIMEOUT_SECONDS)
        )

    def published(self) -> list[Published]:
        """Everything on the published topics since the start."""
        ends = self._ends(PUBLISHED_TOPICS)
        partitions = [
            TopicPartition(topic, number, self._published_from.get((topic, number), 0)) for topic, number in ends
        ]
        left = {
            (each.topic, each.partition): ends[each.topic, each.partition] - each.offset
            for each in partitions
            if ends[each.topic, each.partition] > each.offset
        }
        found: list[Published] = []
        self._reader.assign([each for each in partitions if (each.topic, each.partition) in left])
        while (missing := sum(left.values())) > 0:
            # It waits for as many as it is asked for, so never for more than there are.
            messages = self._reader.consume(min(missing, 500), timeout=_TIMEOUT_SECONDS)
            if not messages:
                raise PlayerError(f"the published topics could not be read to their ends: {left}")
            for message in messages:
                if message.error() is not None:
                    raise PlayerError(f"a published topic could not be read: {message.error()}")
                topic, number = str(message.topic()), message.partition() or 0
                left[topic, number] -= 1
                found.append(Published(topic, message.key(), message.value() or b"", dict(_headers(message))))
        self._reader.unassign()
        return found

    def _ends(self, topics: Iterable[str]) -> dict[tuple[str, int], int]:
        wanted = set(topics)
        known = self._reader.list_topics(timeout=_TIMEOUT_SECONDS).topics
        ends: dict[tuple[str, int], int] = {}
        for name in wanted & set(known):
            for number in known[name].partitions:
                _, high = self._reader.get_watermark_offsets(TopicPartition(name, number), timeout=_TIMEOUT_SECONDS)
                ends[name, number] = high
        return ends

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._producer.purge()
        self._producer.flush(1.0)
        # Closed for good: a client left to the garbage collector goes on looking for a broker that has stopped.
        self._producer.close()
        self._reader.close()


def _headers(message: Message) -> Sequence[tuple[str, bytes]]:
    headers = message.headers() or []
    pairs = headers.items() if isinstance(headers, dict) else headers
    return [(name, value.encode() if isinstance(value, str) else value or b"") for name, value in pairs]
