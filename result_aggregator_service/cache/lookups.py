"""Look-ups in Redis, gathered: those of one turn of the event loop are sent together, each key once.

Whoever is joined came before the question was sent. So the answer is not older than anything that had happened when
the last of them came, and a thousand readers of one batch ask Redis once.
"""

import asyncio
import secrets
from typing import NamedTuple

from redis.asyncio import Redis

from result_aggregator_service.cache.guarded_redis import GuardedRedis, RedisUnavailableError

TOKEN_LENGTH = 32

# Answers of a batch of thirty essays take some 60 kB: so many of them come well within the time limit.
_AT_ONCE = 32

# The token (made if it is missing: evicted, expired, removed by an invalidation) and what is stored under the key.
_LOOK = """
local token = redis.call('GET', KEYS[1])
if token then return {token, redis.call('GET', KEYS[2])} end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return {ARGV[1], false}
"""


class Looked(NamedTuple):
    """A token, and what is stored under a key; whether under this token is for the reader to see."""

    token: bytes
    value: bytes | None


class _Question(NamedTuple):
    token_key: str
    key: str


class _Batch:
    """Questions that are sent together, and their answers once there are any."""

    def __init__(self) -> None:
        self.questions: list[_Question] = []
        self.answers: asyncio.Task[dict[_Question, Looked | RedisUnavailableError]]


class Lookups:
    """The look-ups of one process."""

    def __init__(self, redis: GuardedRedis, *, token_ttl_seconds: int) -> None:
        self._redis = redis
        self._token_ttl_seconds = token_ttl_seconds
        self._unsent: _Batch | None = None

    async def look(self, token_key: str, key: str) -> Looked:
        """What Redis holds, at some moment after this call began.

        Raises:
            RedisUnavailableError: there is no telling.
        """
        question = _Question(token_key, key)
        batch = self._unsent
        if batch is None or (len(batch.questions) >= _AT_ONCE and question not in batch.questions):
            batch = self._unsent = _Batch()
            # It begins in the next turn of the loop; until then others may join.
            batch.answers = asyncio.create_task(self._ask(batch))
        if question not in batch.questions:
            batch.questions.append(question)
        answer = (await asyncio.shield(batch.answers))[question]
        if isinstance(answer, RedisUnavailableError):
            raise answer
        return answer

    async def _ask(self, batch: _Batch) -> dict[_Question, Looked | RedisUnavailableError]:
        if self._unsent is batch:
            self._unsent = None

        async def look_all(redis: Redis) -> list[list[bytes] | Exception]:
            async with redis.pipeline(transaction=False) as pipeline:
                for question in batch.questions:
                    made = secrets.token_hex(TOKEN_LENGTH // 2)
                    # By its text rather than its digest: a Redis that was restarted knows no digests.
                    pipeline.eval(_LOOK, 2, question.token_key, question.key, made, self._token_ttl_seconds)
                results: list[list[bytes] | Exception] = await pipeline.execute(raise_on_error=False)
            return results

        results = await self._redis.call("read", look_all)
        # An error may be of one question alone: a full Redis makes no token, and still tells of those that are there.
        return {
            question: self._redis.refused("read", result) if isinstance(result, Exception) else Looked(*result)
            for question, result in zip(batch.questions, results, strict=True)
        }
