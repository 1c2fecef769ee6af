"""Who is let in: under /internal nobody without credentials, whatever the path; elsewhere everybody."""

import httpx
import pytest
from quart import Quart
from werkzeug.routing import Rule

from tests.integration.api.conftest import CREDENTIALS, KEY, OTHER_KEY

PATH = "/internal/v1/batches/unknown/status"
OPEN_PATHS = {"/livez", "/readyz", "/healthz", "/metrics"}


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
        for method in rule.methods or ():
            response = await stranger.request(method, example(rule))
            if rule.rule in OPEN_PATHS:
                assert response.status_code == 200, rule
            else:
                assert rule.rule.startswith("/internal/"), f"{rule} is neither open nor under /internal"
                assert response.status_code == 401, rule


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
