"""The envelope around every message, in and out."""

from typing import Annotated, Generic, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny

from result_aggregator_service.contracts.fields import Text, Timestamp

PayloadT = TypeVar("PayloadT", bound=BaseModel)


class WireModel(BaseModel):
    """A model of something on the wire. Unknown fields are ignored: producers add fields without asking."""

    model_config = ConfigDict(
        extra="ignore",
        frozen=True,
        protected_namespaces=(),
        # What is published says every field, those with a default too: so do the schemas.
        json_schema_serialization_defaults_required=True,
        # Of ids few come again before others have taken their place in the cache: looking them up does not pay.
        cache_strings="keys",
    )


class Envelope(WireModel, Generic[PayloadT]):
    """What every message says of itself. `event_type` equals the topic; `event_timestamp` is in UTC."""

    event_id: UUID
    event_type: Text
    event_timestamp: Timestamp
    source_service: Text
    schema_version: Annotated[int, Field(strict=True, ge=1, le=1)] = 1
    correlation_id: UUID
    data_schema_uri: str | None = None
    data: SerializeAsAny[PayloadT]
    metadata: dict[str, object] | None = None
