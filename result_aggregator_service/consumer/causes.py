"""Who caused a poll: what its log lines carry, and which traces it belongs to.

Invariant: a line about many messages carries the correlation id of none of them, rather than a wrong one.
"""

import re
from collections.abc import Iterator
from typing import Any

from result_aggregator_service.consumer.decoder import traceparent_of
from result_aggregator_service.projection.projector import KafkaRecord, Poll
from result_aggregator_service.storage.quarantine import BadMessage

_UUID = re.compile(rb"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_STATED = re.compile(rb'"correlation_id"\s*:\s*"(%s)"' % _UUID.pattern)
_BYTES_OF_HEAD = 2048


def of_one(poll: Poll) -> dict[str, Any]:
    """What lines about a poll of one message carry: where it lies in Kafka, and its correlation id. Else nothing."""
    if len(poll) != 1:
        return {}
    if poll.bad:
        return of_bad(poll.bad[0])
    [(event, record)] = poll.messages
    return {**_place(record), "correlation_id": str(event.correlation_id)}


def of_bad(message: BadMessage) -> dict[str, Any]:
    """The same of a message that may not be readable: its correlation id only if it states what can be one."""
    stated = [value for name, value in message.headers if name == "trace_id" and value and _UUID.fullmatch(value)]
    if not stated and (found := _STATED.search(message.value or b"", 0, _BYTES_OF_HEAD)):
        stated = [found[1]]
    return {**_place(message), **({"correlation_id": stated[0].decode()} if stated else {})}


def traceparents(poll: Poll) -> Iterator[str | None]:
    """The trace contexts of a poll's messages; of those that could not be decoded what the headers say."""
    for event, _ in poll.messages:
        yield event.traceparent
    for message in poll.bad:
        yield traceparent_of(message.headers, None)


def _place(record: KafkaRecord | BadMessage) -> dict[str, Any]:
    return {"topic": record.topic, "partition": record.partition, "offset": record.offset}
