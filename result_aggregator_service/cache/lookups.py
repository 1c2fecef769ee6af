"""Look-ups in Redis, gathered: those of one turn of the event loop are sent together, each key once.

Whoever is joined came before the question was sent. So the answer is not older than anything that had happened when
the last of them came, and a thousand readers of one batch ask Redis once.
"""

import asyncio
import secrets
from collections.abc import Mapping
from itertools import islice
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


_Answers = dict[_Question, asyncio.Future[Looked]]


class Lookups:
    """The look-ups of one process."""

    def __init__(self, redis: GuardedRedis, *, token_ttl_seconds: int) -> None:
        self._redis = redis
        self._token_ttl_seconds = token_ttl_seconds
        self._unsent: _Answers = {}
        self._sending: set[asyncio.Task[None]] = set()

    async def look(self, token_key: str, key: str) -> Looked:
        """What Redis holds, at some moment after this call began.

        Raises:
            RedisUnavailableError: there is no telling.
        """
        question = _Question(token_key, key)
        answer = self._unsent.get(question)
        if answer is None:
            loop = asyncio.get_running_loop()
            if not self._unsent:
                loop.call_soon(self._send)
            answer = self._unsent[question] = loop.create_future()
        return await asyncio.shield(answer)

    def _send(self) -> None:
        unsent, self._unsent = iter(self._unsent.items()), {}
        while answers := dict(islice(unsent, _AT_ONCE)):
            task = asyncio.create_task(self._ask(answers))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)

    async def _ask(self, answers: Mapping[_Question, asyncio.Future[Looked]]) -> None:
        async def look_all(redis: Redis) -> list[list[bytes | None] | Exception]:
            async with redis.pipeline(transaction=False) as pipeline:
                for question in answers:
                    made = secrets.token_hex(TOKEN_LENGTH // 2)
                    # By its text rather than its digest: a Redis that was restarted knows no digests.
                    pipeline.eval(_LOOK, 2, question.token_key, question.key, made, self._token_ttl_seconds)
                results: list[list[bytes | None] | Exception] = await pipeline.execute(raise_on_error=False)
            return results

        try:
            results = await self._redis.call("read", look_all)
        except RedisUnavailableError as error:
            for answer in answers.values():
                answer.set_exception(error)
            return
        for answer, result in zip(answers.values(), results, strict=True):
            if isinstance(result, Exception):
                # It is full, say, and a token would have had to be made.
                answer.set_exception(self._redis.refused("read", result))
            else:
                token, value = result
                assert token is not None
                answer.set_result(Looked(token, value))
