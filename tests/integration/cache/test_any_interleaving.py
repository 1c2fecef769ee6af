"""No read that begins after an invalidation sees the older state, whatever steps of whom come in between.

Two replicas and a real Redis. Every call to Redis and every query stops before and after it is made, until the drawn
order lets it go on; in between, keys expire, near their end or at once, and Redis loses everything.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from enum import Enum, auto
from typing import Any, TypeVar

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis.asyncio import Redis

from result_aggregator_service.cache.cache_manager import Answer, KnownTags, RedisCacheManager, Unchanged
from result_aggregator_service.cache.guarded_redis import GuardedRedis
from result_aggregator_service.observability.metrics import Metrics
from tests.hypothesis_profiles import examples
from tests.integration.cache.source import answer_of

T = TypeVar("T")


class Step(Enum):
    """What can happen next; most often something that waits goes on."""

    GO_ON = auto()
    READ_BATCH = auto()
    READ_PAGE = auto()
    READ_BATCH_AGAIN = auto()
    COMMIT = auto()
    INVALIDATE = auto()
    WRITE = auto()
    EXPIRE_ANSWERS = auto()
    EXPIRE_TOKENS = auto()
    NEAR_THE_END = auto()
    LOSE_ALL = auto()


STEPS = st.lists(st.tuples(st.sampled_from([Step.GO_ON] * 8 + list(Step)), st.integers(0, 5)), min_size=10, max_size=70)


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

    async def call(self, command: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Make a call to a server, with a stop on either side."""
        await self.stop()
        self._calls += 1
        try:
            answer = await command()
        finally:
            self._calls -= 1
        await self.stop()
        return answer

    async def settled(self) -> None:
        """Wait until nobody moves who has not been let on."""
        turns = 0
        while turns < 12:
            turns = 0 if self._calls else turns + 1
            await asyncio.sleep(0.0002 if self._calls else 0)


class StoppingRedis(GuardedRedis):
    """Redis, with a stop before and after each call."""

    def __init__(self, client: Redis, metrics: Metrics, stops: Stops) -> None:
        super().__init__(client, metrics, timeout_seconds=10.0)
        self._stops = stops

    async def call(
        self, operation: str, command: Callable[[Redis], Awaitable[T]], *, even_if_in_trouble: bool = False
    ) -> T:
        made = super().call
        return await self._stops.call(lambda: made(operation, command, even_if_in_trouble=even_if_in_trouble))


class World:
    """A database row, readers and writers."""

    def __init__(self, stops: Stops, raw: Redis, replicas: list[RedisCacheManager]) -> None:
        self._stops = stops
        self._raw = raw
        self._replicas = replicas
        self._version = 1
        self._invalidated = 1
        self._turn = 0
        self._tasks: list[asyncio.Task[None]] = []

    async def etag(self) -> str:
        return answer_of((await self.load()).body).etag

    async def load(self) -> Answer:
        async def query() -> Answer:
            return answer_of(b"%d" % self._version)

        return await self._stops.call(query)

    async def take(self, step: Step, number: int) -> None:
        self._turn += 1
        replica = self._replicas[self._turn % len(self._replicas)]
        match step:
            case Step.GO_ON:
                self._stops.let_on(number)
            case Step.READ_BATCH:
                self._begin(self._reads(replica.batch_status("b", KnownTags(), self)))
            case Step.READ_BATCH_AGAIN:
                known = KnownTags(frozenset(answer_of(b"%d" % (self._version - old)).etag for old in range(number + 1)))
                self._begin(self._reads(replica.batch_status("b", known, self)))
            case Step.READ_PAGE:
                self._begin(self._reads(replica.user_batches("u", "20:0:", KnownTags(), self)))
            case Step.COMMIT:
                self._version += 1
            case Step.INVALIDATE:
                self._begin(self._invalidates(replica))
            case Step.WRITE:
                self._version += 1
                self._begin(self._invalidates(replica))
            case Step.EXPIRE_ANSWERS:
                await self._raw.delete("ras:batch:b", "ras:user:u:batches:20:0:")
            case Step.EXPIRE_TOKENS:
                await self._raw.delete("ras:batch-token:b", "ras:user-token:u")
            case Step.NEAR_THE_END:
                await self._raw.pexpire("ras:batch:b", 20_000)
                await self._raw.pexpire("ras:user:u:batches:20:0:", 20_000)
            case Step.LOSE_ALL:
                await self._raw.flushdb()
        await self._stops.settled()

    async def end(self) -> None:
        """Everybody goes on to the end; then all replicas read once more."""
        self._stops.let_all_on()
        await asyncio.gather(*self._tasks)
        for replica in self._replicas:
            await self._reads(replica.batch_status("b", KnownTags(), self))
            await self._reads(replica.user_batches("u", "20:0:", KnownTags(), self))

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    async def _reads(self, reading: Coroutine[Any, Any, Answer | Unchanged | None]) -> None:
        floor = self._invalidated
        answer = await reading
        versions = {answer_of(b"%d" % version).etag: version for version in range(-10, self._version + 1)}
        assert answer is not None
        assert versions[answer.etag] >= floor, f"{versions[answer.etag]} after {floor} was invalidated"
        assert not isinstance(answer, Answer) or int(answer.body) == versions[answer.etag]

    async def _invalidates(self, replica: RedisCacheManager) -> None:
        committed = self._version
        assert await replica.invalidate(["b"], ["u"])
        self._invalidated = max(self._invalidated, committed)


async def run(url: str, steps: list[tuple[Step, int]]) -> None:
    stops, raw = Stops(), Redis.from_url(url, protocol=2)
    clients = [Redis.from_url(url, protocol=2) for _ in range(2)]
    caches = []
    for client in clients:
        metrics = Metrics()
        redis = StoppingRedis(client, metrics, stops)
        caches.append(RedisCacheManager(redis, metrics, ttl_seconds=300, representation="00000001"))
    world = World(stops, raw, caches)
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


@settings(examples(1), suppress_health_check=[*examples(1).suppress_health_check, HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
def test_in_any_order_of_steps_no_read_is_older_than_what_was_invalidated_before_it(
    redis_url: str, steps: list[tuple[Step, int]]
) -> None:
    asyncio.run(run(redis_url, steps))
