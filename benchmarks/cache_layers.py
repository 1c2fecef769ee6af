"""Would a copy of the bodies in the process, in front of Redis, pay? `python -m benchmarks.cache_layers`.

A read must learn from Redis whether the answer is still the present one, at every read, or replicas would serve what
another has invalidated. So all that a copy can save is to carry the body. Three ways in one run, interleaved:

- body: one script gives token, tag and body, as the service asks;
- tag, local body: the same without the body, which comes from a dictionary under the tag;
- local only: the dictionary alone. It breaks the promise; it is the most that any scheme could save.

Times are of this process: a replica is bound by its one event loop, and Redis has a core of its own.
"""

import asyncio
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable

from redis.asyncio import Redis
from rich.console import Console

from embedded import EmbeddedValkey, server_folder

BODIES = (10_000, 40_000)
ROUNDS = 15
LOOKS = 400
AT_ONCE = 8

_LOOK = """
local token = redis.call('GET', KEYS[1])
local header = redis.call('GETRANGE', KEYS[2], 0, #token + 31)
if string.sub(header, 1, #token) ~= token then return {token} end
local etag, left = string.sub(header, #token + 1), redis.call('PTTL', KEYS[2])
if ARGV[1] == etag then return {token, left, etag} end
return {token, left, etag, redis.call('GETRANGE', KEYS[2], #header, -1)}
"""

Look = Callable[[], Awaitable[bytes]]


async def measured(look: Look) -> tuple[float, float]:
    """Microseconds for one look: of this process's own work, and on the clock."""

    async def reader() -> None:
        for _ in range(LOOKS // AT_ONCE):
            await look()

    work, clock = time.process_time(), time.perf_counter()
    await asyncio.gather(*(reader() for _ in range(AT_ONCE)))
    return (time.process_time() - work) / LOOKS * 1e6, (time.perf_counter() - clock) / LOOKS * 1e6


async def compare(url: str, body: bytes) -> dict[str, tuple[float, float]]:
    """The medians of all rounds for bodies of this size."""
    token, etag = secrets.token_hex(16).encode(), secrets.token_hex(16).encode()
    local = {etag: body}
    async with Redis.from_url(url, protocol=2, max_connections=AT_ONCE) as redis:
        await redis.set("token", token, ex=600)
        await redis.set("answer", token + etag + body, ex=300)

        async def with_body() -> bytes:
            answer: list[bytes] = await redis.eval(_LOOK, 2, "token", "answer", "")
            return answer[3]

        async def with_tag() -> bytes:
            answer: list[bytes] = await redis.eval(_LOOK, 2, "token", "answer", etag)
            return local[answer[2]]

        async def without_redis() -> bytes:
            return local[etag]

        ways: dict[str, Look] = {"body": with_body, "tag, local body": with_tag, "local only": without_redis}
        figures: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
        for number in range(ROUNDS + 1):
            for name, look in ways.items():
                assert await look() == body
                figure = await measured(look)
                if number:  # the first round warms up
                    figures[name].append(figure)
    return {
        name: (statistics.median(work for work, _ in rounds), statistics.median(clock for _, clock in rounds))
        for name, rounds in figures.items()
    }


def main() -> None:
    """Measure, and print a table."""
    console = Console(highlight=False)
    console.print(f"{'body':>8}  {'way':<16} {'own work':>10} {'on the clock':>13}   (us a look, {AT_ONCE} at once)")
    with server_folder() as folder, EmbeddedValkey(folder / "valkey") as server:
        for size in BODIES:
            body = secrets.token_hex(size // 2).encode()
            for name, (work, clock) in asyncio.run(compare(server.url, body)).items():
                console.print(f"{size:>8}  {name:<16} {work:>10.0f} {clock:>13.0f}")


if __name__ == "__main__":
    main()
