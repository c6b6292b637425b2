"""Start the HTTP server: ``/health`` answers at once, while all other routes load in a thread."""

from __future__ import annotations

import asyncio
import sys
import threading
import webbrowser
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from ...domain.collector import paused_collector
from ...service.server_settings import data_dir, take_token
from ..host import Address, listen
from ..page_address import announced, find
from .exchange import Exchange
from .guard import Guard
from .health import HEALTH_PATH, health
from .later import Later
from .sessions import Sessions


class Server:
    """All routes. Requests wait until their routes are loaded; ``/health`` never waits.

    Args:
        make: builds the application of all routes; blocks.
    """

    def __init__(self, make: Callable[[], Guard], address: Address, token: str) -> None:
        self._all = Later(make)
        part = health()
        first = Starlette(routes=part.routes, lifespan=self._all.running)
        self._first = Guard(first, part.areas, address, token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or scope["path"] == HEALTH_PATH:
            await self._first(scope, receive, send)
            return
        try:
            app = await self._all.loaded()
        except asyncio.CancelledError:  # the server stops first
            await Exchange(scope, receive, send).stop()
        else:
            await app(scope, receive, send)


def run(address: Address, mcp_app: Callable[[Any], Starlette]) -> None:
    """Serve at an address until a signal stops it.

    If the data directory already has a server, open its page and return.

    Args:
        mcp_app: builds the application of MCP.

    Raises:
        UsageError: the port is taken, or the address is public and there is no token.
    """
    url = find(data_dir()) if address.pages.is_opened else None
    if url is not None:
        sys.stderr.write(
            f"a server of this data directory is already running: {url}/\n"
            "if its page asks for the token, open the link that the server printed\n"
        )
        webbrowser.open(f"{url}/")
        return
    token = take_token(address.host)
    sessions = Sessions(token) if address.pages.is_served else None

    def make() -> Guard:
        with paused_collector():
            from ...service.async_service import AsyncService
            from ...service.service import Service
            from .server import build_app

            return build_app(AsyncService(Service()), mcp_app, address, token, sessions)

    def greet(url: str) -> None:
        sys.stderr.write(f"serving MCP on {url}/mcp\n")
        if sessions is not None:
            page_url = url.replace("0.0.0.0", "127.0.0.1").replace("[::]", "[::1]") + "/"
            # A token known only to this server. The part after # reaches no server and no log.
            announcement.enter_context(announced(data_dir(), page_url.rstrip("/")))
            page_url += "" if token else f"#token={sessions.token}"
            sys.stderr.write(f"open {page_url}\n")
            if address.pages.is_opened:
                threading.Thread(target=webbrowser.open, args=[page_url], daemon=True).start()
        sys.stderr.flush()

    with ExitStack() as announcement:
        listen(Server(make, address, token), address, greet)
