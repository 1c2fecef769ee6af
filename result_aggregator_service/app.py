"""The HTTP applications: the API with health and metrics, and the metrics by themselves for their own port.

Routes see the path as it was sent, percent-encoded: decoded by Quart, %2F would split an id and %ff silently change it.
"""

import asyncio
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Protocol

from dishka import AsyncContainer
from quart import Quart
from quart_dishka import QuartDishka

from result_aggregator_service.api import batches, health
from result_aggregator_service.api.errors import install_error_handlers, too_slow
from result_aggregator_service.api.openapi import pages
from result_aggregator_service.api.requests import install_request_hooks
from result_aggregator_service.settings import Settings

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope
    from quart.ctx import RequestContext
    from quart.typing import ResponseReturnValue

MAX_CONTENT_LENGTH = 16 * 1024


class Lifecycle(Protocol):
    """What runs beside the API for as long as it serves."""

    async def start(self) -> None:
        """Start; returns once everything is on its way."""
        ...

    async def stop(self) -> None:
        """Drain and stop, within a bounded time."""
        ...


class Application(Quart):
    """Quart with raw paths and a time limit for each request."""

    def __init__(self, name: str, container: AsyncContainer) -> None:
        super().__init__(name, static_folder=None)
        self.config["MAX_CONTENT_LENGTH"] = MAX_CONTENT_LENGTH
        self.url_map.merge_slashes = False
        self._container = container
        install_request_hooks(self, container)
        install_error_handlers(self)
        QuartDishka(self, container)

    async def asgi_app(self, scope: "Scope", receive: "ASGIReceiveCallable", send: "ASGISendCallable") -> None:
        """Hand Quart the path as it was sent."""
        if scope["type"] == "http" and scope["raw_path"]:
            scope = {**scope, "path": scope["raw_path"].decode("latin-1")}
        await super().asgi_app(scope, receive, send)

    async def dispatch_request(self, request_context: "RequestContext | None" = None) -> "ResponseReturnValue":
        """Run the view function; one that outlives `API_TIMEOUT_SECONDS` is cancelled."""
        seconds = (await self._container.get(Settings)).api_timeout_seconds
        try:
            async with asyncio.timeout(seconds) as limit:
                return await super().dispatch_request(request_context)
        except TimeoutError:
            if limit.expired():
                raise too_slow(seconds) from None
            raise


def create_app(container: AsyncContainer) -> Quart:
    """The API, health and metrics; the container stays its owner's, who closes it."""
    app = Application("result_aggregator_service", container)
    app.register_blueprint(batches.blueprint)
    app.register_blueprint(health.health)
    app.register_blueprint(health.metrics_exposition)
    app.register_blueprint(pages.blueprint)

    @app.while_serving
    async def run_lifecycle() -> AsyncGenerator[None, None]:
        lifecycle = await container.get(Lifecycle)
        await lifecycle.start()
        yield
        await lifecycle.stop()

    return app


def create_metrics_app(container: AsyncContainer) -> Quart:
    """The metrics alone, for `METRICS_PORT`."""
    app = Application("result_aggregator_service.metrics", container)
    app.register_blueprint(health.metrics_exposition)
    return app
