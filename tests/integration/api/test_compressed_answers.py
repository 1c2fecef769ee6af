"""Large answers go as gzip to whoever takes it, and are kept so; what is true of answers is true of both forms."""

import gzip
from collections.abc import AsyncIterator

import httpx
import orjson
import pytest
from redis.asyncio import Redis

from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.projection_repository import Touched
from tests.integration.api.conftest import MakeSettings
from tests.integration.api.read_model import ReadModel
from tests.unit.domain import messages as say

PATHS = ["/internal/v1/batches/b/status", "/internal/v1/batches/user/teacher?cursor="]
EITHER = pytest.mark.parametrize("path", PATHS)
GZIP, PLAIN = {"Accept-Encoding": "br, gzip"}, {"Accept-Encoding": "br, gzip;q=0"}


@pytest.fixture
def settings(make_settings: MakeSettings, database_url: str, redis_url: str) -> Settings:
    urls = {"database_url": database_url, "redis_url": redis_url}
    return make_settings(**urls, api_gzip_min_bytes=3000, redis_timeout_seconds=5)


@pytest.fixture(autouse=True)
async def a_large_batch(read_model: ReadModel) -> None:
    await read_model.tell(say.registered(["e1", "e2", "e3"], "b"), say.registered([], "small", user="other"))


@pytest.fixture
async def raw(redis_url: str) -> AsyncIterator[Redis]:
    async with Redis.from_url(redis_url, protocol=2) as client:
        yield client


def corrections(response: httpx.Response) -> int | None:
    document = response.json()
    count: int | None = document.get("batches", [document])[0]["essays"][0]["spellcheck_correction_count"]
    return count


async def wire(client: httpx.AsyncClient, path: str, headers: dict[str, str]) -> tuple[httpx.Response, bytes]:
    """An answer, and its bytes as they were sent."""
    async with client.stream("GET", path, headers=headers) as response:
        sent = b"".join([part async for part in response.aiter_raw()])
    return response, sent


@EITHER
async def test_who_takes_gzip_gets_it_made_or_kept_and_who_does_not_gets_the_same_answer_plain(
    path: str, client: httpx.AsyncClient, read_model: ReadModel, raw: Redis
) -> None:
    for first, second in ((GZIP, PLAIN), (PLAIN, GZIP)):
        bodies = set()
        for taken in (first, second, first, second):  # a miss, and hits
            response, sent = await wire(client, path, taken)
            assert int(response.headers["Content-Length"]) == len(sent)
            assert response.headers["Content-Type"] == "application/json"
            assert response.headers["Vary"].endswith(", Accept-Encoding")
            assert (response.headers.get("Content-Encoding") == "gzip") == (taken is GZIP)
            bodies.add(gzip.decompress(sent) if taken is GZIP else sent)
        (body,) = bodies
        assert orjson.loads(body)
        (key,) = [
            key async for key in raw.scan_iter("ras:*") if await raw.type(key) == b"string" and b"token" not in key
        ]
        kept = await raw.get(key)
        assert isinstance(kept, bytes)
        assert gzip.compress(body, 1, mtime=0) in kept
        await read_model.invalidate(Touched({"b"}, {"teacher"}))


@EITHER
async def test_each_form_has_a_tag_of_its_own_and_whoever_has_either_is_told_so_by_the_one_it_has(
    path: str, client: httpx.AsyncClient, read_model: ReadModel
) -> None:
    compressed, plain = [(await client.get(path, headers=taken)).headers["ETag"] for taken in (GZIP, PLAIN)]
    assert compressed == f'{plain[:-1]}-gzip"'
    for is_kept in (True, False):
        for tag in (compressed, plain):
            for taken in (GZIP, PLAIN):
                for known in (tag, f"W/{tag}", f'"other", {tag}'):
                    if not is_kept:
                        await read_model.invalidate(Touched({"b"}, {"teacher"}))
                    response = await client.get(path, headers={"If-None-Match": known, **taken})
                    assert (response.status_code, response.content, response.headers["ETag"]) == (304, b"", tag), known
    await read_model.tell(say.spellcheck("e1", corrections=7))
    for tag in (compressed, plain):
        for taken in (GZIP, PLAIN):
            response = await client.get(path, headers={"If-None-Match": tag, **taken})
            assert (response.status_code, corrections(response)) == (200, 7)


@EITHER
async def test_every_change_is_seen_at_once_in_both_forms(
    path: str, client: httpx.AsyncClient, read_model: ReadModel
) -> None:
    for count in range(1, 4):
        await read_model.tell(say.spellcheck("e1", corrections=count, at=50 + count))
        for taken in (GZIP, PLAIN, GZIP):
            assert corrections(await client.get(path, headers=taken)) == count


@EITHER
async def test_head_tells_what_get_would_in_both_forms(path: str, client: httpx.AsyncClient) -> None:
    for taken in (GZIP, PLAIN):
        whole, head = await client.get(path, headers=taken), await client.head(path, headers=taken)
        assert (head.status_code, head.content) == (200, b"")
        for header in ("ETag", "Content-Length", "Content-Type", "Content-Encoding", "Vary"):
            assert head.headers.get(header) == whole.headers.get(header)


async def test_a_small_answer_is_never_compressed(client: httpx.AsyncClient) -> None:
    for _ in range(2):
        response = await client.get("/internal/v1/batches/small/status", headers=GZIP)
        assert "Content-Encoding" not in response.headers
        assert len(response.headers["ETag"]) == len('""') + 32
