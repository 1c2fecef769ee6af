"""Serves the API's description: to programs as OpenAPI, to people as a page. Open: it tells how to ask, and no data.

Everything comes from this server. Swagger UI's files are those of the package `offapi`, which is not imported: it would
read nine megabytes of pages that are of no use here.
"""

import asyncio
from collections.abc import Mapping
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path

from quart import Blueprint, Response, current_app, request

from result_aggregator_service.api.openapi.document import openapi_json

blueprint = Blueprint("documentation", __name__)

_EXTENSION = "openapi"
_CHECK_EACH_TIME = "no-cache"
_KEEP_FOR_A_DAY = "public, max-age=86400"
#: What the page may load: only what comes from this server. Swagger UI's icons are data in its style sheet.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)


def _folder_of(package: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the package {package} is not installed: install what pdm.lock names")
    return Path(spec.origin).parent


_PAGE = Path(__file__).parent / "page"
_SWAGGER_UI = _folder_of("offapi")
_ASSETS: Mapping[str, tuple[Path, str]] = {
    "swagger-ui.js": (_SWAGGER_UI / "swagger_bundle.js", "text/javascript; charset=utf-8"),
    "swagger-ui.css": (_SWAGGER_UI / "swagger_style.css", "text/css; charset=utf-8"),
    "start.js": (_PAGE / "start.js", "text/javascript; charset=utf-8"),
}


@blueprint.get("/openapi.json")
async def get_openapi() -> Response:
    """The API, described for programs."""
    # Made at the first request: routes do not change while the app serves.
    body: bytes | None = current_app.extensions.get(_EXTENSION)
    if body is None:
        body = current_app.extensions[_EXTENSION] = openapi_json(current_app.url_map, current_app.view_functions)
    return _respond(body, "application/json", _CHECK_EACH_TIME)


@blueprint.get("/docs")
async def get_docs() -> Response:
    """The API, described for people."""
    body = await asyncio.to_thread((_PAGE / "docs.html").read_bytes)
    response = _respond(body, "text/html; charset=utf-8", _CHECK_EACH_TIME)
    response.headers["Content-Security-Policy"] = _POLICY
    return response


async def get_docs_asset(name: str) -> Response:
    """A file that the page for people is made of."""
    path, content_type = _ASSETS[name]
    return _respond(await asyncio.to_thread(path.read_bytes), content_type, _KEEP_FOR_A_DAY)


for _name in _ASSETS:
    blueprint.add_url_rule(f"/docs/assets/{_name}", view_func=get_docs_asset, defaults={"name": _name}, methods=["GET"])


def _respond(body: bytes, content_type: str, caching: str) -> Response:
    """The content, or 304 if the client has it already."""
    etag = blake2b(body, digest_size=16).hexdigest()
    headers = {"ETag": f'"{etag}"', "Cache-Control": caching}
    if request.if_none_match.contains_weak(etag):
        response = Response(b"", 304, headers)
        del response.headers["Content-Type"]
        return response
    return Response(body, 200, headers, content_type=content_type)
