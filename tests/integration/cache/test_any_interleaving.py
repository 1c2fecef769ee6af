"""No read that begins after an invalidation sees the older state, whatever steps of whom come in between.

Two replicas and a real Redis. Readers stop before each call to Redis, and in each query once it has read, until the
drawn order lets them go on. In between writers commit and invalidate, keys expire, Redis loses everything.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum, auto
from typing import Any, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from result_aggregator_service.cache.cache_manager import Answer, CacheManager, KnownTags, RedisCacheManager, Unchanged
from result_aggregator_service.cache.guarded_redis import GuardedRedis
from result_aggregator_service.observability.metrics import Metrics
from tests.hypothesis_profiles import examples
from tests.integration.cache.source import answer_of

T = TypeVar("T")


class Step(Enum):
    """What can happen next."""

    GO_ON = auto()
    READ = auto()
    READ_AGAIN = auto()
    COMMIT = auto()
    INVALIDATE = auto()
    WRITE = auto()
    ANSWER_EXPIRES = auto()
    ANSWER_NEARS_ITS_END = auto()
    TOKEN_EXPIRES = auto()
    REDIS_LOSES_ALL = auto()


#: Most often somebody who waits goes on, or somebody comes to read.
OFTEN = [Step.GO_ON] * 9 + [Step.READ] * 4 + [Step.READ_AGAIN] * 3 + [Step.WRITE] * 2
STEPS = st.lists(st.tuples(st.sampled_from([*OFTEN, *Step]), st.integers(0, 3)), min_size=20, max_size=60)


class Stops:
    """Where everybody waits to be let on, in the order in which they came."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Event] = []
        self._calls = 0
        self.open = False

    async def stop(self) -> None:
        if not self.open:
            event = asyncio.Event()
            self._waiting.append(event)
            await event.wait()

    def let_on(self, which: int) -> None:
        if self._waiting:
            self._waiting.pop(which % len(self._waiting)).set()

    def let_all_on(self) -> None:
        self.open = True
        while self._waiting:
            self.let_on(0)

    async def calling(self, call: Coroutine[Any, Any, T]) -> T:
        """What a call to Redis, which stops for nobody, returns."""
        self._calls += 1
        try:
            return await call
        finally:
            self._calls -= 1

    async def settled(self) -> None:
        """Wait until nobody moves who has not been let on."""
        turns = 0
        while turns < 12:
            turns = 0 if self._calls else turns + 1
            await asyncio.sleep(0.0002 if self._calls else 0)


class StoppingRedis(GuardedRedis):
    """Redis, with a stop before each call."""

    def __init__(self, client: Redis, metrics: Metrics, stops: Stops) -> None:
        super().__init__(client, metrics, timeout_seconds=10.0)
        self._stops = stops

    async def call(
        self, operation: str, command: Callable[[Redis], Awaitable[T]], *, even_if_in_trouble: bool = False
    ) -> T:
        await self._stops.stop()
        return await self._stops.calling(super().call(operation, command, even_if_in_trouble=even_if_in_trouble))


class World:
    """A row of the database, its readers and its writers."""

    def __init__(
        self, of_page: bool, stops: Stops, raw: Redis, replicas: list[CacheManager], writer: CacheManager
    ) -> None:
        self._of_page = of_page
        self._stops = stops
        self._raw = raw
        self._replicas = replicas
        self._writer = writer
        self._version = 1
        self._invalidated = 1
        self._readers: list[asyncio.Task[None]] = []

    async def etag(self) -> str:
        """A query that has read when it stops."""
        return (await self.load()).etag

    async def load(self) -> Answer:
        """The same."""
        answer = _answer(self._version)
        await self._stops.stop()
        return answer

    async def take(self, step: Step, number: int) -> None:
        """One step, and what follows of itself. `number`: who goes on, or which replica is asked."""
        match step:
            case Step.GO_ON:
                self._stops.let_on(number)
            case Step.READ:
                self._begin(number, KnownTags())
            case Step.READ_AGAIN:
                self._begin(
                    number, KnownTags(frozenset({_answer(self._invalidated - 1).etag, _answer(self._version).etag}))
                )
            case Step.COMMIT:
                self._version += 1
            case Step.INVALIDATE:
                await self._invalidate()
            case Step.WRITE:
                self._version += 1
                await self._invalidate()
            case Step.ANSWER_EXPIRES:
                await self._raw.delete("ras:batch:b", "ras:user:u:batches:20:0:")
            case Step.ANSWER_NEARS_ITS_END:
                await self._raw.pexpire("ras:batch:b", 20_000)
                await self._raw.pexpire("ras:user:u:batches:20:0:", 20_000)
            case Step.TOKEN_EXPIRES:
                await self._raw.delete("ras:batch-token:b", "ras:user-token:u")
            case Step.REDIS_LOSES_ALL:
                await self._raw.flushdb()
        await self._stops.settled()

    async def end(self) -> None:
        """Everybody goes on to the end; then all replicas are asked once more."""
        self._stops.let_all_on()
        await asyncio.gather(*self._readers)
        for number in range(len(self._replicas)):
            await self._read(number, KnownTags())

    def _begin(self, number: int, known: KnownTags) -> None:
        self._readers.append(asyncio.create_task(self._read(number, known)))

    async def _read(self, number: int, known: KnownTags) -> None:
        oldest = self._invalidated
        replica = self._replicas[number % len(self._replicas)]
        if self._of_page:
            answer = await replica.user_batches("u", "20:0:", known, self)
        else:
            answer = await replica.batch_status("b", known, self)  # type: ignore[assignment]
        versions = {_answer(version).etag: version for version in range(self._version + 1)}
        assert versions[answer.etag] >= oldest, f"version {versions[answer.etag]} after {oldest} was invalidated"
        assert answer in (_answer(versions[answer.etag]), Unchanged(answer.etag))

    async def _invalidate(self) -> None:
        assert await self._writer.invalidate(["b"], ["u"])
        self._invalidated = self._version


def _answer(version: int) -> Answer:
    return answer_of(b"%d" % version)


async def run(url: str, of_page: bool, steps: list[tuple[Step, int]]) -> None:
    stops, raw = Stops(), Redis.from_url(url, protocol=2)
    clients = [Redis.from_url(url, protocol=2) for _ in range(2)]
    caches = [_cache(StoppingRedis(client, Metrics(), stops)) for client in clients]
    writer = _cache(GuardedRedis(raw, Metrics(), timeout_seconds=10.0))
    world = World(of_page, stops, raw, [*caches], writer)
    try:
        await raw.flushdb()
        for step, number in steps:
            await world.take(step, number)
    finally:
        await world.end()
        for cache in caches:
            await cache.close()
        for client in (*clients, raw):
            await client.aclose()


def _cache(redis: GuardedRedis) -> RedisCacheManager:
    return RedisCacheManager(redis, Metrics(), ttl_seconds=300, representation="00000001")


@settings(examples(1), suppress_health_check=[*examples(1).suppress_health_check, HealthCheck.function_scoped_fixture])
@given(of_page=st.booleans(), steps=STEPS)
def test_in_any_order_of_steps_no_read_is_older_than_what_was_invalidated_before_it(
    redis_url: str, of_page: bool, steps: list[tuple[Step, int]]
) -> None:
    asyncio.run(run(redis_url, of_page, steps))
