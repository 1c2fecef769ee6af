"""The AsyncAPI 3 document of the messages, in and out: channels from the topic table, schemas from their types.

A payload's class says the rest by itself: its docstring what it tells, its configuration an example and who sends it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from pydantic import TypeAdapter

from result_aggregator_service.contracts.schemas import Object, message_schema
from result_aggregator_service.contracts.topics import CONSUMED, KEY_FIELDS, PUBLISHED

_SCHEMAS = "#/components/schemas"
_BINDING = {"bindingVersion": "0.5.0"}
_JSON = "application/json"
_CORRELATION_ID = "0b1aab4b-4a25-5d2b-9760-2b1ee722d445"
_TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
_AT = "2026-03-02T08:20:00.000000Z"
_DESCRIPTION = """\
What the service consumes of HuleEdu's other services, and what it announces. Every message is JSON in one envelope;
`event_type` equals the topic.

- **In.** Unknown fields are ignored. Any order, across topics and within one, and any number of duplicates give the
  same read model: of two messages on one fact the later by (`event_timestamp`, `event_id`) wins, and two with one
  `event_id` are one. Keys are not read. A message that is not as its schema says is quarantined, and so is a null value
  or a message larger than `MAX_MESSAGE_BYTES`. Offsets are committed after the transaction that holds the effects.
- **Out.** At least once, under one `event_id` for one announcement, by an idempotent producer with `acks=all`. Under
  one key in the order in which the announcements were committed. Consumers know a duplicate by its `event_id`.
- A schema cannot say: no lone surrogates in a field that is kept; numbers fit a double; integers are written without a
  fraction or exponent.
- Partitions and replicas are those of topics that the service creates, where they are missing.
- What settings decide stands here with its default.
"""

#: Each value of KAFKA_SECURITY_PROTOCOL: the protocol as AsyncAPI calls it, and the schemes that it may be used with.
_SERVERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "PLAINTEXT": ("kafka", ()),
    "SSL": ("kafka-secure", ("X509",)),
    "SASL_PLAINTEXT": ("kafka", ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")),
    "SASL_SSL": ("kafka-secure", ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")),
}
_SASL = "`KAFKA_SASL_MECHANISM` is this; `KAFKA_SASL_USERNAME`, `KAFKA_SASL_PASSWORD`."
_SECURITY_SCHEMES: Object = {
    "PLAIN": {"type": "plain", "description": _SASL},
    "SCRAM-SHA-256": {"type": "scramSha256", "description": _SASL},
    "SCRAM-SHA-512": {"type": "scramSha512", "description": _SASL},
    "X509": {
        "type": "X509",
        "description": "A client certificate, where the broker wants one: `KAFKA_SSL_CERT_FILE`, `KAFKA_SSL_KEY_FILE`.",
    },
}


@dataclass(frozen=True, slots=True)
class Client:
    """What settings decide of the document; `partitions` and `replicas` are those of topics that the service makes."""

    service_name: str
    version: str
    bootstrap_servers: str
    group_id: str
    producer_client_id: str
    partitions: int
    replicas: int


def asyncapi_document(client: Client) -> Object:
    """The document.

    Raises:
        LookupError: a payload has no example, a consumed one does not say who sends it, or a published one has no key.
    """
    payloads = {**CONSUMED, **PUBLISHED}
    messages: Object = {}
    schemas: Object = {}
    for event_type, payload in payloads.items():
        schema, definitions = message_schema(event_type, f"{_SCHEMAS}/{{model}}")
        schemas |= {**definitions, f"{payload.__name__}Envelope": schema}
        messages[payload.__name__] = _message(event_type, payload, client)
    return {
        "asyncapi": "3.0.0",
        "id": f"urn:huleedu:{client.service_name}",
        "info": {
            "title": "Result Aggregator Service",
            "version": client.version,
            "description": _DESCRIPTION,
            "tags": [
                {"name": "consumed", "description": "What other services announce."},
                {"name": "published", "description": "What this service announces."},
            ],
        },
        "defaultContentType": _JSON,
        "servers": {name: _server(name, client) for name in _SERVERS},
        "channels": {event_type: _channel(event_type, payload, client) for event_type, payload in payloads.items()},
        "operations": dict(_operation(event_type, payload, client) for event_type, payload in payloads.items()),
        "components": {
            "messages": messages,
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": _SECURITY_SCHEMES,
            "correlationIds": {
                "correlation_id": {
                    "description": "One piece of work of the platform, across all its services.",
                    "location": "$message.payload#/correlation_id",
                }
            },
        },
    }


def _server(name: str, client: Client) -> Object:
    protocol, schemes = _SERVERS[name]
    server: Object = {
        "host": "{bootstrap_servers}",
        "protocol": protocol,
        "description": f"Where `KAFKA_SECURITY_PROTOCOL` is {name}.",
        "variables": {
            "bootstrap_servers": {
                "default": client.bootstrap_servers,
                "description": "`KAFKA_BOOTSTRAP_SERVERS`: host and port of each, separated by commas.",
            }
        },
    }
    if schemes:
        server["security"] = [{"$ref": f"#/components/securitySchemes/{scheme}"} for scheme in schemes]
    return server


def _channel(event_type: str, payload: type[Any], client: Client) -> Object:
    return {
        "address": event_type,
        "title": payload.__name__,
        "description": payload.__doc__,
        "messages": {payload.__name__: {"$ref": f"#/components/messages/{payload.__name__}"}},
        "tags": [{"name": "consumed" if event_type in CONSUMED else "published"}],
        "bindings": {
            "kafka": {
                "topic": event_type,
                "partitions": client.partitions,
                "replicas": client.replicas,
                **_BINDING,
            }
        },
    }


def _operation(event_type: str, payload: type[Any], client: Client) -> tuple[str, Object]:
    consumed = event_type in CONSUMED
    action = "receive" if consumed else "send"
    ids = (
        {"groupId": client.group_id, "clientId": client.service_name}
        if consumed
        else {"clientId": client.producer_client_id}
    )
    channel = f"#/channels/{event_type}"
    return f"{action}{payload.__name__}", {
        "action": action,
        "channel": {"$ref": channel},
        "title": payload.__name__,
        "summary": payload.__doc__,
        "messages": [{"$ref": f"{channel}/messages/{payload.__name__}"}],
        "bindings": {
            "kafka": {**{name: {"type": "string", "default": value} for name, value in ids.items()}, **_BINDING}
        },
    }


def _message(event_type: str, payload: type[Any], client: Client) -> Object:
    name = payload.__name__
    return {
        "name": name,
        "title": name,
        "summary": payload.__doc__,
        "contentType": _JSON,
        "headers": _headers(event_type),
        "payload": {"$ref": f"{_SCHEMAS}/{name}Envelope"},
        "correlationId": {"$ref": "#/components/correlationIds/correlation_id"},
        "bindings": {"kafka": {"key": key_schema(event_type), **_BINDING}},
        "examples": examples_of(event_type, payload, client),
    }


def key_schema(event_type: str) -> Object:
    """What a message's key on Kafka is.

    Raises:
        LookupError: the message is published, and which field is its key is said nowhere.
    """
    if event_type in CONSUMED:
        return {"type": ["string", "null"], "description": "Not read."}
    try:
        field = KEY_FIELDS[event_type]
    except KeyError:
        raise LookupError(f"{event_type} has no key: name its field in contracts.topics.KEY_FIELDS") from None
    return {"type": "string", "description": f"UTF-8; the payload's `{field}`."}


def _headers(event_type: str) -> Object:
    """Kafka's headers, UTF-8. They repeat what stands in the envelope, so that a consumer need not open it."""
    traceparent = {
        "type": "string",
        "pattern": "^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$",
        "description": "W3C trace context.",
    }
    repeated: Object = {
        "event_id": {"type": "string", "format": "uuid"},
        "event_type": {"type": "string", "const": event_type},
        "source_service": {"type": "string"},
        "schema_version": {"type": "string", "const": "1"},
        "occurred_at": {"type": "string", "description": "`event_timestamp`."},
        "trace_id": {"type": "string", "description": "`correlation_id`."},
        "content_type": {"type": "string", "const": _JSON},
    }
    if event_type in CONSUMED:
        traceparent["description"] += " Without it, or if it is malformed, `metadata.traceparent` is taken."
        return {
            "type": "object",
            "description": "Any may be missing; only `traceparent` is read.",
            "properties": {**{name: {"type": "string"} for name in repeated}, "traceparent": traceparent},
        }
    traceparent["description"] += " That of the message that caused this one, unchanged, if it had one."
    return {
        "type": "object",
        "description": "All but `traceparent` are always there.",
        "required": list(repeated),
        "properties": {**repeated, "traceparent": traceparent},
    }


def examples_of(event_type: str, payload: type[Any], client: Client) -> list[Object]:
    """Whole messages with their headers, around the examples of the payload's type.

    Raises:
        LookupError: the type has no example, or does not say who sends it though it is consumed.
    """
    about = TypeAdapter(payload).json_schema()
    try:
        source = about["x-producer"] if event_type in CONSUMED else client.service_name
        examples = about["examples"]
    except KeyError as missing:
        raise LookupError(f"{payload.__name__} has no {missing}: name it in its json_schema_extra") from None
    return [_example(event_type, source, number, data) for number, data in enumerate(examples, start=1)]


def _example(event_type: str, source: str, number: int, data: Object) -> Object:
    event_id = str(uuid5(NAMESPACE_URL, f"example {number} of {event_type}"))
    return {
        "name": f"example{number}",
        "headers": {
            "event_id": event_id,
            "event_type": event_type,
            "source_service": source,
            "schema_version": "1",
            "occurred_at": _AT,
            "trace_id": _CORRELATION_ID,
            "content_type": _JSON,
            "traceparent": _TRACEPARENT,
        },
        "payload": {
            "event_id": event_id,
            "event_type": event_type,
            "event_timestamp": _AT,
            "source_service": source,
            "schema_version": 1,
            "correlation_id": _CORRELATION_ID,
            "data_schema_uri": None,
            "data": data,
            "metadata": None,
        },
    }
