"""``/health``, for programs that watch the server. It does not touch the database."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ... import __version__
from .guard import Area
from .parts import Part

HEALTH_PATH = "/health"


def health() -> Part:
    async def answer(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "version": __version__})

    return Part([Route(HEALTH_PATH, answer)], [Area(HEALTH_PATH, is_public=True)])
