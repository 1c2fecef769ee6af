"""Runs the service: the API and the metrics on their ports, until a signal or a dead loop ends it.

uvicorn's own handling of signals raises the signal again at its end, so that nothing after it runs; here the service
handles them, and the process ends with a status of its own.
"""

import asyncio
import contextlib
import signal
import socket
from collections.abc import Iterator

import structlog
import uvicorn

from result_aggregator_service.api.protocol import HttpProtocol, Limits, protocol_within
from result_aggregator_service.api.requests import UNREAD
from result_aggregator_service.app import create_app, create_metrics_app
from result_aggregator_service.failpoints import arm
from result_aggregator_service.observability.logging import log_what_nobody_catches
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.operators_page.members import GroupMembers
from result_aggregator_service.operators_page.sampler import Sampler
from result_aggregator_service.providers import create_container
from result_aggregator_service.settings import Settings, SettingsError
from result_aggregator_service.supervisor import Supervisor

_log = structlog.get_logger(__name__)
_BACKLOG = 2048
_SECONDS_TO_CLOSE = 5.0  # a server that hangs does not say goodbye


class _Server(uvicorn.Server):
    """uvicorn without signal handlers."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings) -> int:
    """Serve until SIGTERM or SIGINT; return the process's exit status: 0, or 1 if a loop died.

    Raises:
        SettingsError: a port cannot be listened on.
    """
    sockets = [
        listen("PORT", settings.host, settings.port),
        listen("METRICS_PORT", settings.host, settings.metrics_port),
    ]
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    log_what_nobody_catches(loop)
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)

    arm(settings.failpoints)
    if settings.failpoints:
        _log.warning("failpoints_armed", failpoints=[str(armed.point) for armed in settings.failpoints])
    container = create_container(settings)
    try:
        supervisor = await container.get(Supervisor)
        supervisor.watch((await container.get(GroupMembers)).run(), name="group members")
        supervisor.watch((await container.get(Sampler)).run(), name="operator's page")
        protocol = _protocol(settings, await container.get(Metrics))
        api = _Server(_config(create_app(container), protocol, settings, lifespan="on"))
        metrics = _Server(_config(create_metrics_app(container), protocol, settings, lifespan="off"))
        serving = [
            asyncio.create_task(server.serve([listener]), name=name)
            for server, listener, name in ((api, sockets[0], "api server"), (metrics, sockets[1], "metrics server"))
        ]
        _log.info(
            "service_started",
            port=sockets[0].getsockname()[1],
            metrics_port=sockets[1].getsockname()[1],
            environment=settings.environment,
        )
        waiting = [asyncio.create_task(stop.wait()), asyncio.create_task(supervisor.died.wait())]
        await asyncio.wait([*waiting, *serving], return_when=asyncio.FIRST_COMPLETED)
        failed = supervisor.died.is_set() or not stop.is_set()
        _log.info("service_stopping", reason="a loop died" if supervisor.died.is_set() else "signal")
        for task in waiting:
            task.cancel()
        api.should_exit = True  # its lifespan drains the loops
        await serving[0]
        metrics.should_exit = True
        await serving[1]
    finally:
        try:
            async with asyncio.timeout(_SECONDS_TO_CLOSE):
                await container.close()
        except TimeoutError:
            _log.warning("connections_not_closed_cleanly", seconds=_SECONDS_TO_CLOSE)
    _log.info("service_stopped", status=int(failed))
    return int(failed)


def _protocol(settings: Settings, metrics: Metrics) -> type[HttpProtocol]:
    limits = Limits(
        connections=settings.api_max_connections,
        seconds_to_send=settings.api_receive_timeout_seconds,
        seconds_to_take=settings.api_send_timeout_seconds,
    )
    return protocol_within(limits, lambda error: metrics.api_errors.labels(UNREAD, error).inc())


def _config(app: object, protocol: type[HttpProtocol], settings: Settings, *, lifespan: str) -> uvicorn.Config:
    return uvicorn.Config(
        app,  # type: ignore[arg-type]
        http=protocol,
        ws="none",
        lifespan=lifespan,  # type: ignore[arg-type]
        access_log=False,
        log_config=None,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(int(settings.shutdown_timeout_seconds / 2), 1),
    )


def listen(setting: str, host: str, port: int) -> socket.socket:
    """A listening socket for the HTTP server; `setting` names the port's setting.

    Raises:
        SettingsError: nobody can listen there.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        raise SettingsError(f"{setting}: cannot listen on {host}:{port}: {error.strerror or error}") from None
    # Inherited by what it accepts. asyncio sets it only where a socket was made with IPPROTO_TCP, and this one was not.
    # Without it a body waits 40 ms for the client's acknowledgement of the headers, which are sent by themselves.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
