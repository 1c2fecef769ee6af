"""The API's description as it is served: the document and the page, both from this server alone, to anybody."""

import re
from html.parser import HTMLParser
from typing import Any

import httpx
import jsonschema_rs
import pytest
from quart import Quart

from result_aggregator_service.api.health import DependencyHealth, LoopHealth
from result_aggregator_service.settings import Settings
from tests.integration.api.conftest import CREDENTIALS, MakeSettings, StatedHealth
from tests.servers import CHECKOUT


class Links(HTMLParser):
    """What a page loads or leads to."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.scripts_inside = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.urls += [value or "" for name, value in attrs if name in ("src", "href", "action", "data", "srcset")]

    def handle_data(self, data: str) -> None:
        if self.lasttag == "script":
            self.scripts_inside += data.strip()


def check_described(document: Any, response: httpx.Response, path: str, status: int) -> None:
    """Status, headers and body are as the document says of the path's operation."""
    assert response.status_code == status
    described = document["paths"][path]["get"]["responses"][str(status)]
    assert all(name in response.headers for name, header in described["headers"].items() if header.get("required"))
    schema = described["content"][response.headers["Content-Type"]]["schema"]
    jsonschema_rs.validate({**schema, "components": document["components"]}, response.json())


@pytest.fixture
def settings(make_settings: MakeSettings) -> Settings:
    """None of this needs a server."""
    return make_settings(database_url="postgresql://nobody@nowhere/nothing")


@pytest.fixture
def stranger(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A caller without credentials."""
    for name in CREDENTIALS:
        del client.headers[name]
    return client


async def test_the_document_is_the_committed_one(stranger: httpx.AsyncClient) -> None:
    response = await stranger.get("/openapi.json")
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "no-cache"
    assert response.content == (CHECKOUT / "docs" / "openapi.json").read_bytes()


async def test_everything_is_sent_once_and_then_confirmed_by_its_tag(stranger: httpx.AsyncClient) -> None:
    page = (await stranger.get("/docs")).text
    for path in ("/openapi.json", "/docs", *(f"/{url}" for url in Links(page).urls if url.startswith("docs/"))):
        first = await stranger.get(path)
        tag = first.headers["ETag"]
        again = await stranger.get(path, headers={"If-None-Match": f'"other", {tag}'})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", tag), path
        assert "Content-Type" not in again.headers
        assert (await stranger.get(path, headers={"If-None-Match": '"other"'})).content == first.content


async def test_the_page_names_nothing_elsewhere_and_all_that_it_names_is_there(stranger: httpx.AsyncClient) -> None:
    response = await stranger.get("/docs")
    assert response.headers["Content-Type"] == "text/html; charset=utf-8"
    links = Links(response.text)
    assert not re.search("https?:|//", response.text.replace("<!doctype html>", ""))
    assert links.urls == ["data:,", "docs/assets/swagger-ui.css", "openapi.json", *links.urls[3:]]
    assert not links.scripts_inside
    types = {"css": "text/css", "js": "text/javascript", "json": "application/json"}
    for url in links.urls[1:]:
        linked = await stranger.get(str(response.url.join(url)))
        assert linked.status_code == 200, url
        assert linked.headers["Content-Type"].partition(";")[0] == types[url.rpartition(".")[2]]
        assert linked.headers["X-Content-Type-Options"] == "nosniff"
        assert len(linked.content) > 100


async def test_assets_may_be_kept(stranger: httpx.AsyncClient) -> None:
    response = await stranger.get("/docs/assets/swagger-ui.js")
    assert response.headers["Cache-Control"] == "public, max-age=86400"


async def test_the_browser_may_load_nothing_from_elsewhere(stranger: httpx.AsyncClient) -> None:
    policy = (await stranger.get("/docs")).headers["Content-Security-Policy"]
    directives = {name: set(sources) for name, *sources in (part.split() for part in policy.split("; "))}
    assert directives["default-src"] == {"'none'"}
    assert directives["script-src"] == directives["connect-src"] == {"'self'"}
    assert set().union(*directives.values()) == {"'none'", "'self'", "data:"}
    style = (await stranger.get("/docs/assets/swagger-ui.css")).text
    assert set(re.findall(r"url\(\s*[\"']?(.{5})", style)) == {"data:"}
    assert "@import" not in style
    start = (await stranger.get("/docs/assets/start.js")).text
    assert "validatorUrl: null" in start  # its default is a public server, which is told the document's address
    assert not re.search("https?://", start)


async def test_failing_probes_answer_as_described(client: httpx.AsyncClient, health: StatedHealth) -> None:
    document = (await client.get("/openapi.json")).json()
    for name in health.dependency_states:
        health.dependency_states[name] = DependencyHealth(False, "away")
    health.loop_states["relay"] = LoopHealth(False, True, "died")
    for path in ("/livez", "/readyz", "/healthz"):
        check_described(document, await client.get(path), path, 503)


async def test_errors_answer_as_described(app: Quart, client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()

    async def broken() -> str:
        raise LookupError

    async def timed_out() -> str:
        raise TimeoutError

    for view, status in ((broken, 500), (timed_out, 503)):
        app.view_functions["health.get_liveness"] = view
        check_described(document, await client.get("/livez"), "/livez", status)
    too_large = await client.request("GET", "/docs", content=b"x" * 20_000)
    check_described(document, too_large, "/docs", 413)
