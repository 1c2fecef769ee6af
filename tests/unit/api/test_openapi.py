"""The OpenAPI document is valid, whole and true to itself; the committed copy is the one that the code makes."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import orjson
import pytest
import schemathesis
from click.testing import CliRunner
from dishka import make_async_container
from quart import Quart

from result_aggregator_service.__main__ import main
from result_aggregator_service.api.openapi.document import openapi_document
from result_aggregator_service.app import create_app

COMMITTED = Path(__file__).parents[3] / "docs" / "openapi.json"
MADE = CliRunner().invoke(main, ["openapi"], catch_exceptions=False).stdout_bytes
DOCUMENT: dict[str, Any] = orjson.loads(MADE)
OPERATIONS = [(path, operation) for path, item in DOCUMENT["paths"].items() for operation in item.values()]


def responses() -> Iterator[tuple[str, dict[str, Any]]]:
    for path, operation in OPERATIONS:
        for status, response in operation["responses"].items():
            yield f"{path} {status}", response


RESPONSES = dict(responses())


def whole(schema: dict[str, Any]) -> jsonschema_rs.Validator:
    """A validator of a part of the document, which may refer to others."""
    return jsonschema_rs.Draft202012Validator({**schema, "components": DOCUMENT["components"]}, validate_formats=True)


def test_the_committed_copy_is_the_one_that_the_code_makes() -> None:
    mend = "`python -m result_aggregator_service openapi > docs/openapi.json` (`pdm run openapi`) writes it anew"
    assert COMMITTED.read_bytes() == MADE, f"docs/openapi.json is not what the code makes; {mend}"


def test_it_is_a_valid_openapi_document() -> None:
    schemathesis.openapi.from_dict(DOCUMENT).validate()


def test_it_tells_the_methods_that_routes_take() -> None:
    assert {path: set(item) for path, item in DOCUMENT["paths"].items()} == {
        "/internal/v1/batches/{batch_id}/status": {"get"},
        "/internal/v1/batches/user/{user_id}": {"get"},
        "/livez": {"get"},
        "/readyz": {"get"},
        "/healthz": {"get"},
        "/metrics": {"get"},
        "/openapi.json": {"get"},
        "/docs": {"get"},
    }


async def view() -> str:
    return ""


def test_a_route_without_a_description_is_an_error_and_so_is_another_method() -> None:
    for endpoint, methods, fault in (("get_more", ["GET"], "get_more"), ("get_health", ["POST"], "other methods")):
        app = create_app(make_async_container())
        app.add_url_rule("/more", endpoint, view, methods=methods)
        with pytest.raises(LookupError, match=fault):
            openapi_document(app.url_map, app.view_functions)


def test_a_description_without_a_route_is_an_error() -> None:
    app = Quart(__name__, static_folder=None)
    with pytest.raises(LookupError, match="get_batch_status"):
        openapi_document(app.url_map, app.view_functions)


@pytest.mark.parametrize(("path", "operation"), OPERATIONS, ids=lambda value: value if isinstance(value, str) else "")
def test_each_operation_is_described_in_full(path: str, operation: dict[str, Any]) -> None:
    assert operation["summary"].endswith(".")
    assert operation["description"]
    assert {tag["name"] for tag in DOCUMENT["tags"]} >= set(operation["tags"])
    assert operation["security"] == ([{"InternalApiKey": [], "ServiceId": []}] if path.startswith("/internal") else [])
    assert {"405", "413", "500", "503"} <= set(operation["responses"])
    in_path = {parameter["name"] for parameter in operation["parameters"] if parameter["in"] == "path"}
    assert in_path == {part.strip("{}") for part in path.split("/") if part.startswith("{")}
    assert all(parameter["description"] for parameter in operation["parameters"])


@pytest.mark.parametrize("name", RESPONSES)
def test_each_response_is_described_with_headers_and_examples(name: str) -> None:
    response, status = RESPONSES[name], int(name.rpartition(" ")[2])
    assert response["description"].endswith(".")
    assert {"X-Correlation-ID"} <= set(response["headers"])
    assert ("content" in response) == (status != 304)
    for media_type, content in response.get("content", {}).items():
        assert content["examples"], media_type
    if status >= 400:
        assert "application/problem+json" in response["content"]


@pytest.mark.parametrize("name", RESPONSES)
def test_each_example_is_as_its_schema_says(name: str) -> None:
    for content in RESPONSES[name].get("content", {}).values():
        for example in content["examples"].values():
            whole(content["schema"]).validate(example["value"])


UNREAD = {"request_timeout", "uri_too_long", "headers_too_large", "too_many_connections"}


def test_the_examples_of_an_error_have_its_status_and_path() -> None:
    for path, operation in OPERATIONS:
        for status, response in operation["responses"].items():
            problems = response.get("content", {}).get("application/problem+json", {"examples": {}})["examples"]
            for problem in problems.values():
                assert problem["value"]["status"] == int(status)
                if problem["value"]["error"] in UNREAD:
                    assert problem["value"]["instance"] == "/"
                else:
                    assert len(problem["value"]["instance"].split("/")) == len(path.split("/"))


def test_the_examples_of_parameters_are_as_their_schemas_say() -> None:
    for _, operation in OPERATIONS:
        for parameter in operation["parameters"]:
            if "example" in parameter:
                whole(parameter["schema"]).validate(parameter["example"])


def test_an_answer_is_refused_that_lacks_a_field_or_has_another() -> None:
    content = RESPONSES["/internal/v1/batches/{batch_id}/status 200"]["content"]["application/json"]
    batch = content["examples"]["batch"]["value"]
    validator = whole(content["schema"])
    assert validator.is_valid(batch)
    assert not validator.is_valid({**batch, "more": None})
    for field in batch:
        assert not validator.is_valid({name: value for name, value in batch.items() if name != field}), field


def test_links_lead_to_operations_and_parameters_that_are_there() -> None:
    by_id = {operation["operationId"]: operation for _, operation in OPERATIONS}
    assert len(by_id) == len(OPERATIONS)
    links = [link for response in RESPONSES.values() for link in response.get("links", {}).values()]
    assert len(links) == 3
    for link in links:
        names = {parameter["name"] for parameter in by_id[link["operationId"]]["parameters"]}
        assert names >= set(link["parameters"])
