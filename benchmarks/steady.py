"""Orders to produce the platform's traffic at a rate, to look when a message is visible, and to read at a rate."""

import asyncio
import json
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Self

from confluent_kafka import KafkaException, Producer

from benchmarks.errors import LoadError
from benchmarks.worker import Order, Took
from demo.batch import SECOND, Batch
from demo.traffic import traffic
from demo.wire import Message
from embedded.process import LOOPBACK

_SECONDS_BETWEEN_SENDS = 0.005
_SECONDS_BETWEEN_LOOKS = 0.003
_PROBES = 20  # batches, each of which waits for one message at a time
_PROBES_A_SECOND = 10
_READERS = 4
_VISIBLE_SECONDS = 60.0
_ANSWER_SECONDS = 60.0
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_TAG = re.compile(rb"\r\netag: *([^\r]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Produce(Order):
    """Produce the platform's traffic at a rate. Rows: its messages; no latencies."""

    bootstrap_servers: str
    run_label: str
    messages_per_second: float
    seconds: float

    async def run(self) -> Took:
        """Do it."""
        messages = _made(self.run_label, round(self.messages_per_second * self.seconds))
        with closing(_Sender(self.bootstrap_servers)) as sender:
            return Took(len(messages), await sender.send_at_a_rate(messages, self.messages_per_second))


@dataclass(frozen=True)
class Visible(Order):
    """Produce the platform's traffic at a rate, and among it spell checks of watched essays, whose batch is asked for
    until it shows the result. Rows: the messages of the traffic.

    Latencies: from the time at which a spell check was to be produced until the answer that shows it was there. A look
    every few milliseconds, at those not seen yet in turn, with the tag of the answer before: a 304 until there is news.
    """

    bootstrap_servers: str
    run_label: str
    messages_per_second: float
    seconds: float
    port: int
    headers: Mapping[str, str]

    async def run(self) -> Took:
        """Do it."""
        with closing(_Sender(self.bootstrap_servers)) as sender:
            return await self._run(sender)

    async def _run(self, sender: "_Sender") -> Took:
        count = round(self.messages_per_second * self.seconds)
        messages = _made(self.run_label, count)
        connection = await _Connection.open(self.port, self.headers)
        looks = _Looks(connection)
        probes = [_Probe(number, self.run_label, sender, looks) for number in range(_PROBES)]
        await asyncio.gather(*(probe.register() for probe in probes))
        every, started = _PROBES / _PROBES_A_SECOND, time.perf_counter()
        watching = asyncio.gather(
            *(
                probe.watch(started + number / _PROBES_A_SECOND, every, started + self.seconds)
                for number, probe in enumerate(probes)
            )
        )
        seconds = await sender.send_at_a_rate(messages, self.messages_per_second)
        latencies = sorted(latency for each in await watching for latency in each)
        connection.close()
        return Took(count, seconds, latencies)


@dataclass(frozen=True)
class Read(Order):
    """Ask for one path so many times a second. Latencies: from the time at which it was to be asked for."""

    port: int
    headers: Mapping[str, str]
    path: str
    requests_per_second: float
    seconds: float

    async def run(self) -> Took:
        """Do it."""
        connections = [await _Connection.open(self.port, self.headers) for _ in range(_READERS)]
        count = round(self.requests_per_second * self.seconds)
        times = iter([number / self.requests_per_second for number in range(count)])
        latencies: list[float] = []
        started = time.perf_counter()

        async def read(connection: _Connection) -> None:
            for at in times:
                await _until(started + at)
                status, _, body = await connection.get(self.path)
                latencies.append(time.perf_counter() - started - at)
                if status != 200:
                    raise LoadError(f"{self.path}: {status}: {body[:200]!r}")

        await asyncio.gather(*(read(connection) for connection in connections))
        for connection in connections:
            connection.close()
        return Took(len(latencies), time.perf_counter() - started, sorted(latencies))


def _made(run_label: str, count: int) -> list[Message]:
    """Messages of the traffic, made before the time is taken: to make them holds the process."""
    return list(islice(traffic(batches=count, run=run_label, broken=False), count))


class _Sender:
    """A producer that waits for nothing."""

    def __init__(self, bootstrap_servers: str) -> None:
        common = {"bootstrap.servers": bootstrap_servers, "acks": "all", "log_level": 3}
        self._stream = Producer({**common, "linger.ms": 5})
        self._single = Producer({**common, "linger.ms": 0})

    def close(self) -> None:
        """Give up what was not sent. Left to the garbage collector, a client goes on looking for a stopped broker."""
        for producer in (self._stream, self._single):
            producer.purge()
            producer.close()

    def send(self, message: Message) -> None:
        """One message, at once."""
        self._produce(self._single, message)

    async def send_at_a_rate(self, messages: Sequence[Message], per_second: float) -> float:
        """All of them; the seconds until Kafka had them.

        Raises:
            LoadError: Kafka did not take them.
        """
        started, sent = time.perf_counter(), 0
        while sent < len(messages):
            due = int((time.perf_counter() - started) * per_second) + 1
            for message in messages[sent:due]:
                self._produce(self._stream, message)
            sent = min(due, len(messages))
            self._stream.poll(0)
            await asyncio.sleep(_SECONDS_BETWEEN_SENDS)
        if left := await asyncio.to_thread(self._stream.flush, _ANSWER_SECONDS):
            raise LoadError(f"Kafka did not take {left} messages")
        return time.perf_counter() - started

    @staticmethod
    def _produce(producer: Producer, message: Message) -> None:
        try:
            producer.produce(message.topic, message.value, message.key, headers=list(message.headers))
        except (BufferError, KafkaException) as error:
            raise LoadError(f"Kafka does not take messages at this rate: {error}") from error


class _Looks:
    """Looks, one after another: however many probes wait, the service is not asked more often than this."""

    def __init__(self, connection: "_Connection") -> None:
        self._connection = connection
        self._turn = asyncio.Lock()  # whoever waits longest is next

    async def look(self, path: str, tag: bytes) -> tuple[float, int, bytes, bytes]:
        """The time at which the answer was there, its status, its tag and its body."""
        async with self._turn:
            status, tag, body = await self._connection.get(path, tag)
            seen = time.perf_counter()
            await asyncio.sleep(_SECONDS_BETWEEN_LOOKS)
        return seen, status, tag, body


class _Probe:
    """A batch of one essay, which is spell checked again and again."""

    def __init__(self, number: int, run: str, sender: _Sender, looks: _Looks) -> None:
        self._batch = Batch(number, 1, f"probe-{run}")
        self._essay = self._batch.essays[0]
        self._sender = sender
        self._looks = looks
        self._path = f"/internal/v1/batches/{self._batch.batch_id}/status"
        self._tag = b""
        self._corrections = 0

    async def register(self) -> None:
        """Let the service know of it."""
        self._batch.register(("spellcheck", "cj_assessment"), essays=[self._essay])
        self._send()
        await self._check()

    async def watch(self, first: float, every: float, until: float) -> list[float]:
        """Spell check it at these times; the seconds it took each time until that was visible."""
        latencies: list[float] = []
        due = first
        while due < until:
            await _until(due)
            latencies.append(await self._check() - due)
            due += every
        return latencies

    async def _check(self) -> float:
        """Spell check it once more, and wait for it; the time at which it was seen.

        Raises:
            LoadError: it did not become visible, or something else did.
        """
        self._corrections += 1
        self._batch.passes(SECOND, 2 * SECOND)
        self._batch.spellchecked(self._essay, form="rich", corrections=self._corrections)
        self._send()
        deadline = time.perf_counter() + _VISIBLE_SECONDS
        while True:
            seen, status, tag, body = await self._looks.look(self._path, self._tag)
            if status == 200:
                self._tag = tag
                if json.loads(body)["essays"][0]["spellcheck_correction_count"] == self._corrections:
                    return seen
            elif status not in (304, 404):
                raise LoadError(f"{self._path}: {status}: {body[:200]!r}")
            if seen > deadline:
                raise LoadError(f"{self._path}: a spell check was not visible within {_VISIBLE_SECONDS:g} s")

    def _send(self) -> None:
        """What was said last, once; a batch says some things twice."""
        self._sender.send(self._batch.said[0][1])
        self._batch.said.clear()


class _Connection:
    """HTTP/1.1 on one kept connection."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int, headers: Mapping[str, str]
    ) -> None:
        self._reader, self._writer = reader, writer
        lines = [f"Host: {LOOPBACK}:{port}", *(f"{name}: {value}" for name, value in headers.items())]
        self._headers = "\r\n".join(lines).encode()

    @classmethod
    async def open(cls, port: int, headers: Mapping[str, str]) -> Self:
        """To the service."""
        return cls(*await asyncio.open_connection(LOOPBACK, port), port, headers)

    async def get(self, path: str, tag: bytes = b"") -> tuple[int, bytes, bytes]:
        """Status, tag and body of the answer; a 304 if the tag still holds."""
        condition = b"If-None-Match: " + tag + b"\r\n" if tag else b""
        self._writer.write(b"GET " + path.encode() + b" HTTP/1.1\r\n" + condition + self._headers + b"\r\n\r\n")
        async with asyncio.timeout(_ANSWER_SECONDS):
            head = await self._reader.readuntil(b"\r\n\r\n")
            status, length, found = int(head[9:12]), _LENGTH.search(head), _TAG.search(head)
            body = await self._reader.readexactly(int(length[1])) if length and status != 304 else b""
        return status, found[1] if found else b"", body

    def close(self) -> None:
        """Hang up."""
        self._writer.close()


async def _until(moment: float) -> None:
    await asyncio.sleep(max(0.0, moment - time.perf_counter()))
