"""The API's questions about batches."""

import structlog
from dishka import FromDishka
from quart import Blueprint, Response, request
from quart_dishka import inject

from result_aggregator_service.api.answers import BatchAnswers
from result_aggregator_service.api.errors import batch_not_found
from result_aggregator_service.api.inputs import page_query, path_id
from result_aggregator_service.cache.cache_manager import Answer, KnownTags, Unchanged

blueprint = Blueprint("batches", __name__, url_prefix="/internal/v1/batches")

#: Answers are for the one service that asked, and are to be asked for again each time, by their tag.
_CACHING = {"Cache-Control": "private, no-cache", "Vary": "X-Internal-API-Key, X-Service-ID"}


@blueprint.get("/<batch_id>/status")
@inject
async def get_batch_status(batch_id: str, answers: FromDishka[BatchAnswers]) -> Response:
    """The batch with all its essays."""
    asked = path_id("batch_id", batch_id)
    structlog.contextvars.bind_contextvars(batch_id=asked)
    answer = await answers.batch_status(asked, _known_tags())
    if answer is None:
        raise batch_not_found(asked)
    return _respond(answer)


@blueprint.get("/user/<user_id>")
@inject
async def get_user_batches(user_id: str, answers: FromDishka[BatchAnswers]) -> Response:
    """A page of the user's batches, newest first."""
    asked, query = path_id("user_id", user_id), page_query(request.query_string)
    return _respond(await answers.user_batches(asked, query, _known_tags()))


def _known_tags() -> KnownTags:
    """Which answers the client has already. Tags are compared weakly (RFC 9110, section 13.1.2)."""
    tags = request.if_none_match
    # Werkzeug reads the tag "" as None.
    return KnownTags(frozenset(tag for tag in tags.as_set(include_weak=True) if tag), tags.star_tag)


def _respond(answer: Answer | Unchanged) -> Response:
    """The answer, or 304 if the client has it already."""
    headers = {**_CACHING, "ETag": f'"{answer.etag}"'}
    if isinstance(answer, Answer):
        return Response(answer.body, 200, headers, content_type="application/json")
    response = Response(b"", 304, headers)
    del response.headers["Content-Type"]
    return response
