"""A JSON Schema for each message, in and out, made from their types: what they accept, and what they write."""

from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode

from result_aggregator_service.contracts.envelope import ConsumedEnvelope, PublishedEnvelope
from result_aggregator_service.contracts.fields import MAX_JSON_DEPTH, NO_NUL
from result_aggregator_service.contracts.topics import CONSUMED, PUBLISHED

Object = dict[str, Any]
"""A JSON object."""

_LOCAL = "#/$defs/{model}"
_ANY_JSON = "JsonValue"


class _Schemas(GenerateJsonSchema):
    """Pydantic's, without a title for each field that says the field's name again."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def message_schema(event_type: str, ref_template: str = _LOCAL) -> tuple[Object, Object]:
    """The schema of a message's value, envelope and payload, and the definitions that it refers to by the template.

    Nothing in it is newer than draft 7 of JSON Schema, so that AsyncAPI's tools read it, too.

    Raises:
        KeyError: no such message is consumed or published.
    """
    envelope: Any
    mode: JsonSchemaMode
    if event_type in CONSUMED:
        payload, envelope, mode = CONSUMED[event_type], ConsumedEnvelope, "validation"
    else:
        payload, envelope, mode = PUBLISHED[event_type], PublishedEnvelope, "serialization"
    adapter: TypeAdapter[Any] = TypeAdapter(envelope[payload])
    schema = adapter.json_schema(ref_template=ref_template, schema_generator=_Schemas, mode=mode)
    definitions: Object = schema.pop("$defs")
    any_json = {"$ref": ref_template.format(model=_ANY_JSON)}
    for definition in definitions.values():
        if definition.get("additionalProperties") is True:  # kept, whatever their names
            definition |= {"propertyNames": {"pattern": NO_NUL}, "additionalProperties": any_json}
            definitions = {**definitions, _ANY_JSON: {}}
    if _ANY_JSON in definitions:
        definitions[_ANY_JSON] = _storable_json(any_json)
    schema["title"] = f"{payload.__name__} in its envelope"
    schema["description"] = payload.__doc__
    schema["properties"]["event_type"] = {"type": "string", "const": event_type}
    return schema, definitions


def message_json_schema(event_type: str) -> Object:
    """The schema of a message's value by itself: JSON Schema 2020-12."""
    schema, definitions = message_schema(event_type)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "$defs": definitions}


def _storable_json(any_json: Object) -> Object:
    """What `fields.check_storable` lets through, as far as a schema can say it."""
    return {
        "description": (
            f"Any JSON without NUL or lone surrogates, nested no deeper than {MAX_JSON_DEPTH} levels; "
            "numbers are finite, whole ones fit 64 bits."
        ),
        "anyOf": [
            {"type": ["null", "boolean", "number"]},
            {"type": "string", "pattern": NO_NUL},
            {"type": "array", "items": any_json},
            {"type": "object", "propertyNames": {"pattern": NO_NUL}, "additionalProperties": any_json},
        ],
    }
