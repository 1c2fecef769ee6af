"""Headers on the wire are those that the AsyncAPI document tells of; the trace of a cause goes through unchanged."""

import dataclasses
import json
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import jsonschema_rs
from aiokafka.structs import ConsumerRecord

from result_aggregator_service.consumer.consumer import Consumer
from result_aggregator_service.contracts.topics import (
    BATCH_ASSESSMENT_COMPLETED,
    BATCH_RESULTS_READY,
    CONSUMED,
    PUBLISHED,
    TEACHER_NOTIFICATION_REQUESTED,
)
from result_aggregator_service.domain.event import Event
from result_aggregator_service.publishing.relay import Relay
from tests.integration.service.wiring import Wire, container_of, envelope_of, on_the_wire, settings_for, turning
from tests.servers import KafkaServer
from tests.unit.domain import messages as say

MESSAGES = json.loads((Path(__file__).parents[3] / "docs" / "asyncapi.json").read_text())["components"]["messages"]
# Of a version and with flags that nobody here would make.
ASSESSED = "fe-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-f2"
JUDGED = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
ELSEWHERE = "00-11111111111111111111111111111111-2222222222222222-01"


def history(batch: str, *, traced: bool) -> list[tuple[Event, str | None]]:
    """Messages with their traces: the rankings are the cause of one announcement, the last outcome of the other."""
    told = [
        (say.registered(["e1"], batch), ELSEWHERE),
        (say.spellcheck("e1", batch), ELSEWHERE),
        (say.outcome("spellcheck", ["e1"], batch=batch, at=100), ELSEWHERE),
        (say.assessment({"e1": (1, 0.5)}, batch, at=110), ASSESSED),
        (say.outcome("cj_assessment", ["e1"], batch=batch, at=200), JUDGED),
    ]
    return [(event, trace if traced else None) for event, trace in told]


def headers_of(record: ConsumerRecord[bytes, bytes]) -> dict[str, str]:
    """A message's headers; each stands there once."""
    assert len(dict(record.headers)) == len(record.headers)
    return {name: value.decode() for name, value in record.headers}


async def test_headers_are_as_documented_and_carry_the_trace_of_their_cause_or_none(
    database_url: str,
    redis_url: str,
    kafka_server: KafkaServer,
    kafka_group: Callable[[Iterable[str]], Awaitable[str]],
    wire: Wire,
) -> None:
    settings = settings_for(
        database_url,
        redis_url=redis_url,
        kafka_bootstrap_servers=kafka_server.bootstrap_servers,
        kafka_consumer_group_id=await kafka_group(CONSUMED),
    )
    async with (
        container_of(settings) as container,
        turning(await container.get(Consumer), await container.get(Relay)),
    ):
        for event, trace in [*history("traced", traced=True), *history("untraced", traced=False)]:
            content = on_the_wire(dataclasses.replace(event, traceparent=None))
            sent_with = [] if trace is None else [("traceparent", trace.encode())]
            await wire.send(event.topic, content, key=b"batch", headers=sent_with)
        records = await wire.published(8, within=60)

    traces: dict[tuple[str, str], set[str | None]] = {}
    for record in records:
        headers, envelope = headers_of(record), envelope_of(record)
        documented: dict[str, Any] = MESSAGES[PUBLISHED[record.topic].__name__]["headers"]
        jsonschema_rs.Draft7Validator(documented, validate_formats=True).validate(headers)
        carried = headers.pop("traceparent", None)
        assert headers.keys() | {"traceparent"} == documented["properties"].keys()
        assert headers == {
            "event_id": envelope["event_id"],
            "event_type": envelope["event_type"],
            "source_service": envelope["source_service"],
            "schema_version": str(envelope["schema_version"]),
            "occurred_at": envelope["event_timestamp"],
            "trace_id": envelope["correlation_id"],
            "content_type": "application/json",
        }
        traces.setdefault((envelope["data"]["batch_id"], record.topic), set()).add(carried)
    assert traces == {
        ("traced", BATCH_ASSESSMENT_COMPLETED): {ASSESSED},
        ("traced", BATCH_RESULTS_READY): {JUDGED},
        ("traced", TEACHER_NOTIFICATION_REQUESTED): {ASSESSED, JUDGED},
        ("untraced", BATCH_ASSESSMENT_COMPLETED): {None},
        ("untraced", BATCH_RESULTS_READY): {None},
        ("untraced", TEACHER_NOTIFICATION_REQUESTED): {None},
    }
