"""Replicas of the service, as far as they share a Redis."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass

import pytest
from redis.asyncio import Redis

from result_aggregator_service.cache.cache_manager import RedisCacheManager
from result_aggregator_service.cache.guarded_redis import GuardedRedis, create_redis_client
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.settings import Settings

#: Of a Redis that answers, and on a machine that may be busy.
PATIENT_SECONDS = 10.0


@dataclass
class Replica:
    """One process of the service: its own connections, breaker, flights and metrics."""

    redis: GuardedRedis
    cache: RedisCacheManager
    metrics: Metrics

    def metric(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


MakeReplica = Callable[..., Awaitable[Replica]]


@pytest.fixture
async def make_replica() -> AsyncIterator[MakeReplica]:
    """`await make_replica(url)` gives another replica."""
    async with AsyncExitStack() as stack:

        async def make(
            url: str,
            *,
            ttl_seconds: int = 300,
            timeout_seconds: float = PATIENT_SECONDS,
            seconds_open: float = 600.0,
            representation: str = "00000001",
            sample_rate: float = 0.0,
            sample_patience_seconds: float = 5.0,
        ) -> Replica:
            settings = Settings(
                _env_file=None,
                database_url="postgresql://nowhere/none",
                internal_api_key="key",
                redis_url=url,
                redis_timeout_seconds=timeout_seconds,
            )
            client = create_redis_client(settings)
            stack.push_async_callback(client.aclose)
            metrics = Metrics()
            redis = GuardedRedis(client, metrics, timeout_seconds=timeout_seconds, seconds_open=seconds_open)
            cache = RedisCacheManager(
                redis,
                metrics,
                ttl_seconds=ttl_seconds,
                representation=representation,
                sample_rate=sample_rate,
                sample_patience_seconds=sample_patience_seconds,
            )
            stack.push_async_callback(cache.close)
            return Replica(redis, cache, metrics)

        yield make


@pytest.fixture
async def replica(make_replica: MakeReplica, redis_url: str) -> Replica:
    return await make_replica(redis_url)


@pytest.fixture
async def other_replica(make_replica: MakeReplica, redis_url: str) -> Replica:
    return await make_replica(redis_url)


@pytest.fixture
async def raw(redis_url: str) -> AsyncIterator[Redis]:
    """Redis as it is, to look into."""
    client = Redis.from_url(redis_url, protocol=2)
    yield client
    await client.aclose()
