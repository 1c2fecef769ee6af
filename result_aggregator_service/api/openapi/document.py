"""The API's OpenAPI 3.1 document: routes from the URL map, schemas from the answers' types, limits from the inputs.

What is written here is only what code cannot say: descriptions, and which errors a view can answer with. Every route is
described and every description has its route. quart-schema would not do: it knows one media type for all answers and
no examples of errors, and takes over how views are written.
"""

from collections.abc import Callable, Mapping
from typing import Any

import orjson
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from werkzeug.exceptions import MethodNotAllowed, NotFound, RequestEntityTooLarge
from werkzeug.routing import Map, Rule

from result_aggregator_service import __version__
from result_aggregator_service.api import documents
from result_aggregator_service.api.call import CORRELATION_HEADER
from result_aggregator_service.api.inputs import DEFAULT_LIMIT, MAX_LIMIT, MAX_OFFSET, View, page_query, path_id
from result_aggregator_service.api.openapi import examples
from result_aggregator_service.api.problems import (
    PROBLEM_CONTENT_TYPE,
    ProblemError,
    batch_not_found,
    head_too_large,
    internal_error,
    problem_document,
    refused,
    request_too_slow,
    too_many_connections,
    too_slow,
    unauthorized,
    unavailable,
    uri_too_long,
)
from result_aggregator_service.api.protocol import MAX_HEAD_BYTES, MAX_URI_BYTES
from result_aggregator_service.contracts.enums import BatchClientStatus, BatchStatus
from result_aggregator_service.contracts.fields import MAX_ID_LENGTH
from result_aggregator_service.settings import Settings

Object = dict[str, Any]
"""A JSON object."""

#: Views that are no operations of the API: what the page for people is made of.
_UNDESCRIBED = frozenset({"get_docs_asset"})

_SCHEMAS = "#/components/schemas"
_METHODS_BESIDE_GET = frozenset({"HEAD", "OPTIONS"})
_TITLE = "Result Aggregator Service"
_DESCRIPTION = """\
Answers what HuleEdu's services have announced about batches of essays, from one read model. Reads only.

- Whatever answers `GET` answers `HEAD` too, with the same status and headers and no body, and `OPTIONS` with `Allow`.
- Unknown query parameters are ignored, and so are request bodies up to 16 KiB. A parameter given twice is an error.
- Every error is `application/problem+json` (RFC 9457). `error` is a stable name for programs.
- Bytes that are no HTTP request at all are answered 400, `error` `malformed_request`, and the connection is closed.
- Absent is null: no field is ever left out. Times are UTC, with microseconds and `Z`.
"""
_TAGS = {
    "batches": "What is known of batches and their essays. Needs credentials.",
    "health": "What probes ask. Open.",
    "metrics": "What Prometheus asks. Open.",
    "documentation": "This document, and the page that shows it. Open.",
}


class _Schemas(GenerateJsonSchema):
    """Pydantic's, without a title for each field that says the field's name again."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


_DOCUMENTS = {
    document.__name__: document
    for document in (
        documents.BatchDocument,
        documents.BatchPageDocument,
        documents.BatchSummaryPageDocument,
        documents.HealthDocument,
        documents.LivenessDocument,
        documents.ProblemDocument,
        documents.ReadinessDocument,
    )
}


def openapi_document(routes: Map, views: Mapping[str, Callable[..., object]]) -> Object:
    """The document of an application's routes, all of them, and their views by endpoint.

    Raises:
        LookupError: a route without a description, or the other way round.
    """
    operations = {_view_name(rule): rule for rule in routes.iter_rules() if _view_name(rule) not in _UNDESCRIBED}
    if operations.keys() != _OPERATIONS.keys():
        without = ", ".join(sorted(operations.keys() ^ _OPERATIONS.keys()))
        raise LookupError(f"described without a route, or a route without a description: {without}; see _OPERATIONS")
    return {
        "openapi": "3.1.0",
        "info": {"title": _TITLE, "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": "/", "description": "The server that this document comes from"}],
        "tags": [{"name": name, "description": description} for name, description in _TAGS.items()],
        "paths": {
            _path(operations[name]): {"get": _operation(operations[name], views, describe)}
            for name, describe in _OPERATIONS.items()
        },
        "components": {
            "schemas": _schemas(),
            "headers": {
                CORRELATION_HEADER: _header(
                    "The request's own id if it has a sane one, else a new one; it stands in every log line.",
                    {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,128}$"},
                )
            },
            "securitySchemes": {
                "InternalApiKey": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-Internal-API-Key",
                    "description": "A key of the platform. Several may be valid at once, so that they can be rotated.",
                },
                "ServiceId": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "X-Service-ID",
                    "description": "Which service asks; it has to be among those that are let in.",
                },
            },
        },
    }


def openapi_json(routes: Map, views: Mapping[str, Callable[..., object]]) -> bytes:
    """The document as it is served, and as it is committed."""
    return orjson.dumps(openapi_document(routes, views), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _view_name(rule: Rule) -> str:
    return str(rule.endpoint).rpartition(".")[2]


def _path(rule: Rule) -> str:
    """The route's path as OpenAPI writes it."""
    return rule.rule.replace("<", "{").replace(">", "}")


def _schemas() -> Object:
    inputs = [(name, "serialization", TypeAdapter(document)) for name, document in _DOCUMENTS.items()]
    _, schemas = TypeAdapter.json_schemas(
        inputs,  # type: ignore[arg-type]
        ref_template=f"{_SCHEMAS}/{{model}}",
        schema_generator=_Schemas,
    )
    definitions: Object = schemas["$defs"]
    return definitions


def _operation(rule: Rule, views: Mapping[str, Callable[..., object]], describe: Callable[[str], Object]) -> Object:
    if (rule.methods or set()) != {"GET"} | _METHODS_BESIDE_GET:
        raise LookupError(f"{rule} takes other methods than GET, and only that is described")
    path = _path(rule).format(batch_id=examples.BATCH_ID, user_id=examples.USER_ID)
    described = describe(path)
    protected = path.startswith("/internal/")
    responses = _merged(described.pop("responses"), _common_errors(path, protected=protected))
    return {
        "operationId": _view_name(rule),
        "summary": (views[rule.endpoint].__doc__ or "").strip().partition("\n")[0],
        **described,
        "security": [{"InternalApiKey": [], "ServiceId": []}] if protected else [],
        "parameters": [*described.get("parameters", ()), _CORRELATION_PARAMETER],
        "responses": {str(status): response for status, response in sorted(responses.items())},
    }


def _merged(responses: Mapping[int, Object], errors: Mapping[int, Object]) -> dict[int, Object]:
    """Both; where a status is in both, it has the media types of both."""
    merged = {**errors, **responses}
    for status in responses.keys() & errors.keys():
        own, error = responses[status], errors[status]
        merged[status] = {
            "description": f"{own['description']} Or: {error['description']}",
            "headers": {**_optional(error["headers"]), **own["headers"]},
            "content": {**own["content"], **error["content"]},
        }
    return merged


# Parts.


def _header(description: str, schema: Object, *, required: bool = True) -> Object:
    return {"description": description, "required": required, "schema": schema}


def _optional(headers: Mapping[str, Object]) -> Object:
    return {name: {**header, "required": False} for name, header in headers.items()}


def _fixed(value: str) -> Object:
    return {"type": "string", "const": value}


_CORRELATION = {CORRELATION_HEADER: {"$ref": f"#/components/headers/{CORRELATION_HEADER}"}}
_NO_STORE = {"Cache-Control": _header("Not to be kept.", _fixed("no-store"))}
_ETAG = {
    "ETag": _header(
        "Stands for the answer; another answer has another.", {"type": "string", "pattern": '^"[0-9a-f]{32}"$'}
    )
}
_CHECKED_HEADERS = {**_ETAG, "Cache-Control": _header("To be asked for again, by its tag.", _fixed("no-cache"))}
_TAG_HEADERS = {
    "ETag": _header(
        "Stands for the answer; another answer has another, and so has the same one sent as gzip.",
        {"type": "string", "pattern": '^"[0-9a-f]{32}(-gzip)?"$'},
    ),
    "Cache-Control": _header("To be asked for again each time, by its tag.", _fixed("private, no-cache")),
    "Vary": _header(
        "Which request headers the answer depends on.", _fixed("X-Internal-API-Key, X-Service-ID, Accept-Encoding")
    ),
}
_ANSWER_HEADERS = {
    **_TAG_HEADERS,
    "Content-Encoding": _header("A large answer goes as gzip to whoever takes it.", _fixed("gzip"), required=False),
}
_RETRY_AFTER = {"Retry-After": _header("Seconds until another try is worth while.", {"type": "integer", "minimum": 1})}


def _parameter(place: str, name: str, description: str, schema: Object, **more: Any) -> Object:
    required = place == "path"
    return {"name": name, "in": place, "required": required, "description": description, "schema": schema, **more}


_CORRELATION_PARAMETER = _parameter(
    "header",
    CORRELATION_HEADER,
    "Taken over if it is 1 to 128 of `A-Z a-z 0-9 . _ : -`; anything else is replaced.",
    {"type": "string"},
    example=examples.CORRELATION_ID,
)
_IF_NONE_MATCH = _parameter(
    "header",
    "If-None-Match",
    "Tags of answers that the client has. If the present one is among them (or `*` is given): 304 without a body.",
    {"type": "string"},
)
_ACCEPT_ENCODING = _parameter(
    "header",
    "Accept-Encoding",
    "Whether a large answer (from `API_GZIP_MIN_BYTES` on) may be sent as gzip. Smaller ones never are.",
    {"type": "string"},
    example="gzip",
)
_ID_SCHEMA: Object = {
    "type": "string",
    "minLength": 1,
    "maxLength": MAX_ID_LENGTH,
    "pattern": "^[^\\u0000-\\u001f\\u007f-\\u009f]*$",
}


def _id_parameter(name: str, what: str, example: str, note: str = "") -> Object:
    description = f"{what}: any characters but control characters, UTF-8, percent-encoded where needed.{note}"
    return _parameter("path", name, description, _ID_SCHEMA, example=example)


def _reference(document: type) -> Object:
    return {"$ref": f"{_SCHEMAS}/{document.__name__}"}


def _json(schema: Object, **values: Any) -> Object:
    """JSON with examples by name."""
    return {"application/json": {"schema": schema, "examples": _examples(values)}}


def _examples(values: Mapping[str, Any]) -> Object:
    return {name: {"value": value} for name, value in values.items()}


def _response(description: str, headers: Mapping[str, Object], content: Object | None = None) -> Object:
    response: Object = {"description": description, "headers": {**headers, **_CORRELATION}}
    return response if content is None else {**response, "content": content}


# Errors.

#: They are answered before it is known what was asked for.
_WITHOUT_PATH = frozenset({"request_timeout", "uri_too_long", "headers_too_large", "too_many_connections"})


def _problems(
    description: str, path: str, *problems: ProblemError, headers: Mapping[str, Object] | None = None
) -> Object:
    """An error's response; all of `problems` have its status."""
    values = {
        problem.error: problem_document(
            problem, "/" if problem.error in _WITHOUT_PATH else path, examples.CORRELATION_ID
        )
        for problem in problems
    }
    content = {"schema": _reference(documents.ProblemDocument), "examples": _examples(values)}
    return _response(description, {**_NO_STORE, **(headers or {})}, {PROBLEM_CONTENT_TYPE: content})


def _default(setting: str) -> float:
    return float(Settings.model_fields[setting].default)


def _common_errors(path: str, *, protected: bool) -> dict[int, Object]:
    """What every operation may answer."""
    no_method = refused(MethodNotAllowed(["GET", *sorted(_METHODS_BESIDE_GET)]))
    late, crowded = too_slow(_default("api_timeout_seconds")), too_many_connections()
    slow = request_too_slow(_default("api_receive_timeout_seconds"))
    errors = {
        408: _problems("The request's headers did not end in time.", path, slow),
        414: _problems("The path with its query has more than 8 KiB.", path, uri_too_long(MAX_URI_BYTES)),
        431: _problems("Request line and headers have more than 32 KiB.", path, head_too_large(MAX_HEAD_BYTES)),
        405: _problems(
            "The path does not take the method.",
            path,
            no_method,
            headers={"Allow": _header("The methods that it takes.", {"type": "string"})},
        ),
        413: _problems("The request has a body of more than 16 KiB.", path, refused(RequestEntityTooLarge())),
        500: _problems("An error of the service's own.", path, internal_error()),
        503: _problems("No answer in time, or too many connections.", path, late, crowded, headers=_RETRY_AFTER),
    }
    if protected:
        errors[503] = _problems(
            "No answer in time, the database is away, or too many connections.",
            path,
            late,
            unavailable(),
            crowded,
            headers=_RETRY_AFTER,
        )
        challenge = _header("The scheme of the credentials.", {"type": "string"})
        errors[401] = _problems(
            "Credentials are missing or wrong; which is not told.",
            path,
            unauthorized(),
            headers={"WWW-Authenticate": challenge},
        )
    return errors


def _bad_input(path: str, *refusals: ProblemError) -> Object:
    values = {
        str(problem.details["field"]): problem_document(problem, path, examples.CORRELATION_ID) for problem in refusals
    }
    content = {"schema": _reference(documents.ProblemDocument), "examples": _examples(values)}
    description = "A part of the request is not as specified; `details` names the field and what it may be."
    return _response(description, _NO_STORE, {PROBLEM_CONTENT_TYPE: content})


def _refusal(read: Callable[[], object]) -> ProblemError:
    """What reading some bad input raises."""
    try:
        read()
    except ProblemError as problem:
        return problem
    raise AssertionError("the example of bad input is not bad")


# Operations, each by its view's name: what is said of it, given its path with example ids in it.


def _batch_status(path: str) -> Object:
    return {
        "tags": ["batches"],
        "description": "One batch with all its essays. A batch that no owner has been told of yet is not there.",
        "parameters": [
            _id_parameter(
                "batch_id",
                "The batch's id",
                examples.BATCH_ID,
                " The id `user` has to be written `%75ser`: as it stands it asks for batches of the user `status`.",
            ),
            _IF_NONE_MATCH,
            _ACCEPT_ENCODING,
        ],
        "responses": {
            200: {
                **_response(
                    "The batch.", _ANSWER_HEADERS, _json(_reference(documents.BatchDocument), batch=examples.batch())
                ),
                "links": {
                    "unchanged": {
                        "operationId": "get_batch_status",
                        "parameters": {
                            "batch_id": "$request.path.batch_id",
                            "If-None-Match": "$response.header.ETag",
                        },
                        "description": "Asked again with the answer's tag, it is 304 for as long as nothing changes.",
                    },
                    "batches_of_its_owner": {
                        "operationId": "get_user_batches",
                        "parameters": {"user_id": "$response.body#/user_id"},
                        "description": "The batch is among them.",
                    },
                },
            },
            304: _response("The client has the present answer already.", _TAG_HEADERS),
            400: _bad_input(path, _refusal(lambda: path_id("batch_id", "%00"))),
            404: _problems(
                "There is no such batch, or it has no owner yet; or the path is none, as with a `/` in the id that is "
                "not percent-encoded.",
                path,
                batch_not_found(examples.BATCH_ID),
                refused(NotFound()),
            ),
        },
    }


def _user_batches(path: str) -> Object:
    next_page = f"{path}?limit=1&view=summary&cursor={examples.CURSOR}"
    return {
        "tags": ["batches"],
        "description": (
            "Pages go either by number (`offset`: may skip or repeat batches if the list changes meanwhile, and gets "
            "slower with the number) or by `cursor` (neither). A user without batches has an empty list."
        ),
        "parameters": [
            _id_parameter("user_id", "The user's id", examples.USER_ID),
            _parameter(
                "query",
                "limit",
                "How many batches at most.",
                {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
            ),
            _parameter(
                "query",
                "offset",
                "How many batches to pass over, by default none. Not together with `cursor`.",
                {"type": "integer", "format": "int64", "minimum": 0, "maximum": MAX_OFFSET},
            ),
            _parameter(
                "query",
                "status",
                "Only batches of this `overall_status`, or of one shown to clients as this; empty is as absent.",
                {"type": "string", "enum": ["", *dict.fromkeys([*BatchStatus, *BatchClientStatus])]},
            ),
            _parameter(
                "query",
                "view",
                "With essays, or without: what a list page wants, and as fast however many essays there are.",
                {"type": "string", "enum": list(View), "default": View.FULL},
            ),
            _parameter(
                "query",
                "cursor",
                "Empty: page by cursor, from the beginning. Else the cursor in `pagination.next`, unchanged.",
                {"type": "string", "format": "cursor"},
            ),
            _IF_NONE_MATCH,
            _ACCEPT_ENCODING,
        ],
        "responses": {
            200: {
                **_response(
                    "A page of the user's batches, newest first (`created_at`, then `batch_id`).",
                    _ANSWER_HEADERS,
                    _json(
                        {
                            "anyOf": [
                                _reference(documents.BatchPageDocument),
                                _reference(documents.BatchSummaryPageDocument),
                            ]
                        },
                        full_by_offset=examples.page(),
                        summary_by_cursor=examples.summary_page(next_page),
                    ),
                ),
                "links": {
                    "first_batch": {
                        "operationId": "get_batch_status",
                        "parameters": {"batch_id": "$response.body#/batches/0/batch_id"},
                        "description": "A batch of the page by itself.",
                    },
                },
            },
            304: _response("The client has the present answer already.", _TAG_HEADERS),
            400: _bad_input(
                path,
                _refusal(lambda: path_id("user_id", "%00")),
                _refusal(lambda: page_query(b"limit=0")),
                _refusal(lambda: page_query(b"offset=-1")),
                _refusal(lambda: page_query(b"status=done")),
                _refusal(lambda: page_query(b"view=none")),
                _refusal(lambda: page_query(b"cursor=made-up")),
            ),
            404: _problems(
                "The path is none, as with a `/` in the id that is not percent-encoded.", path, refused(NotFound())
            ),
        },
    }


def _liveness(_: str) -> Object:
    schema = _reference(documents.LivenessDocument)
    return {
        "tags": ["health"],
        "description": "Speaks of this process alone: an outage elsewhere does not make it fail.",
        "responses": {
            200: _response("All loops turn.", _NO_STORE, _json(schema, alive=examples.live())),
            503: _response("A loop is dead or stuck.", _NO_STORE, _json(schema, stuck=examples.not_live())),
        },
    }


def _readiness(_: str) -> Object:
    schema = _reference(documents.ReadinessDocument)
    return {
        "tags": ["health"],
        "description": "Whether reads can be served. Without Redis or Kafka they can.",
        "responses": {
            200: _response("Reads are served.", _NO_STORE, _json(schema, without_redis=examples.ready())),
            503: _response(
                "They are not; `reasons` says why.", _NO_STORE, _json(schema, not_ready=examples.not_ready())
            ),
        },
    }


def _health(_: str) -> Object:
    schema = _reference(documents.HealthDocument)
    about = (str(Settings.model_fields["service_name"].default), __version__)
    return {
        "tags": ["health"],
        "description": "Loops and dependencies in one picture.",
        "responses": {
            200: _response("All loops turn.", _NO_STORE, _json(schema, healthy=examples.healthy(*about))),
            503: _response("A loop is dead or stuck.", _NO_STORE, _json(schema, stuck=examples.unhealthy(*about))),
        },
    }


def _metrics(_: str) -> Object:
    text = '# TYPE ras_cache_hits_total counter\nras_cache_hits_total{cache_type="batch_status"} 1.0\n'
    content = {"text/plain": {"schema": {"type": "string"}, "examples": _examples({"counter": text})}}
    return {
        "tags": ["metrics"],
        "description": "In Prometheus' text format; also on `METRICS_PORT`.",
        "responses": {200: _response("The metrics.", {}, content)},
    }


def _openapi(_: str) -> Object:
    body = {"openapi": "3.1.0", "info": {"title": _TITLE, "version": __version__}}
    return {
        "tags": ["documentation"],
        "description": "OpenAPI 3.1.",
        "parameters": [_IF_NONE_MATCH],
        "responses": {
            200: _response("The document.", _CHECKED_HEADERS, _json({"type": "object"}, beginning=body)),
            304: _response("The client has it already.", _CHECKED_HEADERS),
        },
    }


def _docs(_: str) -> Object:
    content = {"text/html": {"schema": {"type": "string"}, "examples": _examples({"page": "<!doctype html>..."})}}
    policy = _header("What the page may load: only what comes from here.", {"type": "string"})
    headers = {**_CHECKED_HEADERS, "Content-Security-Policy": policy}
    return {
        "tags": ["documentation"],
        "description": "Swagger UI over `/openapi.json`; everything it needs comes from this server.",
        "parameters": [_IF_NONE_MATCH],
        "responses": {
            200: _response("The page.", headers, content),
            304: _response("The client has it already.", headers),
        },
    }


_OPERATIONS: Mapping[str, Callable[[str], Object]] = {
    "get_batch_status": _batch_status,
    "get_user_batches": _user_batches,
    "get_liveness": _liveness,
    "get_readiness": _readiness,
    "get_health": _health,
    "get_metrics": _metrics,
    "get_openapi": _openapi,
    "get_docs": _docs,
}
