"""The API on real servers, wired by a container of the tests' own."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import httpx
import pytest
from dishka import AsyncContainer, Provider, Scope, make_async_container, provide
from quart import Quart
from redis.asyncio import Redis

from result_aggregator_service.api.answers import BatchAnswers, representation
from result_aggregator_service.api.health import DependencyHealth, HealthSource, LoopHealth
from result_aggregator_service.app import Lifecycle, create_app
from result_aggregator_service.cache.cache_manager import CacheManager, RedisCacheManager
from result_aggregator_service.cache.guarded_redis import GuardedRedis, create_redis_client
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.observability.tracing import NO_TRACING, Tracing
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.batch_reader import BatchReader
from result_aggregator_service.storage.engine import Database, create_engine
from result_aggregator_service.storage.projection_repository import ProjectionRepository
from tests.integration.api.read_model import ReadModel

KEY, OTHER_KEY = "key-of-today", "kéy-of-tomorrow"
CREDENTIALS = {"X-Internal-API-Key": KEY, "X-Service-ID": "api-gateway-service"}


class StatedHealth:
    """A health source that says what a test tells it to."""

    def __init__(self) -> None:
        self.loop_states: dict[str, LoopHealth] = {"consumer": LoopHealth(True, True), "relay": LoopHealth(True, True)}
        self.dependency_states = {name: DependencyHealth(True) for name in ("postgres", "migrations", "kafka", "redis")}

    def loops(self) -> Mapping[str, LoopHealth]:
        return self.loop_states

    async def dependencies(self) -> Mapping[str, DependencyHealth]:
        return self.dependency_states


class RecordedLifecycle:
    """A lifecycle that only remembers what was asked of it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    async def start(self) -> None:
        self.calls.append("start")

    async def stop(self) -> None:
        self.calls.append("stop")


class TestProvider(Provider):
    """What the API needs, and nothing else of the service."""

    __test__ = False
    scope = Scope.APP

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    @provide
    def settings(self) -> Settings:
        return self._settings

    @provide
    def metrics(self) -> Metrics:
        return Metrics()

    @provide
    def tracing(self) -> Tracing:
        return NO_TRACING

    stated_health = provide(StatedHealth)
    recorded_lifecycle = provide(RecordedLifecycle)
    repository = provide(ProjectionRepository)
    reader = provide(BatchReader)
    answers = provide(BatchAnswers)

    @provide
    def health(self, health: StatedHealth) -> HealthSource:
        return health

    @provide
    def lifecycle(self, lifecycle: RecordedLifecycle) -> Lifecycle:
        return lifecycle

    @provide
    async def database(self, settings: Settings) -> AsyncIterator[Database]:
        database = Database(create_engine(settings))
        yield database
        await database.close()

    @provide
    async def redis(self, settings: Settings) -> AsyncIterator[Redis]:
        client = create_redis_client(settings)
        yield client
        await client.aclose()

    @provide
    def guarded_redis(self, client: Redis, metrics: Metrics, settings: Settings) -> GuardedRedis:
        return GuardedRedis(client, metrics, timeout_seconds=settings.redis_timeout_seconds)

    @provide
    def cache(self, redis: GuardedRedis, metrics: Metrics, settings: Settings) -> CacheManager:
        return RedisCacheManager(
            redis,
            metrics,
            ttl_seconds=settings.redis_cache_ttl_seconds,
            representation=representation(settings),
        )


MakeSettings = Callable[..., Settings]


@pytest.fixture
def make_settings() -> MakeSettings:
    """Settings from these arguments, whatever the environment holds."""

    def make(**values: Any) -> Settings:
        return Settings(_env_file=None, internal_api_key=f"{KEY},{OTHER_KEY}", **values)

    return make


@pytest.fixture
def settings(make_settings: MakeSettings, database_url: str, redis_url: str) -> Settings:
    """A test module overrides this where it wants others."""
    return make_settings(database_url=database_url, redis_url=redis_url)


@pytest.fixture
async def container(settings: Settings) -> AsyncIterator[AsyncContainer]:
    made = make_async_container(TestProvider(settings))
    yield made
    await made.close()


@pytest.fixture
def app(container: AsyncContainer) -> Quart:
    return create_app(container)


@pytest.fixture
async def client(app: Quart) -> AsyncIterator[httpx.AsyncClient]:
    """A caller with valid credentials."""
    transport = httpx.ASGITransport(app=app)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://ras", headers=CREDENTIALS) as caller:
        yield caller


@pytest.fixture
async def metrics(container: AsyncContainer) -> Metrics:
    return await container.get(Metrics)


@pytest.fixture
async def health(container: AsyncContainer) -> StatedHealth:
    return await container.get(StatedHealth)


@pytest.fixture
async def read_model(container: AsyncContainer, settings: Settings) -> ReadModel:
    return ReadModel(
        await container.get(Database),
        await container.get(ProjectionRepository),
        await container.get(CacheManager),
        settings.expected_phases,
    )
