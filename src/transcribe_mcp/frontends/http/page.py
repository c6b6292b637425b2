"""The page: static files without a secret, so that the login form needs no token."""

from __future__ import annotations

from importlib.resources import files

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from .guard import Area
from .parts import Part

SECURITY = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-cache",  # browsers revalidate the file
}
PAGES = {"/": "index.html", "/t/{job_id}": "transcript.html", "/search": "search.html"}


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(SECURITY)
        return response


def part() -> Part:
    folder = str(files("transcribe_mcp.frontends") / "web")
    routes: list[BaseRoute] = [_page(path, f"{folder}/{file}") for path, file in PAGES.items()]
    routes.append(Mount("/static", _Files(directory=folder)))
    public = ("/", "/t/*", "/search", "/static/*")
    return Part(routes, [Area(path, is_public=True) for path in public])


def _page(path: str, file: str) -> Route:
    async def show(_: Request) -> Response:
        return FileResponse(file, media_type="text/html; charset=utf-8", headers=SECURITY)

    return Route(path, show)
