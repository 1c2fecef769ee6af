"""Mutants of the real messages on their way into a real database, in polls that healthy batches share with them."""

import os
from collections import Counter
from dataclasses import dataclass
from itertools import count
from random import Random
from urllib.parse import quote

import httpx
import pytest

from demo.wire import BadMessage, Message, read
from result_aggregator_service.app import create_app
from result_aggregator_service.consumer.decoder import InvalidReason
from result_aggregator_service.consumer.poll_handler import PollHandler
from result_aggregator_service.storage.engine import Database
from result_aggregator_service.storage.quarantine import BadMessage as Quarantined
from result_aggregator_service.storage.quarantine import Quarantine
from tests.integration.service.wiring import KEY, container_of, rows, settings_for, value
from torture.mutants import Mutants

SEED = int(os.environ.get("MUTANT_SEED", "5"))
MUTANTS, POLL = 3000, 500
HEALTHY = range(1_000_000, 1_000_025)  # numbers that no mutant has
CREDENTIALS = {"X-Internal-API-Key": KEY, "X-Service-ID": "api-gateway-service"}

_offsets = count()


@dataclass(frozen=True)
class Lying:
    """A message as it lies in Kafka."""

    message: Message
    name: str
    offset: int
    partition: int = 0
    timestamp: int = 1_772_438_400_000

    topic = property(lambda self: self.message.topic)
    key = property(lambda self: self.message.key)
    value = property(lambda self: self.message.value)
    headers = property(lambda self: self.message.headers)


def is_bad(message: Message) -> bool:
    """Whether it is by the demo's reading, which is not the service's."""
    try:
        read(message)
    except BadMessage:
        return True
    return False


async def never_wait(seconds: float) -> None:
    pytest.fail(f"PostgreSQL was taken for being in trouble; waits {seconds} s")


async def test_no_mutant_stops_a_poll_or_harms_its_neighbours_and_the_bad_ones_lie_in_quarantine_as_they_were(
    database_url: str, redis_url: str
) -> None:
    mutants = Mutants()
    healthy = {number: mutants.neighbours(SEED, number) for number in HEALTHY}
    messages = [(mutant.name, mutant.message) for mutant in mutants.some(SEED, MUTANTS)]
    messages += [(f"registration {number}", mutants.neighbours(SEED, number)[1]) for number in range(0, MUTANTS, 16)]
    messages += [(f"healthy {number}", message) for number, batch in healthy.items() for message in batch]
    Random(SEED).shuffle(messages)
    records = {
        offset: Lying(message, name, offset) for offset, (name, message) in zip(_offsets, messages, strict=False)
    }

    settings = settings_for(database_url, redis_url=redis_url, kafka_bootstrap_servers="127.0.0.1:9")
    async with container_of(settings) as container:
        handler, database = await container.get(PollHandler), await container.get(Database)
        quarantined: list[Quarantined] = []
        lying = list(records.values())
        for start in range(0, len(lying), POLL):
            quarantined += (await handler.handle(lying[start : start + POLL], never_wait)).bad

        refused_later = [
            f"{records[bad.offset].name}: {bad.error_type}: {bad.error}"
            for bad in quarantined
            if bad.error_type in (InvalidReason.REJECTED_BY_DATABASE, InvalidReason.UNPROCESSABLE)
        ]
        assert refused_later == [], "what PostgreSQL or the fold refuses, the contracts have let through"
        expected = {offset for offset, record in records.items() if is_bad(record.message)}
        assert {bad.offset for bad in quarantined} == expected
        assert await value(database, "SELECT count(*) FROM processed_events") == len(records) - len(expected)

        async with database.snapshot() as session:
            kept = await container.get(Quarantine)
            stored = [each.message for each in await kept.page(session, limit=len(records))]
        assert {bad.offset for bad in stored} == expected
        for bad in stored:
            lies = records[bad.offset].message
            assert (bad.topic, bad.key, bad.value) == (lies.topic, lies.key, lies.value), records[bad.offset].name

        # Every healthy batch stands and was announced as if it had been alone.
        batches = {(batch[0].key or b"").decode() for batch in healthy.values()}
        found = await rows(database, "SELECT batch_id, overall_status FROM batch_results")
        statuses = Counter(row["overall_status"] for row in found if row["batch_id"] in batches)
        assert statuses == {"completed_with_failures": len(batches)}
        found = await rows(
            database, "SELECT DISTINCT aggregate_id FROM event_outbox WHERE topic LIKE '%results.ready%'"
        )
        assert batches <= {row["aggregate_id"] for row in found}

        # The API can answer whatever was accepted.
        found = await rows(database, "SELECT batch_id, user_id FROM batch_results WHERE user_id IS NOT NULL")
        statuses = Counter()
        transport = httpx.ASGITransport(app=create_app(container))  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://ras", headers=CREDENTIALS) as client:
            for row in found:
                path = f"/internal/v1/batches/{quote(row['batch_id'], safe='')}/status"
                statuses[str((await client.get(path)).status_code)] += 1
        assert statuses == {"200": len(found)}
