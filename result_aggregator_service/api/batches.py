"""The API's questions about batches."""

import structlog
from dishka import FromDishka
from quart import Blueprint, Response
from quart_dishka import inject
from werkzeug.datastructures import Headers
from werkzeug.http import parse_etags

from result_aggregator_service.api.answers import BatchAnswers, Question
from result_aggregator_service.api.call import Call, present_call
from result_aggregator_service.api.errors import batch_not_found
from result_aggregator_service.api.inputs import page_query, path_id
from result_aggregator_service.cache.cache_manager import Answer, KnownTags, Unchanged

blueprint = Blueprint("batches", __name__, url_prefix="/internal/v1/batches")

#: Answers are for the one service that asked, and are to be asked for again each time, by their tag.
_CACHING = ((b"cache-control", b"private, no-cache"), (b"vary", b"X-Internal-API-Key, X-Service-ID"))

Reply = tuple[int, list[tuple[bytes, bytes]], bytes]
"""Status, headers, body."""


@blueprint.get("/<batch_id>/status")
@inject
async def get_batch_status(batch_id: str, answers: FromDishka[BatchAnswers]) -> Response:
    """The batch with all its essays."""
    call = present_call()
    answer = await (call.question or batch_question(call, batch_id, answers)).answer()
    if answer is None:
        raise batch_not_found(path_id("batch_id", batch_id))
    return _response(reply(answer))


@blueprint.get("/user/<user_id>")
@inject
async def get_user_batches(user_id: str, answers: FromDishka[BatchAnswers]) -> Response:
    """A page of the user's batches, newest first."""
    call = present_call()
    return _response(reply(await (call.question or page_question(call, user_id, answers)).answer()))


def batch_question(call: Call, batch_id: str, answers: BatchAnswers) -> Question[Answer | None]:
    """What a request asks about a batch, whose id is as it stands in the path.

    Raises:
        ProblemError: 400.
    """
    asked = path_id("batch_id", batch_id)
    structlog.contextvars.bind_contextvars(batch_id=asked)
    return answers.about_batch(asked, _known_tags(call))


def page_question(call: Call, user_id: str, answers: BatchAnswers) -> Question[Answer]:
    """What a request asks about a user's batches; the user's id is as it stands in the path.

    Raises:
        ProblemError: 400.
    """
    return answers.about_user(path_id("user_id", user_id), page_query(call.query_string), _known_tags(call))


def reply(answer: Answer | Unchanged) -> Reply:
    """The answer, or 304 if the client has it already."""
    headers = [*_CACHING, (b"etag", f'"{answer.etag}"'.encode())]
    if isinstance(answer, Unchanged):
        return 304, headers, b""
    length = str(len(answer.body)).encode()
    return 200, [*headers, (b"content-type", b"application/json"), (b"content-length", length)], answer.body


def _known_tags(call: Call) -> KnownTags:
    """Which answers the client has already. Tags are compared weakly (RFC 9110, section 13.1.2)."""
    tags = parse_etags(call.header(b"if-none-match"))
    # Werkzeug reads the tag "" as None.
    return KnownTags(frozenset(tag for tag in tags.as_set(include_weak=True) if tag), tags.star_tag)


def _response(replied: Reply) -> Response:
    status, headers, body = replied
    response = Response(body, status)
    response.headers = Headers([(name.decode(), value.decode()) for name, value in headers])
    return response
