"""Access to paths: host names of this machine, origins of pages, the token."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from http.cookies import CookieError, SimpleCookie

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Router
from starlette.types import Receive, Scope, Send

from ...service.server_settings import LOOPBACK
from ..host import Address, bracketed
from .error_answer import refusal
from .exchange import Exchange
from .sessions import Sessions

MAX_PORT = 65_535
SESSION_COOKIE = "tm_session"
_HOST = re.compile(r"([a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", re.IGNORECASE | re.ASCII)
_KEY_HEADERS = ("api-key", "x-api-key")  # of clients for Azure, and of speaches
_KEY_PROTOCOL = "openai-insecure-api-key."  # browsers cannot send headers with a WebSocket


@dataclass(frozen=True, slots=True)
class Area:
    """Paths with the same rules. Paths outside all areas need the token and have no CORS.

    Attributes:
        path: one path, or all that begin with it if it ends in ``*``. The longest one counts.
        is_public: needs no token.
        takes_session: a browser's session opens it too, see ``Guard``. Without either, access is
        denied, even if the server has no token.
        is_cross_origin: pages of the allowed origins may use it.
    """

    path: str
    is_public: bool = False
    takes_session: bool = False
    is_cross_origin: bool = False

    def has(self, path: str) -> bool:
        if self.path.endswith("*"):
            return path.startswith(self.path[:-1])
        return path == self.path


_REST = Area("*")


def trusted_names(address: Address) -> frozenset[str]:
    """The host names that the headers Host and Origin may have, with any port or none."""
    names = {"127.0.0.1", "localhost", "[::1]", *address.allowed_hosts}
    if _is_any_address(address.host):
        names.add(socket.gethostname())
    elif address.host not in LOOPBACK:
        names.add(bracketed(address.host))
    return frozenset(name.lower() for name in names)


def _is_any_address(host: str) -> bool:
    """``0.0.0.0`` and ``::``, in any notation."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == ""


class Guard:
    """Checks Host, Origin and token, in this order, of every request and WebSocket.

    The first two stop pages of other sites, also those that reach this server by a name of their
    site (DNS rebinding).

    Args:
        token: required from clients; empty requires none.
        sessions: of the page. Their token opens the page's API if the server has none.

    Attributes:
        app: the application behind it.
    """

    def __init__(
        self,
        app: Starlette,
        areas: Sequence[Area],
        address: Address,
        token: str = "",
        sessions: Sessions | None = None,
    ) -> None:
        self.app = app
        self._areas = sorted(areas, key=lambda area: len(area.path), reverse=True)
        self._names = trusted_names(address)
        self._origins = frozenset(map(str.lower, address.allowed_origins))
        self._token = token
        self._sessions = sessions
        self._with_cors = CORSMiddleware(
            self._with_token,
            allow_origins=address.allowed_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            allow_private_network=True,
            expose_headers=["x-request-id", "x-transcribe-mcp-job", "x-transcribe-mcp-ignored"],
        )

    @property
    def router(self) -> Router:
        return self.app.router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        exchange = Exchange(scope, receive, send)
        try:
            await self._check(scope, exchange.receive, exchange.send)
            await exchange.end()
        except asyncio.CancelledError:  # the server stops and its grace period is over
            await exchange.stop()

    async def _check(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        area = self._area(scope["path"])
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_trusted(hosts[0]):
            message = (
                "invalid Host header; use a name of this server in the URL, or start it with "
                "--allowed-host NAME"
            )
            await refusal(421, message, "invalid_host")(scope, receive, send)
        elif not self._comes_from_allowed_page(scope, headers, area):
            message = (
                "invalid Origin header; pages of this origin may not use this server unless it is "
                "started with --allowed-origin ORIGIN"
            )
            await refusal(403, message, "invalid_origin")(scope, receive, send)
        elif area.is_cross_origin and self._origins:
            await self._with_cors(scope, receive, send)
        else:
            await self._with_token(scope, receive, send)

    async def _with_token(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._may_enter(scope):
            await self.app(scope, receive, send)
            return
        message = "missing or wrong API key; send the server's token as: Authorization: Bearer"
        response = refusal(401, message, "invalid_api_key")
        response.headers["www-authenticate"] = "Bearer"
        await response(scope, receive, send)

    def _may_enter(self, scope: Scope) -> bool:
        area = self._area(scope["path"])
        if area.is_public:
            return True
        headers = Headers(scope=scope)
        token = self._token
        if area.takes_session:
            if self._sessions is None:
                return False
            if any(map(self._sessions.has, _session_values(headers))):
                return True
            token = self._sessions.token
        given = [_is_same(key, token) for key in _keys(headers)]
        return not token or any(given)

    def _comes_from_allowed_page(self, scope: Scope, headers: Headers, area: Area) -> bool:
        """Browsers send the page's origin with every changing request; if a session opens the path,
        the origin is required.
        """
        origins = headers.getlist("origin")
        changes = scope["type"] == "http" and scope["method"] not in ("GET", "HEAD", "OPTIONS")
        if changes and area.takes_session and not origins and "cookie" in headers:
            return False
        return all(self._is_allowed(each, area) for each in origins)

    def _area(self, path: str) -> Area:
        return next((area for area in self._areas if area.has(path)), _REST)

    def _is_trusted(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None or int(match[2] or 0) > MAX_PORT:
            return False
        return match[1].lower() in self._names or host.lower() in self._names

    def _is_allowed(self, origin: str, area: Area) -> bool:
        if area.is_cross_origin and origin.lower() in self._origins:
            return True
        scheme, separator, host = origin.partition("://")
        return bool(separator) and scheme.lower() in ("http", "https") and self._is_trusted(host)


def _is_same(given: str, token: str) -> bool:
    """Compare in constant time, so that the duration reveals nothing about the token."""
    return hmac.compare_digest(given.encode(), token.encode())


def _keys(headers: Headers) -> Iterator[str]:
    """The keys that a client sends, in any of the places that clients use.

    Never the query: it would reach logs.
    """
    for value in headers.getlist("authorization"):
        scheme, _, key = value.partition(" ")
        if scheme.lower() == "bearer":
            yield key.strip()
    for name in _KEY_HEADERS:
        yield from headers.getlist(name)
    for value in headers.getlist("sec-websocket-protocol"):
        for protocol in map(str.strip, value.split(",")):
            if protocol.startswith(_KEY_PROTOCOL):
                yield protocol.removeprefix(_KEY_PROTOCOL)


def _session_values(headers: Headers) -> Iterator[str]:
    for value in headers.getlist("cookie"):
        try:
            cookies = SimpleCookie(value)
        except CookieError:
            continue
        if SESSION_COOKIE in cookies:
            yield cookies[SESSION_COOKIE].value
