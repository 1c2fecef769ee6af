"""What Schemathesis cannot read from the document; loaded by its own process (see test_schemathesis.py)."""

import json
import os
from typing import Any

import requests
import schemathesis
from hypothesis import strategies as st
from schemathesis import Case, CheckContext, HookContext, Response

USER_BATCHES = "/internal/v1/batches/user/{user_id}"
#: What differs between two answers that are the same: ids and sizes of their own, times, and counters in the metrics.
_OF_ONE_ANSWER = {"x-correlation-id", "date", "content-length"}

_session = requests.Session()

# Only the service makes cursors: any other text is refused.
schemathesis.openapi.format("cursor", st.sampled_from(json.loads(os.environ["SCHEMATHESIS_CURSORS"])))


@schemathesis.hook
def before_load_schema(context: HookContext, raw_schema: dict[str, Any]) -> None:
    """Link a page to the next one: OpenAPI's own expressions take no part out of a URL, Schemathesis' do."""
    links = raw_schema["paths"][USER_BATCHES]["get"]["responses"]["200"]["links"]
    links["next_page"] = {
        "operationId": "get_user_batches",
        "parameters": {
            "user_id": "$request.path.user_id",
            "cursor": "$response.body#/pagination/next#regex:cursor=([A-Za-z0-9_-]+)",
        },
    }


@schemathesis.hook
def before_call(context: HookContext, case: Case[Any], kwargs: dict[str, Any]) -> None:
    """OpenAPI cannot say that two parameters exclude each other: where both are as they should be, one is left out."""
    if case.meta is None or not case.meta.generation.mode.is_positive or not {"offset", "cursor"} <= case.query.keys():
        return
    tested = getattr(case.meta.phase.data, "parameter", None)
    del case.query["cursor" if tested == "offset" else "offset"]


@schemathesis.check
def head_agrees_with_get(context: CheckContext, response: Response, case: Case[Any]) -> bool | None:
    """HEAD has the status and the headers of GET, and no body."""
    request = response.request.copy()
    if request.method != "GET":
        return True
    request.method = "HEAD"
    head = _session.send(request, timeout=30)
    assert head.content == b""
    assert head.status_code == response.status_code, f"HEAD has {head.status_code}, GET {response.status_code}"
    ours = {name.lower(): value for name, value in head.headers.items()}
    theirs = {name: ", ".join(values) for name, values in response.headers.items()}
    differing = {name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name)} - _OF_ONE_ANSWER
    assert not differing, f"HEAD and GET differ in {sorted(differing)}"
    return None
