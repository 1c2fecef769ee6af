"""The envelope around every message, in and out."""

from typing import Annotated, Generic, NotRequired, TypeVar
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, SerializeAsAny, with_config
from typing_extensions import TypedDict

from result_aggregator_service.contracts.fields import Text, Timestamp

PayloadT = TypeVar("PayloadT")
ModelT = TypeVar("ModelT", bound=BaseModel)
SchemaVersion = Annotated[int, Field(strict=True, ge=1, le=1)]


# Of ids few come again before others have taken their place in the cache: looking them up does not pay.
@with_config(cache_strings="keys")
class ConsumedEnvelope(TypedDict, Generic[PayloadT]):
    """What every consumed message says of itself. `event_type` equals the topic; `event_timestamp` is in UTC."""

    event_id: UUID
    event_type: Text
    event_timestamp: Timestamp
    source_service: Text
    schema_version: NotRequired[SchemaVersion]
    correlation_id: UUID
    data_schema_uri: NotRequired[str | None]
    data: PayloadT
    metadata: NotRequired[dict[str, object] | None]


class PublishedModel(BaseModel):
    """A model of something that is published."""

    model_config = ConfigDict(
        frozen=True,
        # What is published says every field, those with a default too: so do the schemas.
        json_schema_serialization_defaults_required=True,
    )


class PublishedEnvelope(PublishedModel, Generic[ModelT]):
    """What every published message says of itself: the same, and all of it."""

    event_id: UUID
    event_type: Text
    event_timestamp: Timestamp
    source_service: Text
    schema_version: SchemaVersion = 1
    correlation_id: UUID
    data_schema_uri: str | None = None
    data: SerializeAsAny[ModelT]
    metadata: dict[str, object] | None = None
