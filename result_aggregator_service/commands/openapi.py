"""`openapi`: writes the API's OpenAPI document to standard output. Needs no settings and no server."""

import click
from dishka import make_async_container

from result_aggregator_service.api.openapi.document import openapi_json
from result_aggregator_service.app import create_app


@click.command()
def openapi() -> None:
    """Write the OpenAPI document of the API, for docs/openapi.json."""
    app = create_app(make_async_container())
    click.echo(openapi_json(app.url_map, app.view_functions), nl=False)
