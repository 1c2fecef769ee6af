"""A decoded message as the fold sees it."""

from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from pydantic import BaseModel


class Clock(NamedTuple):
    """When a message was made; later clocks win. Ties of time are broken by the event id's bytes."""

    at: datetime
    event_id: UUID


@dataclass(slots=True)
class Event:
    """One consumed message: its clock, where it came from and what it says."""

    clock: Clock
    topic: str
    source_service: str
    correlation_id: UUID
    traceparent: str | None
    payload: BaseModel
