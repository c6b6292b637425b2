"""The HTTP server: one application of all parts and MCP, behind one guard."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ... import __version__
from ...service.async_service import AsyncService
from ...service.server_settings import take_token
from ...service.service import Service
from ..host import Address, listen
from . import models, transcriptions
from .guard import Area, Guard
from .parts import Part
from .refusals import HANDLERS

McpApp = Callable[[AsyncService], Starlette]


def all_parts(service: AsyncService) -> list[Part]:
    """The only place where routes and their rules are joined. A part is a module of its own."""
    return [health(), models.part(service), transcriptions.part(service)]


def health() -> Part:
    """``/health``, for programs that watch the server. It does not touch the database."""

    async def answer(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "version": __version__})

    return Part([Route("/health", answer)], [Area("/health", is_public=True)])


def build_app(service: AsyncService, mcp: Starlette, address: Address, token: str = "") -> Guard:
    """All routes behind the guard. Those of MCP keep their lifespan.

    Args:
        token: required from clients; empty requires none.
    """
    parts = all_parts(service)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        async with mcp.router.lifespan_context(mcp):
            yield

    app = Starlette(
        routes=[*(route for part in parts for route in part.routes), *mcp.routes],
        exception_handlers=HANDLERS,
        lifespan=lifespan,
    )
    return Guard(app, [area for part in parts for area in part.areas], address, token)


def run(address: Address, mcp_app: McpApp) -> None:
    """Serve at an address until a signal stops it.

    Args:
        mcp_app: makes the application of MCP.

    Raises:
        UsageError: the port is taken, or the address is public and there is no token.
    """
    token = take_token(address.host)
    service = AsyncService(Service())
    listen(build_app(service, mcp_app(service), address, token), address, "MCP", "/mcp")
