"""Look-ups in Redis, gathered: a thousand readers of one batch ask Redis once."""

import secrets
from collections.abc import Sequence
from typing import NamedTuple

from result_aggregator_service.cache.bodies import Bodies, Body
from result_aggregator_service.cache.gathering import Gathering
from result_aggregator_service.cache.guarded_redis import GuardedRedis, RedisUnavailableError
from result_aggregator_service.cache.kept_connections import Command

TOKEN_LENGTH = 32
ETAG_LENGTH = 32
#: Among the tags that a client knows: it has an answer, whatever its tag.
ANY_TAG = "*"

# Answers of a batch of thirty essays take some 60 kB: so many of them come well within the time limit.
_AT_ONCE = 32

# KEYS: the token's, the answer's. ARGV: a token to be made (if it is missing: evicted, expired, removed by an
# invalidation) and its life in seconds, the representation, the tags that the client knows. Gives the token; if an
# answer is stored under it and in this representation, also what is left of its life (ms) and its tag; and the body, if
# neither the client nor this process knows the tag: else it does not leave Redis.
_LOOK = f"""
local token = redis.call('GET', KEYS[1])
if not token then
    redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
    return {{ARGV[1]}}
end
local start = token .. ARGV[3]
local header = redis.call('GETRANGE', KEYS[2], 0, #start + {ETAG_LENGTH - 1})
if #header < #start + {ETAG_LENGTH} or string.sub(header, 1, #start) ~= start then return {{token}} end
local etag, left = string.sub(header, #start + 1), redis.call('PTTL', KEYS[2])
for known = 4, #ARGV do
    if ARGV[known] == etag or ARGV[known] == '{ANY_TAG}' then return {{token, left, etag}} end
end
return {{token, left, etag, redis.call('GETRANGE', KEYS[2], #header, -1)}}
"""


class Stored(NamedTuple):
    """An answer in Redis; `body` is None if the client knows its tag."""

    milliseconds_left: int
    etag: str
    body: bytes | None


class Looked(NamedTuple):
    """A token, and the answer that is stored under it, if there is one."""

    token: bytes
    stored: Stored | None


class _Question(NamedTuple):
    token_key: str
    key: str
    known: tuple[str, ...]


class Lookups:
    """The look-ups of one process."""

    def __init__(self, redis: GuardedRedis, *, representation: str, token_ttl_seconds: int) -> None:
        self._redis = redis
        self._representation = representation
        self._token_ttl_seconds = token_ttl_seconds
        self._bodies = Bodies()
        self._questions = Gathering(self._ask, at_once=_AT_ONCE)

    async def look(self, token_key: str, key: str, known: tuple[str, ...] = ()) -> Looked:
        """What Redis holds, at some moment after this call began. `known`: the tags of answers that need no body.

        Raises:
            RedisUnavailableError: there is no telling.
        """
        return await self._questions.answer(_Question(token_key, key, known))

    async def _ask(self, questions: Sequence[_Question]) -> dict[_Question, Looked | Exception]:
        kept = [self._bodies.get(question.key) for question in questions]
        answers = await self._redis.exchange("read", self._commands(questions, kept))
        # An error may be of one question alone: a full Redis makes no token, and still tells of those that are there.
        return {
            question: answer if isinstance(answer, RedisUnavailableError) else self._looked(question, body, *answer)
            for question, body, answer in zip(questions, kept, answers, strict=True)
        }

    def _commands(self, questions: Sequence[_Question], kept: Sequence[Body | None]) -> list[Command]:
        # By its text rather than its digest: a Redis that was restarted knows no digests.
        return [
            (
                "EVAL",
                _LOOK,
                2,
                question.token_key,
                question.key,
                secrets.token_hex(TOKEN_LENGTH // 2),
                self._token_ttl_seconds,
                self._representation,
                *question.known,
                *(() if body is None else (body.etag,)),
            )
            for question, body in zip(questions, kept, strict=True)
        ]

    def _looked(
        self,
        question: _Question,
        kept: Body | None,
        token: bytes,
        left: int | None = None,
        etag: bytes = b"",
        content: bytes | None = None,
    ) -> Looked:
        """What the script gave, whose end is missing if there is nothing to tell, or if the body is known already."""
        if left is None:
            return Looked(token, None)
        tag = etag.decode()
        if content is not None:
            self._bodies.keep(question.key, Body(tag, content))
        elif kept is not None and kept.etag == tag and tag not in question.known and ANY_TAG not in question.known:
            content = kept.content
        return Looked(token, Stored(left, tag, content))
