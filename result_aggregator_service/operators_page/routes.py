"""The routes of the operator's page. Open: it shows no ids. No answer waits for a server."""

import asyncio
import contextlib
from importlib.resources import files

import orjson
from dishka import FromDishka
from quart import Blueprint, Response, request
from quart_dishka import inject

from result_aggregator_service.operators_page.sampler import Sampler

blueprint = Blueprint("operators_page", __name__)

_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_PAGE = files("result_aggregator_service.operators_page") / "page"


@blueprint.get("/")
async def get_operators_page() -> Response:
    """The page."""
    return await _file("page.html", "text/html; charset=utf-8")


@blueprint.get("/page.css")
async def get_operators_style() -> Response:
    """How it looks."""
    return await _file("page.css", "text/css; charset=utf-8")


@blueprint.get("/page.js")
async def get_operators_script() -> Response:
    """What fills it."""
    return await _file("page.js", "text/javascript; charset=utf-8")


@blueprint.get("/history.json")
@inject
async def get_operators_history(sampler: FromDishka[Sampler]) -> Response:
    """How the service is, and the samples after number `after`: all that are kept, if it is not a number."""
    after = 0
    with contextlib.suppress(ValueError):
        after = int(request.args.get("after", "0"))
    return _respond(orjson.dumps(sampler.document(after=after)), "application/json", "no-store")


async def _file(name: str, content_type: str) -> Response:
    return _respond(await asyncio.to_thread((_PAGE / name).read_bytes), content_type, "no-cache")


def _respond(body: bytes, content_type: str, caching: str) -> Response:
    headers = {
        "Cache-Control": caching,
        "Content-Security-Policy": _POLICY,
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }
    return Response(body, 200, headers, content_type=content_type)
