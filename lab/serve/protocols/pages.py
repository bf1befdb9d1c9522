"""Pages for people: the live page, the API's description and its rendering; nothing in them comes from elsewhere."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

import orjson

from lab.serve.protocols.http import Request, Response
from lab.serve.protocols.openapi import document

HTML = "text/html; charset=utf-8"
_HEADERS = (
    ("content-security-policy",
     "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'"),
    ("x-content-type-options", "nosniff"), ("x-frame-options", "DENY"), ("cache-control", "no-store"),
)  # fmt: skip


class Pages:
    """Handlers; what they give holds no data, so that they need no token."""

    async def ui(self, request: Request, segments: tuple[str, ...]) -> Response:
        return Response(200, _page("live.html"), HTML, _HEADERS)

    async def docs(self, request: Request, segments: tuple[str, ...]) -> Response:
        return Response(200, _page("docs.html"), HTML, _HEADERS)

    async def openapi(self, request: Request, segments: tuple[str, ...]) -> Response:
        return Response(200, orjson.dumps(document()))


@cache
def _page(name: str) -> bytes:
    return files("lab.serve.ui").joinpath(name).read_bytes()
