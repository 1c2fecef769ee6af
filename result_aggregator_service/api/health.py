"""What probes and Prometheus ask. Liveness speaks of this process alone: an outage elsewhere restarts nothing."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from http import HTTPStatus
from typing import Protocol

import orjson
from dishka import FromDishka
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import JsonValue
from quart import Blueprint, Response
from quart_dishka import inject

from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.settings import Settings

health = Blueprint("health", __name__)
metrics_exposition = Blueprint("metrics", __name__)

#: Without these nothing can be served, and what mends it. All others can be done without for a while.
NEEDED_TO_SERVE: Mapping[str, str] = {
    "postgres": "start PostgreSQL or correct DATABASE_URL",
    "migrations": "run `alembic upgrade head`",
}


@dataclass(frozen=True, slots=True)
class LoopHealth:
    """A background loop: whether it lives, and whether it moves although it has work."""

    alive: bool
    making_progress: bool
    detail: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the loop turns."""
        return self.alive and self.making_progress


@dataclass(frozen=True, slots=True)
class DependencyHealth:
    """A server elsewhere, or the state of its data, at this moment. `detail` is shown to anybody."""

    ok: bool
    detail: str | None = None


class HealthSource(Protocol):
    """Knows how the process and its dependencies are."""

    def loops(self) -> Mapping[str, LoopHealth]:
        """The background loops by name."""
        ...

    async def dependencies(self) -> Mapping[str, DependencyHealth]:
        """`postgres`, `migrations`, `kafka`, `redis`, each looked at now, within a bounded time."""
        ...


@health.get("/livez")
@inject
async def get_liveness(source: FromDishka[HealthSource]) -> Response:
    """200 while all loops turn."""
    loops = source.loops()
    alive = all(loop.ok for loop in loops.values())
    return _json(alive, {"status": "ok" if alive else "failing", "loops": _loops(loops)})


@health.get("/readyz")
@inject
async def get_readiness(source: FromDishka[HealthSource]) -> Response:
    """200 while reads can be served; else 503 that says what is missing and what to do."""
    dependencies = await source.dependencies()
    reasons: list[JsonValue] = [
        {"dependency": name, "detail": dependencies[name].detail, "mend": mend}
        for name, mend in NEEDED_TO_SERVE.items()
        if name in dependencies and not dependencies[name].ok
    ]
    status = "unavailable" if reasons else _status_of(dependencies)
    document: dict[str, JsonValue] = {
        "status": status,
        "reasons": reasons,
        "dependencies": _dependencies(dependencies),
    }
    return _json(not reasons, document)


@health.get("/healthz")
@inject
async def get_health(source: FromDishka[HealthSource], settings: FromDishka[Settings]) -> Response:
    """The whole picture; 200 while the process lives and its loops turn, whatever is away."""
    loops, dependencies = source.loops(), await source.dependencies()
    alive = all(loop.ok for loop in loops.values())
    document: dict[str, JsonValue] = {
        "status": _status_of(dependencies) if alive else "failing",
        "service": settings.service_name,
        "version": settings.service_version,
        "dependencies": _dependencies(dependencies),
        "loops": _loops(loops),
    }
    return _json(alive, document)


@metrics_exposition.get("/metrics")
@inject
async def get_metrics(metrics: FromDishka[Metrics]) -> Response:
    """Everything that is measured, as Prometheus reads it."""
    return Response(generate_latest(metrics.registry), content_type=CONTENT_TYPE_LATEST)


def _status_of(dependencies: Mapping[str, DependencyHealth]) -> str:
    return "ok" if all(dependency.ok for dependency in dependencies.values()) else "degraded"


def _loops(loops: Mapping[str, LoopHealth]) -> dict[str, JsonValue]:
    return {name: asdict(loop) for name, loop in loops.items()}


def _dependencies(dependencies: Mapping[str, DependencyHealth]) -> dict[str, JsonValue]:
    return {name: asdict(dependency) for name, dependency in dependencies.items()}


def _json(ok: bool, document: Mapping[str, JsonValue]) -> Response:
    return Response(
        orjson.dumps(document),
        HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE,
        {"Cache-Control": "no-store"},
        content_type="application/json",
    )
