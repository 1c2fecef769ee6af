"""Feeds the platform's traffic to the service, and the same messages to its shadow, which meets no fault.

Kafka may be away meanwhile: the producer waits for it and, being idempotent, writes each message once and in order.
Invariant: `played` holds exactly what Kafka has acknowledged, or will have once `settle` has returned.
"""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self

from confluent_kafka import KafkaError, Producer
from confluent_kafka import Message as Delivered

from demo.wire import Message
from torture.waiting import TortureError

Place = tuple[str, int, int]
"""Topic, partition, offset."""

_LONGEST_OUTAGE_MS = 600_000
_TICK_SECONDS = 0.02


class Feed:
    """Produces messages in order: some at once (`play`), or so many a second in the background (`start`)."""

    def __init__(self, messages: Iterable[Message], bootstrap_servers: str, shadow_servers: str) -> None:
        self._messages: Iterator[Message] = iter(messages)
        # To the service by a patient producer; its broker is stopped, killed and hung.
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "log_level": 0,
                "acks": "all",
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.timeout.ms": _LONGEST_OUTAGE_MS,
                "message.max.bytes": 16 * 1024 * 1024,
                "queue.buffering.max.messages": 500_000,
                "reconnect.backoff.max.ms": 500,
                "socket.timeout.ms": 5_000,
                "retry.backoff.max.ms": 500,
            }
        )
        # The mock gives out one of the producer's batches at a time: small ones would hold the shadow up.
        self._shadow = Producer(
            {
                "bootstrap.servers": shadow_servers,
                "log_level": 3,
                "linger.ms": 200,
                "message.max.bytes": 16 * 1024 * 1024,
            }
        )
        self.played: list[Message] = []
        self.places: list[Place | None] = []
        self._failed: KafkaError | None = None
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._ending = threading.Event()

    def play(self, count: int) -> int:
        """Produce the next so many messages, fewer if there are no more; returns how many."""
        return self._play(count)

    def send(self, messages: Iterable[Message]) -> None:
        """Produce these messages, beside the traffic."""
        for message in messages:
            self._produce(message)

    def start(self, per_second: float) -> None:
        """Go on producing in the background until `stop`."""
        self._ending.clear()
        self._thread = threading.Thread(target=self._run, args=(per_second,), name="feed", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End what `start` began; nothing happens if nothing was."""
        self._ending.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def settle(self, within: float = 120.0) -> None:
        """Stop, and wait until both brokers have acknowledged everything.

        Raises:
            TortureError: they did not.
        """
        self.stop()
        for name, producer in (("Kafka", self._producer), ("the shadow's Kafka", self._shadow)):
            left = producer.flush(within)
            if left or self._failed is not None:
                raise TortureError(f"{name} did not take {left} messages: {self._failed}")

    def _run(self, per_second: float) -> None:
        started, produced = time.monotonic(), 0
        while not self._ending.wait(_TICK_SECONDS):
            due = int((time.monotonic() - started) * per_second) - produced
            produced += self._play(due)
            self._producer.poll(0)
            self._shadow.poll(0)

    def _play(self, count: int) -> int:
        number = 0
        for number, message in zip(range(1, count + 1), self._messages, strict=False):  # noqa: B007
            self._produce(message)
        return number

    def _produce(self, message: Message) -> None:
        with self._lock:
            index = len(self.played)
            self.played.append(message)
            self.places.append(None)

        def delivered(error: KafkaError | None, record: Delivered) -> None:
            if error is not None:
                self._failed = error
            else:
                self.places[index] = (message.topic, record.partition() or 0, record.offset() or 0)

        def delivered_to_shadow(error: KafkaError | None, _: Delivered) -> None:
            self._failed = error or self._failed

        _give(self._producer, message, delivered)
        _give(self._shadow, message, delivered_to_shadow)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()
        for producer in (self._producer, self._shadow):
            producer.purge()
            producer.flush(1.0)
            producer.close()


def _give(producer: Producer, message: Message, on_delivery: Callable[[KafkaError | None, Delivered], None]) -> None:
    while True:
        try:
            producer.produce(
                message.topic,
                value=message.value,
                key=message.key,
                headers=list(message.headers),
                on_delivery=on_delivery,
            )
        except BufferError:
            producer.poll(0.1)
        else:
            producer.poll(0)
            return
