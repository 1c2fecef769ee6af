"""Who gets what: Dishka's providers. Everything lives as long as the process; a test swaps what it needs to."""

from collections.abc import AsyncIterator, Mapping

from dishka import AsyncContainer, Provider, Scope, make_async_container, provide
from redis.asyncio import Redis

from result_aggregator_service.api.answers import BatchAnswers, representation
from result_aggregator_service.api.health import DependencyHealth, HealthSource, LoopHealth
from result_aggregator_service.app import Lifecycle
from result_aggregator_service.cache.cache_manager import CacheManager, NoCache, RedisCacheManager
from result_aggregator_service.cache.guarded_redis import GuardedRedis, create_redis_client
from result_aggregator_service.cache.idempotency import IdempotencyMarks, RedisIdempotencyMarks
from result_aggregator_service.cache.poison_pills import NoPoisonPills, PoisonPills, RedisPoisonPills
from result_aggregator_service.consumer.consumer import Consumer
from result_aggregator_service.consumer.decoder import Decoder
from result_aggregator_service.consumer.poll_handler import PollHandler
from result_aggregator_service.jobs.grace import GraceKeeper
from result_aggregator_service.jobs.housekeeping import Housekeeper, Invalidator
from result_aggregator_service.observability.metrics import Metrics, tell_of_process
from result_aggregator_service.observability.tracing import Tracing, create_tracing
from result_aggregator_service.operators_page.members import GroupMembers
from result_aggregator_service.operators_page.sampler import Sampler
from result_aggregator_service.projection.completion import Completion
from result_aggregator_service.projection.projector import Projector
from result_aggregator_service.publishing.election import Election
from result_aggregator_service.publishing.event_publisher import EventPublisher
from result_aggregator_service.publishing.outbox_manager import OutboxManager
from result_aggregator_service.publishing.relay import Relay
from result_aggregator_service.publishing.sender import Sender
from result_aggregator_service.resilience.circuit_breaker import BreakerState, CircuitBreaker
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.batch_reader import BatchReader
from result_aggregator_service.storage.engine import Database, create_engine
from result_aggregator_service.storage.inbox import Inbox
from result_aggregator_service.storage.pending_invalidations import PendingInvalidations
from result_aggregator_service.storage.projection_repository import ProjectionRepository
from result_aggregator_service.storage.quarantine import Quarantine
from result_aggregator_service.supervisor import Dependencies, Loops, Supervisor


class ProcessProvider(Provider):
    """What the process is given, and what it tells of itself."""

    scope = Scope.APP

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self._settings = settings

    @provide
    def settings(self) -> Settings:
        return self._settings

    @provide
    def metrics(self) -> Metrics:
        metrics = Metrics()
        tell_of_process(metrics)
        return metrics

    @provide
    async def tracing(self, settings: Settings) -> AsyncIterator[Tracing]:
        tracing = create_tracing(settings)
        yield tracing
        await tracing.close()


class StorageProvider(Provider):
    """PostgreSQL: the pool, and the repositories that are handed a session."""

    scope = Scope.APP

    @provide
    async def database(self, settings: Settings) -> AsyncIterator[Database]:
        database = Database(create_engine(settings))
        yield database
        await database.close()

    repository = provide(ProjectionRepository)
    reader = provide(BatchReader)
    inbox = provide(Inbox)
    quarantine = provide(Quarantine)
    pending_invalidations = provide(PendingInvalidations)


class CacheProvider(Provider):
    """Redis, and what is kept in it. The service does without any of it."""

    scope = Scope.APP

    @provide
    async def redis(self, settings: Settings) -> AsyncIterator[Redis]:
        client = create_redis_client(settings)
        yield client
        await client.aclose()

    @provide
    def guarded_redis(self, client: Redis, metrics: Metrics, settings: Settings) -> GuardedRedis:
        return GuardedRedis(client, metrics, timeout_seconds=settings.redis_timeout_seconds)

    @provide
    async def cache_manager(
        self, redis: GuardedRedis, metrics: Metrics, settings: Settings
    ) -> AsyncIterator[CacheManager]:
        if not settings.cache_enabled:
            yield NoCache(redis)
            return
        cache = RedisCacheManager(
            redis,
            metrics,
            ttl_seconds=settings.redis_cache_ttl_seconds,
            representation=representation(settings),
            sample_rate=settings.cache_sample_rate,
        )
        yield cache
        await cache.close()

    @provide
    def idempotency_marks(self, redis: GuardedRedis, settings: Settings) -> IdempotencyMarks:
        return RedisIdempotencyMarks(redis, ttl_seconds=settings.redis_idempotency_ttl_seconds)

    answers = provide(BatchAnswers)

    @provide
    def poison_pills(self, redis: GuardedRedis, settings: Settings) -> PoisonPills:
        if not settings.store_poison_pills:
            return NoPoisonPills()
        return RedisPoisonPills(redis, ttl_seconds=settings.poison_pill_ttl_seconds)


class ProjectionProvider(Provider):
    """The way in."""

    scope = Scope.APP

    @provide
    def decoder(self, settings: Settings) -> Decoder:
        return Decoder(settings.max_message_bytes)

    @provide
    def completion(
        self, repository: ProjectionRepository, publisher: EventPublisher, metrics: Metrics, settings: Settings
    ) -> Completion:
        return Completion(
            repository,
            publisher,
            metrics,
            expected_phases=settings.expected_phases,
            grace_seconds=settings.results_grace_seconds,
            service_name=settings.service_name,
        )

    @provide
    def projector(
        self,
        database: Database,
        inbox: Inbox,
        repository: ProjectionRepository,
        completion: Completion,
        quarantine: Quarantine,
        marks: IdempotencyMarks,
    ) -> Projector:
        return Projector(database, inbox, repository, completion, quarantine, marks)

    @provide
    async def poll_handler(
        self,
        settings: Settings,
        decoder: Decoder,
        projector: Projector,
        invalidator: Invalidator,
        poison_pills: PoisonPills,
        metrics: Metrics,
        tracing: Tracing,
    ) -> AsyncIterator[PollHandler]:
        handler = PollHandler(
            decoder,
            projector,
            invalidator,
            poison_pills,
            metrics,
            _breaker("postgres", settings.database_breaker_seconds, metrics),
            tracing,
            raise_on_deserialization_error=settings.raise_on_deserialization_error,
        )
        yield handler
        await handler.settle()

    consumer = provide(Consumer)
    invalidator = provide(Invalidator)
    grace_keeper = provide(GraceKeeper)
    housekeeper = provide(Housekeeper)


class PublishingProvider(Provider):
    """The way out."""

    scope = Scope.APP

    outbox = provide(OutboxManager)
    publisher = provide(EventPublisher)

    sender = provide(Sender)

    @provide
    def election(self, settings: Settings) -> Election:
        return Election(settings)

    @provide
    def relay(self, settings: Settings, election: Election, sender: Sender, metrics: Metrics) -> Relay:
        return Relay(settings, election, sender, metrics, _breaker("kafka", settings.outbox_breaker_seconds, metrics))


class SupervisionProvider(Provider):
    """What runs, and how it is."""

    scope = Scope.APP

    @provide
    def loops(self, consumer: Consumer, relay: Relay, grace: GraceKeeper, housekeeper: Housekeeper) -> Loops:
        return Loops({"consumer": consumer, "grace": grace, "relay": relay, "housekeeping": housekeeper})

    supervisor = provide(Supervisor)

    @provide
    def lifecycle(self, supervisor: Supervisor) -> Lifecycle:
        return supervisor

    @provide
    async def dependencies(
        self, settings: Settings, database: Database, redis: Redis, metrics: Metrics
    ) -> AsyncIterator[Dependencies]:
        dependencies = Dependencies(settings, database, redis, metrics)
        yield dependencies
        await dependencies.close()

    @provide
    def health(self, supervisor: Supervisor, dependencies: Dependencies) -> HealthSource:
        return Health(supervisor, dependencies)

    group_members = provide(GroupMembers)

    @provide
    def sampler(self, settings: Settings, metrics: Metrics, source: HealthSource, members: GroupMembers) -> Sampler:
        return Sampler(settings, metrics, source, members)


class Health:
    """How the loops and the servers are."""

    def __init__(self, supervisor: Supervisor, dependencies: Dependencies) -> None:
        self._supervisor = supervisor
        self._dependencies = dependencies

    def loops(self) -> Mapping[str, LoopHealth]:
        """What each loop is doing."""
        return self._supervisor.loops()

    async def dependencies(self) -> Mapping[str, DependencyHealth]:
        """How each server is."""
        return await self._dependencies.states()


def create_container(settings: Settings, *swapped: Provider) -> AsyncContainer:
    """The service's container; what `swapped` provides takes the place of what is provided here."""
    return make_async_container(
        ProcessProvider(settings),
        StorageProvider(),
        CacheProvider(),
        ProjectionProvider(),
        PublishingProvider(),
        SupervisionProvider(),
        *swapped,
    )


def _breaker(name: str, seconds_open: float, metrics: Metrics) -> CircuitBreaker:
    gauge = metrics.circuit_breaker_state.labels(name)

    def note(state: BreakerState) -> None:
        gauge.set(state)

    return CircuitBreaker(seconds_open=seconds_open, on_change=note)
