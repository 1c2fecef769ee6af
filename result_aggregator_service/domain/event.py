"""A decoded message as the fold sees it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID


class Clock(NamedTuple):
    """When a message was made; later clocks win. Ties of time are broken by the event id's bytes."""

    at: datetime
    event_id: UUID


@dataclass(slots=True)
class Event:
    """One consumed message: its clock, where it came from and what it says (`contracts.topics` tells in which form)."""

    clock: Clock
    topic: str
    source_service: str
    correlation_id: UUID
    traceparent: str | None
    payload: Mapping[str, Any]
