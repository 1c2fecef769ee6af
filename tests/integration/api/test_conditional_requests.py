"""Entity tags, 304, HEAD, and what may be kept by whom."""

import httpx
import pytest

from result_aggregator_service.observability.metrics import Metrics
from tests.integration.api.read_model import ReadModel
from tests.unit.domain import messages as say

PATHS = ["/internal/v1/batches/b/status", "/internal/v1/batches/user/teacher"]
EITHER = pytest.mark.parametrize("path", PATHS)


@pytest.fixture(autouse=True)
async def a_batch(read_model: ReadModel) -> None:
    await read_model.tell(say.registered(["e1"], "b"))


@EITHER
async def test_the_tag_is_the_same_from_the_database_and_from_the_cache_and_changes_with_the_answer(
    path: str, client: httpx.AsyncClient, read_model: ReadModel
) -> None:
    made, cached = await client.get(path), await client.get(path)
    assert made.headers["ETag"] == cached.headers["ETag"]
    assert made.content == cached.content
    assert made.headers["ETag"].startswith('"')
    await read_model.tell(say.spellcheck("e1"))
    assert (await client.get(path)).headers["ETag"] != made.headers["ETag"]


@EITHER
@pytest.mark.parametrize("form", ["{tag}", "W/{tag}", '"other", {tag}', '"other" , W/{tag} ,"third"', "*"])
async def test_a_client_that_has_the_answer_gets_304_without_a_body(
    form: str, path: str, client: httpx.AsyncClient
) -> None:
    for _ in range(2):  # made from the database, then from the cache
        tag = (await client.get(path)).headers["ETag"]
        response = await client.get(path, headers={"If-None-Match": form.format(tag=tag)})
        assert (response.status_code, response.content) == (304, b"")
        assert response.headers["ETag"] == tag
        assert response.headers["Cache-Control"] == "private, no-cache"
        assert "Content-Type" not in response.headers


@EITHER
@pytest.mark.parametrize("form", ['"other"', "{bare}", "", ",,,", '"', "W/", "\\", 'W/"', '"a"b"'])
async def test_a_client_that_has_something_else_gets_the_answer(
    form: str, path: str, client: httpx.AsyncClient
) -> None:
    tag = (await client.get(path)).headers["ETag"]
    response = await client.get(path, headers={"If-None-Match": form.format(bare=tag.strip('"')[:-1])})
    assert response.status_code == 200
    assert response.content


@EITHER
async def test_a_hit_that_is_304_asks_the_database_nothing(
    path: str, client: httpx.AsyncClient, metrics: Metrics
) -> None:
    def queries() -> float:
        return sum(
            sample.value
            for metric in metrics.db_operations.collect()
            for sample in metric.samples
            if sample.name.endswith("_total")
        )

    tag = (await client.get(path)).headers["ETag"]
    before = queries()
    assert (await client.get(path, headers={"If-None-Match": tag})).status_code == 304
    assert queries() == before


@EITHER
async def test_answers_are_for_the_one_who_asked_and_to_be_asked_for_again(
    path: str, client: httpx.AsyncClient
) -> None:
    response = await client.get(path)
    assert response.headers["Cache-Control"] == "private, no-cache"
    assert response.headers["Vary"] == "X-Internal-API-Key, X-Service-ID"


async def test_an_unknown_batch_is_404_whatever_the_client_has(client: httpx.AsyncClient) -> None:
    response = await client.get("/internal/v1/batches/unknown/status", headers={"If-None-Match": "*"})
    assert response.status_code == 404
    assert response.headers["Cache-Control"] == "no-store"


@EITHER
async def test_head_tells_what_get_would(path: str, client: httpx.AsyncClient) -> None:
    whole, head = await client.get(path), await client.head(path)
    assert head.status_code == 200
    assert head.content == b""
    for header in ("ETag", "Content-Length", "Content-Type", "Cache-Control"):
        assert head.headers[header] == whole.headers[header]
    assert (await client.head(path, headers={"If-None-Match": whole.headers["ETag"]})).status_code == 304
