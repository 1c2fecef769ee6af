"""Who is let in: under /internal nobody without credentials, whatever the path; elsewhere everybody.

And what is kept of it: which service asked and which key it used, in bounded metrics, and never the key.
"""

import asyncio
import io
import logging
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

import httpx
import orjson
import pytest
import structlog
from quart import Quart
from werkzeug.routing import Rule

from result_aggregator_service.api.auth import key_place
from result_aggregator_service.observability.logging import configure_logging
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.settings import Settings, SettingsError
from tests.integration.api.conftest import CREDENTIALS, KEY, OTHER_KEY, MakeSettings
from tests.integration.api.read_model import ReadModel
from tests.unit.domain import messages as say

PATH = "/internal/v1/batches/unknown/status"
#: What is open tells nothing of batches: probes, metrics, and how to ask.
OPEN_PATHS = {"/livez", "/readyz", "/healthz", "/metrics", "/openapi.json", "/docs"}
PROBLEM_FIELDS = {"type", "title", "status", "detail", "instance", "error", "details", "correlation_id"}
OPEN_FOLDER = "/docs/assets/"
METHODS = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE", "TRACE", "CONNECT", "PROPFIND")


@pytest.fixture
def stranger(client: httpx.AsyncClient) -> httpx.AsyncClient:
    """A caller without credentials."""
    for name in CREDENTIALS:
        del client.headers[name]
    return client


def example(rule: Rule) -> str:
    """A path that the rule matches."""
    return rule.rule.replace("<", "").replace(">", "")


async def test_every_route_is_open_by_decision_or_refuses_a_caller_without_credentials(
    app: Quart, stranger: httpx.AsyncClient
) -> None:
    rules = list(app.url_map.iter_rules())
    assert len(rules) >= 6
    for rule in rules:
        is_open = rule.rule in OPEN_PATHS or rule.rule.startswith(OPEN_FOLDER)
        assert is_open or rule.rule.startswith("/internal/"), f"{rule} is neither open nor under /internal"
        for method in METHODS:
            status = (await stranger.request(method, example(rule))).status_code
            if not is_open:
                assert status == 401, (method, rule)
            else:
                assert status == (200 if method in (rule.methods or ()) else 405), (method, rule)


DISGUISES = (
    "//internal/v1/batches/b/status",
    "/%69nternal/v1/batches/b/status",
    "/internal%2Fv1/batches/b/status",
    "/internal%2fv1%2fbatches%2fb%2fstatus",
    "/%2Finternal/v1/batches/b/status",
    "/./internal/v1/batches/b/status",
    "/docs/../internal/v1/batches/b/status",
    "/docs/assets/..%2f..%2finternal/v1/batches/b/status",
    "/docs/%2e%2e/internal/v1/batches/b/status",
    "/internal;/v1/batches/b/status",
    "/internal\\v1\\batches\\b\\status",
    "/INTERNAL/v1/batches/b/status",
    "/internal/v1/batches/b/status/",
    "/internal/v1/batches/b/status?X-Internal-API-Key=key-of-today&X-Service-ID=api-gateway-service",
    "/internal//v1/batches/b/status",
    "/metrics/internal/v1/batches/b/status",
    "/livez/../internal/v1/batches/user/teacher",
    "//internal/v1/batches/user/teacher",
    "/%69nternal/v1/batches/user/teacher",
)


async def ask_as_it_stands(app: Quart, method: str, target: str) -> tuple[int, bytes]:
    """Status and body of an answer to a target that no client has tidied."""
    path, _, query = target.encode().partition(b"?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path.decode()),
        "raw_path": path,
        "query_string": query,
        "root_path": "",
        "headers": [(b"host", b"ras")],
        "server": ("ras", 80),
        "client": ("127.0.0.1", 1),
    }
    sent: list[dict[str, Any]] = []
    coming: list[dict[str, Any]] = [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not coming:
            await asyncio.Event().wait()  # it stays connected
        return coming.pop()

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    await app(scope, receive, send)  # type: ignore[arg-type]
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent)


async def test_no_other_spelling_of_a_path_gets_past(app: Quart, read_model: ReadModel) -> None:
    await read_model.tell(say.registered())
    for target in DISGUISES:
        for method in ("GET", "HEAD", "OPTIONS", "POST"):
            status, body = await ask_as_it_stands(app, method, target)
            assert status in (401, 404), (method, target)
            assert method == "HEAD" or set(orjson.loads(body)) == PROBLEM_FIELDS, (method, target)


async def test_a_stranger_does_not_learn_what_is_there(stranger: httpx.AsyncClient) -> None:
    for path in ("/internal", "/internal/", "/internal/v1/nothing", "/internal/v1/batches//status", "/internal/%00"):
        for method in ("GET", "POST", "OPTIONS", "TRACE"):
            assert (await stranger.request(method, path)).status_code == 401, (method, path)


async def test_a_stranger_learns_nothing_of_input_either(stranger: httpx.AsyncClient) -> None:
    assert (await stranger.get("/internal/v1/batches/%ff/status")).status_code == 401
    assert (await stranger.get("/internal/v1/batches/user/u?limit=x")).status_code == 401


async def test_each_allowed_service_is_let_in_with_each_valid_key(stranger: httpx.AsyncClient) -> None:
    for key in (KEY, OTHER_KEY):
        for service in ("api-gateway-service", "admin-dashboard-service"):
            headers = [(b"X-Internal-API-Key", key.encode()), (b"X-Service-ID", service.encode())]
            response = await stranger.get(PATH, headers=headers)
            assert response.json()["error"] == "batch_not_found", (key, service)


WRONG = [
    {},
    {"X-Internal-API-Key": KEY},
    {"X-Service-ID": "api-gateway-service"},
    {**CREDENTIALS, "X-Internal-API-Key": ""},
    {**CREDENTIALS, "X-Internal-API-Key": "wrong"},
    {**CREDENTIALS, "X-Internal-API-Key": KEY[:-1]},
    {**CREDENTIALS, "X-Internal-API-Key": f"{KEY},{OTHER_KEY}"},
    {**CREDENTIALS, "X-Internal-API-Key": "\xff\xfe"},
    {**CREDENTIALS, "X-Service-ID": ""},
    {**CREDENTIALS, "X-Service-ID": "somebody-else"},
    {**CREDENTIALS, "X-Service-ID": "API-GATEWAY-SERVICE"},
    {**CREDENTIALS, "X-Service-ID": "\xff\xfe"},
    {**CREDENTIALS, "X-Service-ID": "api-gateway-service,admin-dashboard-service"},
]


async def test_every_other_caller_gets_the_same_401_whatever_was_wrong(stranger: httpx.AsyncClient) -> None:
    answers = set()
    for headers in WRONG:
        raw = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        response = await stranger.get(PATH, headers=[*raw, (b"X-Correlation-ID", b"same")])
        assert response.headers["WWW-Authenticate"] == 'InternalApiKey realm="internal"'
        answers.add((response.status_code, response.text))
    assert len(answers) == 1
    assert answers.pop()[0] == 401


# What is kept of it.


def by_service(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Requests by service and class of status."""
    return counted(metrics, "ras_api_requests_by_service_total", "service", "status_class")


def counted(metrics: Metrics, name: str, *labels: str) -> dict[tuple[str, ...], float]:
    return {
        tuple(sample.labels[label] for label in labels): sample.value
        for family in metrics.registry.collect()
        for sample in family.samples
        if sample.name == name
    }


async def test_requests_are_counted_by_the_services_that_may_ask_and_never_by_what_a_stranger_claims(
    client: httpx.AsyncClient, metrics: Metrics
) -> None:
    await client.get(PATH)
    await client.get("/internal/v1/batches/user/u")
    await client.get("/internal/v1/batches/user/u", headers={"X-Service-ID": "admin-dashboard-service"})
    await client.get("/livez")
    for number in range(3):
        await client.get(PATH, headers={"X-Service-ID": f"stranger-{number}"})
        await client.get(PATH, headers={"X-Internal-API-Key": f"wrong-{number}"})
    assert by_service(metrics) == {
        ("api-gateway-service", "4xx"): 1,
        ("api-gateway-service", "2xx"): 1,
        ("admin-dashboard-service", "2xx"): 1,
        ("unauthenticated", "4xx"): 6,
    }


async def test_the_uses_of_each_key_are_counted_by_its_place(client: httpx.AsyncClient, metrics: Metrics) -> None:
    for key in (KEY, OTHER_KEY, OTHER_KEY, "wrong"):
        await client.get(PATH, headers=[(b"X-Internal-API-Key", key.encode())])
    await client.get(PATH, headers={"X-Service-ID": "stranger"})  # with a valid key, but not let in
    assert counted(metrics, "ras_api_key_uses_total", "key") == {("1",): 1, ("2",): 2}


def test_a_key_is_compared_with_every_key_wherever_it_matches() -> None:
    keys = ("one", "two", "thrée")
    compared: list[bytes] = []

    def is_same(presented: bytes, key: bytes) -> bool:
        compared.append(key)
        return presented == key

    for presented, place in (("one", 1), ("two", 2), ("thrée", 3), ("none", None), ("", None)):
        compared.clear()
        # A header is read as Latin-1, whatever was sent.
        assert key_place(presented.encode().decode("latin-1"), keys, is_same=is_same) == place
        assert compared == [key.encode() for key in keys], presented


@pytest.fixture
def everything_logged(settings: Settings) -> Iterator[io.StringIO]:
    """All that anybody logs, at DEBUG, as the service would write it."""
    root = logging.getLogger()
    handlers, level, raising = root.handlers[:], root.level, logging.raiseExceptions
    others = {name: logging.getLogger(name).level for name in ("aiokafka", "uvicorn")}
    written = io.StringIO()
    try:
        configure_logging(settings.model_copy(update={"log_level": "DEBUG"}))
        [handler] = root.handlers
        assert isinstance(handler, logging.StreamHandler)
        handler.setStream(written)
        for name in others:
            logging.getLogger(name).setLevel(logging.DEBUG)
        yield written
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.raiseExceptions = raising
        for name, known in others.items():
            logging.getLogger(name).setLevel(known)
        structlog.reset_defaults()


async def test_no_key_is_ever_logged_neither_a_right_one_nor_a_wrong_one(
    everything_logged: io.StringIO, client: httpx.AsyncClient, settings: Settings, make_settings: MakeSettings
) -> None:
    for key in (KEY, OTHER_KEY, "wrong-key"):
        for path in (PATH, "/internal/v1/batches/user/u?limit=x", "/internal/nothing", "/livez", "/metrics"):
            for method in ("GET", "HEAD", "POST"):
                answer = await client.request(method, path, headers=[(b"X-Internal-API-Key", key.encode())])
                everything_logged.write(answer.text)
    with pytest.raises(Exception, match=r"(?i)port") as wrong:
        make_settings(database_url="postgresql://u@h/d", port="x")
    log = logging.getLogger("a test")
    log.error("did not start: %r", SettingsError(str(wrong.value)), exc_info=wrong.value)
    log.debug("settings: %r %s %s", settings, settings, settings.model_dump_json())
    said = everything_logged.getvalue()
    assert "duration_ms" in said
    assert "api-gateway-service" in said
    for key in (KEY, OTHER_KEY, "wrong-key"):
        assert key not in said
        assert key.encode("unicode_escape").decode() not in said
