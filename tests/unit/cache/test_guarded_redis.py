"""When Redis is asked, when it is left alone, and what is counted; with commands that stand for Redis."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
from prometheus_client import CollectorRegistry
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError

from result_aggregator_service.cache.guarded_redis import GuardedRedis, RedisUnavailableError
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.resilience.circuit_breaker import FAILURES_TO_OPEN, BreakerState
from tests.garbage import uncollected

Command = Callable[[Redis], Awaitable[str]]


class Server:
    """Stands for Redis: fails as it is told to, and counts what it is asked."""

    def __init__(self) -> None:
        self.asked = 0
        self.failure: Exception | None = None
        self.answers = asyncio.Event()
        self.answers.set()

    async def __call__(self, _redis: Redis) -> str:
        self.asked += 1
        await self.answers.wait()
        if self.failure is not None:
            raise self.failure
        return "answer"


def guarded(*, timeout_seconds: float = 5.0, seconds_open: float = 3600.0) -> tuple[GuardedRedis, CollectorRegistry]:
    metrics = Metrics()
    redis = GuardedRedis(Redis(), metrics, timeout_seconds=timeout_seconds, seconds_open=seconds_open)
    return redis, metrics.registry


def state(registry: CollectorRegistry) -> float | None:
    return registry.get_sample_value("ras_circuit_breaker_state", {"breaker": "redis"})


def errors(registry: CollectorRegistry) -> float | None:
    return registry.get_sample_value("ras_cache_errors_total", {"operation": "read"})


async def fail(redis: GuardedRedis, server: Server, times: int) -> None:
    for _ in range(times):
        with pytest.raises(RedisUnavailableError):
            await redis.call("read", server)


async def test_an_answer_is_passed_on() -> None:
    redis, registry = guarded()
    assert await redis.call("read", Server()) == "answer"
    assert (state(registry), errors(registry)) == (BreakerState.CLOSED, 0)


async def test_calls_leave_nothing_to_the_garbage_collector() -> None:
    redis, _ = guarded()
    with uncollected(asyncio.Timeout) as left:
        for _ in range(3):
            await redis.call("read", Server())
        assert left() == 0


async def test_a_server_that_does_not_answer_is_given_up_after_the_time_limit_and_counted() -> None:
    redis, registry = guarded(timeout_seconds=0.01)
    server = Server()
    server.answers.clear()
    await fail(redis, server, 1)
    assert errors(registry) == 1


async def test_after_failures_in_a_row_the_server_is_left_alone_and_the_metrics_say_so() -> None:
    redis, registry = guarded()
    server = Server()
    server.failure = RedisConnectionError("away")
    await fail(redis, server, FAILURES_TO_OPEN + 3)
    assert server.asked == FAILURES_TO_OPEN
    assert (state(registry), errors(registry)) == (BreakerState.OPEN, FAILURES_TO_OPEN)


async def test_a_server_that_refuses_calls_because_it_is_full_is_not_left_alone() -> None:
    redis, registry = guarded()
    server = Server()
    server.failure = OutOfMemoryError("OOM command not allowed")
    await fail(redis, server, 20)
    assert server.asked == 20
    assert (state(registry), errors(registry)) == (BreakerState.CLOSED, 20)


async def test_an_error_that_is_not_the_servers_is_not_swallowed() -> None:
    redis, _ = guarded()
    server = Server()
    server.failure = LookupError("a bug")
    with pytest.raises(LookupError):
        await redis.call("read", server)


async def test_a_writer_that_has_to_is_let_through_and_finds_out_that_the_server_is_back() -> None:
    redis, registry = guarded()
    server = Server()
    server.failure = RedisConnectionError("away")
    await fail(redis, server, FAILURES_TO_OPEN)
    with pytest.raises(RedisUnavailableError):
        await redis.call("invalidate", server, even_if_in_trouble=True)
    assert server.asked == FAILURES_TO_OPEN + 1
    server.failure = None
    assert await redis.call("invalidate", server, even_if_in_trouble=True) == "answer"
    assert state(registry) == BreakerState.CLOSED
    assert await redis.call("read", server) == "answer"


async def test_one_call_at_a_time_finds_out_whether_the_server_is_back_and_the_others_do_without() -> None:
    redis, registry = guarded(seconds_open=0.0)
    server = Server()
    server.failure = RedisConnectionError("away")
    await fail(redis, server, FAILURES_TO_OPEN)
    server.failure = None
    server.answers.clear()
    probe = asyncio.create_task(redis.call("read", server))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert state(registry) == BreakerState.HALF_OPEN
    await fail(redis, server, 10)
    assert server.asked == FAILURES_TO_OPEN + 1
    server.answers.set()
    assert await probe == "answer"
    assert state(registry) == BreakerState.CLOSED


async def test_a_probe_that_is_cancelled_leaves_room_for_the_next() -> None:
    redis, registry = guarded(seconds_open=0.0)
    server = Server()
    server.failure = RedisConnectionError("away")
    await fail(redis, server, FAILURES_TO_OPEN)
    server.failure = None
    server.answers.clear()
    probe = asyncio.create_task(redis.call("read", server))
    await asyncio.sleep(0)
    probe.cancel()
    with pytest.raises(asyncio.CancelledError):
        await probe
    server.answers.set()
    assert await redis.call("read", server) == "answer"
    assert state(registry) == BreakerState.CLOSED


async def test_an_answer_that_came_while_the_loop_was_busy_is_taken() -> None:
    redis, registry = guarded(timeout_seconds=0.01)

    async def answer_after_some_turns(_redis: Redis) -> str:
        time.sleep(0.05)  # noqa: ASYNC251 - the loop is busy for longer than the call may take
        for _ in range(10):
            await asyncio.sleep(0)
        return "answer"

    assert await redis.call("read", answer_after_some_turns) == "answer"
    assert errors(registry) == 0
