"""`asyncapi`: writes the AsyncAPI document to standard output, and each message's schema into a folder.

Needs no settings and no server: what settings decide stands there with its default.
"""

from pathlib import Path
from typing import Any

import click
import orjson

from result_aggregator_service import __version__
from result_aggregator_service.contracts.asyncapi import Client, asyncapi_document
from result_aggregator_service.contracts.schemas import message_json_schema
from result_aggregator_service.contracts.topics import CONSUMED, PUBLISHED
from result_aggregator_service.settings import Settings


@click.command()
@click.option(
    "--schemas",
    type=click.Path(exists=True, file_okay=False, writable=True, path_type=Path),
    help="Also write each message's JSON Schema into this folder, as <event type>.json.",
)
def asyncapi(schemas: Path | None) -> None:
    """Write the AsyncAPI document of all messages, for docs/asyncapi.json."""
    click.echo(_json(asyncapi_document(_default_client())), nl=False)
    if schemas is not None:
        for event_type in (*CONSUMED, *PUBLISHED):
            (schemas / f"{event_type}.json").write_bytes(_json(message_json_schema(event_type)))


def _default_client() -> Client:
    def default(name: str) -> Any:
        return Settings.model_fields[name].default

    return Client(
        service_name=default("service_name"),
        version=__version__,
        bootstrap_servers=default("kafka_bootstrap_servers"),
        group_id=default("kafka_consumer_group_id"),
        producer_client_id=default("kafka_producer_client_id"),
        partitions=default("kafka_topic_partitions"),
        replicas=default("kafka_topic_replication_factor"),
    )


def _json(document: dict[str, Any]) -> bytes:
    return orjson.dumps(document, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
