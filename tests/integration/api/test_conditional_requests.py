"""Entity tags, 304, HEAD, and what may be kept by whom."""

import asyncpg
import httpx
import pytest
from sqlalchemy.engine import make_url

from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.settings import Settings
from result_aggregator_service.storage.projection_repository import Touched
from tests.integration.api.read_model import ReadModel
from tests.unit.domain import messages as say

PATHS = [
    "/internal/v1/batches/b/status",
    "/internal/v1/batches/user/teacher",
    "/internal/v1/batches/user/teacher?view=summary",
    "/internal/v1/batches/user/teacher?cursor=",
]
LABELS = {"status": "success"}
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
async def test_a_client_that_has_the_answer_gets_304_without_a_body(path: str, client: httpx.AsyncClient) -> None:
    tag = (await client.get(path)).headers["ETag"]
    for known in (tag, f"W/{tag}", f'"other", {tag}', f'"other" , W/{tag} ,"third"', "*"):
        response = await client.get(path, headers={"If-None-Match": known})
        assert (response.status_code, response.content) == (304, b""), known
        assert response.headers["ETag"] == tag
        assert response.headers["Cache-Control"] == "private, no-cache"
        assert "Content-Type" not in response.headers


@EITHER
async def test_304_comes_from_the_database_without_making_the_answer(
    path: str, client: httpx.AsyncClient, read_model: ReadModel, metrics: Metrics
) -> None:
    def made() -> float:
        names = ("read_batch", "read_user_batches")
        found = [metrics.registry.get_sample_value("ras_db_operations_total", LABELS | {"operation": n}) for n in names]
        return sum(value or 0 for value in found)

    tag = (await client.get(path)).headers["ETag"]
    await read_model.invalidate(Touched({"b"}, {"teacher"}))
    before = made()
    assert (await client.get(path, headers={"If-None-Match": tag})).status_code == 304
    assert made() == before
    await read_model.tell(say.spellcheck("e1"))
    assert (await client.get(path, headers={"If-None-Match": tag})).status_code == 200
    assert made() == before + 1


async def test_every_question_has_tags_of_its_own(client: httpx.AsyncClient) -> None:
    questions = [*PATHS, f"{PATHS[1]}?limit=7", f"{PATHS[1]}?offset=1", f"{PATHS[1]}?status=processing"]
    questions += ["/internal/v1/batches/user/other"]
    tags = [(await client.get(path)).headers["ETag"] for path in questions]
    assert len(set(tags)) == len(questions)


@EITHER
async def test_a_client_that_has_something_else_gets_the_answer(path: str, client: httpx.AsyncClient) -> None:
    tag = (await client.get(path)).headers["ETag"]
    for known in ('"other"', tag[:-2] + '"', "", ",,,", '"', "W/", "\\", 'W/"', '"a"b"'):
        response = await client.get(path, headers={"If-None-Match": known})
        assert (response.status_code, bool(response.content)) == (200, True), known


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
    assert response.headers["Vary"] == "X-Internal-API-Key, X-Service-ID, Accept-Encoding"


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


async def test_a_page_whose_batches_are_from_before_there_were_versions_has_a_tag_of_its_own_too(
    client: httpx.AsyncClient, read_model: ReadModel, settings: Settings
) -> None:
    await read_model.tell(*(say.registered([f"old{at}-e"], f"old{at}", at=at) for at in range(3)))
    page = "/internal/v1/batches/user/teacher?cursor=&limit=1&status=pending_content"
    tags = []
    for leaving in ("b", "old2", "old1"):
        await read_model.tell(say.spellcheck("e1" if leaving == "b" else f"{leaving}-e", leaving))
        await _forget_versions(settings)
        tags.append((await client.get(page)).headers["ETag"])
    assert len(set(tags)) == 3


async def _forget_versions(settings: Settings) -> None:
    url = make_url(settings.postgres_url).set(drivername="postgresql").render_as_string(hide_password=False)
    connection = await asyncpg.connect(url)
    await connection.execute("UPDATE batch_results SET version = '00000000-0000-0000-0000-000000000000'")
    await connection.close()
