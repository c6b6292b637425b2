"""The HTTP server: one application of all parts and MCP, behind one guard."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from starlette.applications import Starlette
from starlette.routing import Route, WebSocketRoute

from ...service.async_service import AsyncService
from ..host import Address
from . import asr, models, page, page_api, realtime, transcriptions
from .guard import Guard
from .health import health
from .later import Later
from .parts import Part
from .refusals import HANDLERS, no_socket
from .sessions import Sessions

MCP_PATH = "/mcp"

McpApp = Callable[[AsyncService], Starlette]


def all_parts(service: AsyncService, sessions: Sessions | None) -> list[Part]:
    """The only place that joins routes and their rules. Each part is a separate module.

    Args:
        sessions: of the page; ``None`` serves no page.
    """
    modules = (models, transcriptions, asr, realtime)
    parts = [health(), *(module.part(service) for module in modules)]
    return parts if sessions is None else [*parts, page.part(), page_api.part(service, sessions)]


def build_app(
    service: AsyncService,
    mcp_app: McpApp,
    address: Address,
    token: str = "",
    sessions: Sessions | None = None,
) -> Guard:
    """All routes behind the guard. MCP loads when the server starts.

    Args:
        mcp_app: builds the application of MCP.
        token: required from clients; empty requires none.
        sessions: of the page; ``None`` serves no page.
    """
    parts = all_parts(service, sessions)

    mcp = Later(partial(mcp_app, service))
    app = Starlette(
        routes=[
            *(route for part in parts for route in part.routes),
            Route(MCP_PATH, mcp),
            WebSocketRoute("/{path:path}", no_socket),
        ],
        exception_handlers=HANDLERS,
        lifespan=mcp.running,
    )
    areas = [area for part in parts for area in part.areas]
    return Guard(app, areas, address, token, sessions)
