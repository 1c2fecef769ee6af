"""Where in Redis each answer is kept, and what makes Redis forget.

Each batch and each user has a random token, under which all answers about it are stored, and without which none of
them is a hit. Forgetting removes it, and it never comes back. That takes no memory, so it works in a full Redis too.
"""

from collections.abc import Collection
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Literal

import structlog

from result_aggregator_service.cache.guarded_redis import GuardedRedis, RedisUnavailableError
from result_aggregator_service.cache.kept_connections import Command

CacheType = Literal["batch_status", "user_batches"]

_BATCHES_AT_ONCE = 500
_USERS_AT_ONCE = 100

# For each user: the token, and every page that is tracked.
_FORGET_USERS = """
for user = 1, #KEYS, 2 do
    local pages = redis.call('SMEMBERS', KEYS[user + 1])
    for first = 1, #pages, 1000 do
        redis.call('UNLINK', unpack(pages, first, math.min(first + 999, #pages)))
    end
    redis.call('UNLINK', KEYS[user], KEYS[user + 1])
end
return #KEYS / 2
"""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer is kept, and its token; `pages` tracks a user's."""

    cache_type: CacheType
    key: str
    token: str
    pages: str | None = None

    @classmethod
    def of_batch(cls, batch_id: str) -> "Place":
        """That of the answer about a batch."""
        return cls("batch_status", _batch_key(batch_id), _batch_token(batch_id))

    @classmethod
    def of_page(cls, user_id: str, question: str) -> "Place":
        """That of the answer to a question about a user's batches."""
        key = f"ras:user:{user_id}:batches:{question}"
        return cls("user_batches", key, _user_token(user_id), _user_pages(user_id))


async def forget(redis: GuardedRedis, batch_ids: Collection[str], user_ids: Collection[str]) -> bool:
    """Forget all answers about these batches and users. False: not all are forgotten, try again.

    Tried even while Redis is left alone otherwise: this replica may have lost it, and others not.
    """
    batches = list(chain.from_iterable((_batch_token(b), _batch_key(b)) for b in sorted(batch_ids)))
    users = list(chain.from_iterable((_user_token(u), _user_pages(u)) for u in sorted(user_ids)))
    of_batches: list[Command] = [("UNLINK", *keys) for keys in _chunks(batches, 2 * _BATCHES_AT_ONCE)]
    of_users: list[Command] = [("EVAL", _FORGET_USERS, len(keys), *keys) for keys in _chunks(users, 2 * _USERS_AT_ONCE)]
    try:
        for commands in zip_longest(of_batches, of_users):
            together = [command for command in commands if command is not None]
            for answer in await redis.exchange("invalidate", together, even_if_in_trouble=True):
                if isinstance(answer, RedisUnavailableError):
                    raise answer
    except RedisUnavailableError as error:
        log.info("invalidation_not_taken", batches=len(batch_ids), users=len(user_ids), reason=str(error))
        return False
    return True


# Ids may hold any character, colons too; no key below can be read as one of another kind or of another id. Where two
# pages of two users were to meet in one, the tokens would still tell them apart.


def _batch_key(batch_id: str) -> str:
    return f"ras:batch:{batch_id}"


def _batch_token(batch_id: str) -> str:
    return f"ras:batch-token:{batch_id}"


def _user_token(user_id: str) -> str:
    return f"ras:user-token:{user_id}"


def _user_pages(user_id: str) -> str:
    return f"ras:user-pages:{user_id}"


def _chunks(keys: list[str], size: int) -> list[list[str]]:
    return [keys[start : start + size] for start in range(0, len(keys), size)]
