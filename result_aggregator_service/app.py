"""The HTTP applications: the API with health and metrics, and the metrics by themselves for their own port.

Routes see the path as it was sent, percent-encoded: decoded by Quart, %2F would split an id and %ff silently change it.
"""

import re
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, Protocol, cast

from dishka import AsyncContainer
from quart import Quart, Response, request
from quart_dishka import QuartDishka
from werkzeug.exceptions import RequestEntityTooLarge

from result_aggregator_service.api import batches, health
from result_aggregator_service.api.answers import BatchAnswers
from result_aggregator_service.api.call import CORRELATION_HEADER, NO_SNIFFING, Call, begin, present_call
from result_aggregator_service.api.errors import install_error_handlers
from result_aggregator_service.api.front import Front
from result_aggregator_service.api.openapi import pages
from result_aggregator_service.api.requests import UNMATCHED, Gate
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.observability.tracing import Tracing
from result_aggregator_service.operators_page import routes
from result_aggregator_service.settings import Settings

if TYPE_CHECKING:
    from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope
    from quart.ctx import RequestContext
    from quart.typing import ResponseReturnValue

MAX_CONTENT_LENGTH = 16 * 1024
_VARIABLE = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")


class Lifecycle(Protocol):
    """What runs beside the API for as long as it serves."""

    async def start(self) -> None:
        """Start; returns once everything is on its way."""
        ...

    async def stop(self) -> None:
        """Drain and stop, within a bounded time."""
        ...


class Application(Quart):
    """Quart with raw paths, a time limit for each request, and a gate that all of them pass."""

    def __init__(self, name: str, container: AsyncContainer) -> None:
        super().__init__(name, static_folder=None)
        self.config["MAX_CONTENT_LENGTH"] = MAX_CONTENT_LENGTH
        self.url_map.merge_slashes = False
        self._container = container
        self._gate: Gate | None = None
        self.before_request(self._admit)
        self.after_request(self._finish)
        install_error_handlers(self)
        QuartDishka(self, container)

    async def asgi_app(self, scope: "Scope", receive: "ASGIReceiveCallable", send: "ASGISendCallable") -> None:
        """Hand Quart the path as it was sent, and the call."""
        if scope["type"] != "http":
            await super().asgi_app(scope, receive, send)
            return
        call = begin(scope)
        with (await self.gate()).tracing.request(call.method, call.path, call.headers) as call.span:
            if not await self.answers(call, send):
                called = {**scope, "path": call.path, "call": call}
                await super().asgi_app(cast("Scope", called), receive, send)

    async def answers(self, call: Call, send: "ASGISendCallable") -> bool:
        """Whether a call is answered without Quart."""
        return False

    async def gate(self) -> Gate:
        """Made once: the container's own way takes longer than an answer from the cache may."""
        if self._gate is None:
            templates = {
                rule.endpoint.rpartition(".")[2]: _VARIABLE.sub(r"{\1}", rule.rule)
                for rule in self.url_map.iter_rules()
            }
            self._gate = Gate(
                await self._container.get(Settings),
                await self._container.get(Metrics),
                await self._container.get(Tracing),
                templates,
            )
        return self._gate

    async def dispatch_request(self, request_context: "RequestContext | None" = None) -> "ResponseReturnValue":
        """Run the view function; one that outlives `API_TIMEOUT_SECONDS` is cancelled."""
        async with (await self.gate()).in_time():
            return await super().dispatch_request(request_context)

    async def _admit(self) -> None:
        (await self.gate()).admit(present_call())
        if (request.content_length or 0) > MAX_CONTENT_LENGTH:
            raise RequestEntityTooLarge

    async def _finish(self, response: Response) -> Response:
        call = present_call()
        response.headers[CORRELATION_HEADER] = call.correlation_id
        response.headers.set(*NO_SNIFFING)
        endpoint = UNMATCHED if request.endpoint is None else request.endpoint.rpartition(".")[2]
        (await self.gate()).finish(call, endpoint, response.status_code)
        return response


class Api(Application):
    """The same, with the answers about batches in front of Quart."""

    def __init__(self, name: str, container: AsyncContainer) -> None:
        super().__init__(name, container)
        self._front: Front | None = None

    async def answers(self, call: Call, send: "ASGISendCallable") -> bool:
        """Whether a call is answered without Quart."""
        if self._front is None:
            self._front = Front(await self.gate(), await self._container.get(BatchAnswers))
        return await self._front.answers(call, send)


def create_app(container: AsyncContainer) -> Quart:
    """The API, health and metrics; the container stays its owner's, who closes it."""
    app = Api("result_aggregator_service", container)
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
    """The metrics and the operator's page, for `METRICS_PORT`."""
    app = Application("result_aggregator_service.metrics", container)
    app.register_blueprint(health.metrics_exposition)
    app.register_blueprint(routes.blueprint)
    return app
