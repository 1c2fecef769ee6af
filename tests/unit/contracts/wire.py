"""A message on its way to the decoder: a sample, with some of it changed as raw JSON text."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from result_aggregator_service.consumer.decoder import Decoder, InvalidMessageError
from result_aggregator_service.domain.event import Event
from tests.samples import consumed

_MARK = "\ufdd0 the value goes here"
_DECODER = Decoder(max_message_bytes=8 * 1024 * 1024)
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Record:
    """What Kafka hands over."""

    topic: str
    value: bytes | None
    headers: Sequence[tuple[str, bytes | None]] = ()


def changed(name: str, path: Path, raw: str) -> Record:
    """A sample whose value at `path` (made if need be) is the JSON text `raw`, valid or not."""
    message = consumed(name)
    place: Any = message
    for step in path[:-1]:
        place = place.setdefault(step, {}) if isinstance(place, dict) and place.get(step) is None else place[step]
        assert place is not None
    if isinstance(place, dict):
        place.pop(path[-1], None)
    place[path[-1]] = _MARK
    text = json.dumps(message, ensure_ascii=False).replace(json.dumps(_MARK, ensure_ascii=False), raw)
    return Record(consumed(name)["event_type"], text.encode())


def decoded(record: Record) -> Event:
    """The event.

    Raises:
        InvalidMessageError: it is bad.
    """
    return _DECODER.decode(record)


def has_the_fields_of(event: Event, kind: Any) -> bool:
    """Whether a payload names all that its type must name, and nothing that it may not: a dictionary has no type."""
    required: frozenset[str] = kind.__required_keys__
    return bool(required <= event.payload.keys() <= required | kind.__optional_keys__)


def is_bad(record: Record) -> bool:
    """Whether the message is for quarantine."""
    try:
        decoded(record)
    except InvalidMessageError:
        return True
    return False
