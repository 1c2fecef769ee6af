"""The API's questions about batches."""

import structlog
from dishka import FromDishka
from quart import Blueprint, Response
from quart_dishka import inject
from werkzeug.http import parse_etags

from result_aggregator_service.api.answers import BatchAnswers
from result_aggregator_service.api.call import Call, Reply, as_response, present_call
from result_aggregator_service.api.inputs import page_query, path_id, takes_gzip
from result_aggregator_service.api.problems import batch_not_found
from result_aggregator_service.cache.cache_manager import Answer, KnownTags, Unchanged
from result_aggregator_service.cache.compression import is_compressed, plain

blueprint = Blueprint("batches", __name__, url_prefix="/internal/v1/batches")

#: Answers are for the one service that asked, and are to be asked for again each time, by their tag.
_CACHING = (
    (b"cache-control", b"private, no-cache"),
    (b"vary", b"X-Internal-API-Key, X-Service-ID, Accept-Encoding"),
)
#: What the tag of an answer ends with where it is sent as gzip: other bytes, so another tag (RFC 9110, section 8.8.3).
_GZIP = "-gzip"


@blueprint.get("/<batch_id>/status")
@inject
async def get_batch_status(batch_id: str, answers: FromDishka[BatchAnswers]) -> Response:
    """The batch with all its essays."""
    return as_response(await batch_reply(present_call(), batch_id, answers))


@blueprint.get("/user/<user_id>")
@inject
async def get_user_batches(user_id: str, answers: FromDishka[BatchAnswers]) -> Response:
    """A page of the user's batches, newest first."""
    return as_response(await page_reply(present_call(), user_id, answers))


async def batch_reply(call: Call, batch_id: str, answers: BatchAnswers) -> Reply:
    """The reply to a request about a batch, whose id is as it stands in the path.

    Raises:
        ProblemError: 400, 404.
    """
    asked = path_id("batch_id", batch_id)
    structlog.contextvars.bind_contextvars(batch_id=asked)
    answer = await answers.about_batch(asked, _known_tags(call))
    if answer is None:
        raise batch_not_found(asked)
    return await _reply(call, answer)


async def page_reply(call: Call, user_id: str, answers: BatchAnswers) -> Reply:
    """The reply to a request about a user's batches; the user's id is as it stands in the path.

    Raises:
        ProblemError: 400.
    """
    asked, query = path_id("user_id", user_id), page_query(call.query_string)
    return await _reply(call, await answers.about_user(asked, query, _known_tags(call)))


async def _reply(call: Call, answer: Answer | Unchanged) -> Reply:
    """The answer, in a coding that the client takes, or 304 if the client has it already."""
    if isinstance(answer, Unchanged):
        # By the tag by which the client knows it.
        tag = answer.etag + (_GZIP if answer.etag + _GZIP in call.header(b"if-none-match") else "")
        return 304, [*_CACHING, _tag_header(tag)], b""
    body, tag = answer.body, answer.etag
    coding: list[tuple[bytes, bytes]] = []
    if is_compressed(body):
        if takes_gzip(call.header(b"accept-encoding")):
            tag, coding = tag + _GZIP, [(b"content-encoding", b"gzip")]
        else:
            body = await plain(body)
    length = str(len(body)).encode()
    headers = [*_CACHING, _tag_header(tag), (b"content-type", b"application/json"), *coding]
    return 200, [*headers, (b"content-length", length)], body


def _tag_header(tag: str) -> tuple[bytes, bytes]:
    return b"etag", f'"{tag}"'.encode()


def _known_tags(call: Call) -> KnownTags:
    """Which answers the client has already, in whatever coding. Tags are compared weakly (RFC 9110, section 13.1.2)."""
    tags = parse_etags(call.header(b"if-none-match"))
    # Werkzeug reads the tag "" as None.
    return KnownTags(frozenset(tag.removesuffix(_GZIP) for tag in tags.as_set(include_weak=True) if tag), tags.star_tag)
