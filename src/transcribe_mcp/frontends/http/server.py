"""The HTTP server: one application of all parts and MCP, behind one guard."""

from __future__ import annotations

import sys
import threading
import webbrowser
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from ... import __version__
from ...service.async_service import AsyncService
from ...service.server_settings import take_token
from ...service.service import Service
from ..host import Address, listen
from ..page_address import announced
from . import asr, models, page, page_api, realtime, transcriptions
from .guard import Area, Guard
from .mcp_later import MCP_PATH, McpLater
from .parts import Part
from .refusals import HANDLERS
from .sessions import Sessions

McpApp = Callable[[AsyncService], Starlette]


def all_parts(service: AsyncService, sessions: Sessions | None) -> list[Part]:
    """The only place where routes and their rules are joined. A part is a module of its own.

    Args:
        sessions: of the page; ``None`` serves no page.
    """
    modules = (models, transcriptions, asr, realtime)
    parts = [health(), *(module.part(service) for module in modules)]
    return parts if sessions is None else [*parts, page.part(), page_api.part(service, sessions)]


def health() -> Part:
    """``/health``, for programs that watch the server. It does not touch the database."""

    async def answer(_: Request) -> JSONResponse:
        return JSONResponse({"status": "ok", "version": __version__})

    return Part([Route("/health", answer)], [Area("/health", is_public=True)])


def build_app(
    service: AsyncService,
    mcp_app: McpApp,
    address: Address,
    token: str = "",
    sessions: Sessions | None = None,
) -> Guard:
    """All routes behind the guard. MCP loads when the server starts.

    Args:
        mcp_app: makes the application of MCP.
        token: required from clients; empty requires none.
        sessions: of the page; ``None`` serves no page.
    """
    parts = all_parts(service, sessions)
    is_session = sessions.has if sessions else lambda _: False

    mcp = McpLater(partial(mcp_app, service))
    app = Starlette(
        routes=[*(route for part in parts for route in part.routes), Route(MCP_PATH, mcp)],
        exception_handlers=HANDLERS,
        lifespan=mcp.running,
    )
    areas = [area for part in parts for area in part.areas]
    return Guard(app, areas, address, token, is_session)


def run(address: Address, mcp_app: McpApp) -> None:
    """Serve at an address until a signal stops it.

    Args:
        mcp_app: makes the application of MCP.

    Raises:
        UsageError: the port is taken, or the address is public and there is no token.
    """
    token = take_token(address.host)
    service = AsyncService(Service())
    sessions = Sessions(token) if address.pages.is_served else None
    app = build_app(service, mcp_app, address, token, sessions)

    def greet(url: str) -> None:
        sys.stderr.write(f"serving MCP on {url}{MCP_PATH}\n")
        if sessions is not None:
            page_url = url.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]") + "/"
            # A token that only this server knows. What follows a # reaches no server and no log.
            data_dir = service.service.settings.data_dir
            announcement.enter_context(announced(data_dir, page_url.rstrip("/")))
            page_url += "" if token else f"#token={sessions.token}"
            sys.stderr.write(f"open {page_url}\n")
            if address.pages.is_opened:
                threading.Thread(target=webbrowser.open, args=[page_url], daemon=True).start()
        sys.stderr.flush()

    with ExitStack() as announcement:
        listen(app, address, greet)
