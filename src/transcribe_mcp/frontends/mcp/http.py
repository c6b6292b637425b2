"""Listening for HTTP clients: where, for whom, and for how long."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
import sys
from contextlib import closing
from dataclasses import dataclass
from typing import Any, cast

from ...errors import UsageError
from ...service.server_settings import LOOPBACK

GRACE_S = 3  # for answers under way when the server is stopped
REQUEST_S = 10.0  # for a request to come in, headers and body; they have at most 4 MiB
MAX_CONNECTIONS = 256
MAX_HEADER_BYTES = 64 * 1024
_HOST = re.compile(r"([a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", re.IGNORECASE | re.ASCII)
PATH = "/mcp"


@dataclass(frozen=True, slots=True)
class ServeRequest:
    """How to serve.

    Attributes:
        transport: ``stdio`` or ``http``.
        host, port: where HTTP listens; port 0 takes a free one.
        allowed_hosts: names under which clients reach an HTTP server, beside those of the loopback and ``host``.
    """

    transport: str = "stdio"
    host: str = "127.0.0.1"
    port: int = 8765
    allowed_hosts: tuple[str, ...] = ()


def trusted_names(request: ServeRequest) -> frozenset[str]:
    """What may stand in the headers Host and Origin, with any port or none."""
    names = {"127.0.0.1", "localhost", "[::1]", *request.allowed_hosts}
    if request.host not in LOOPBACK and not is_any_address(request.host):
        names.add(f"[{request.host}]" if ":" in request.host else request.host)
    if is_any_address(request.host):
        names.add(socket.gethostname())
    return frozenset(name.lower() for name in names)


class TrustedHosts:
    """Answers requests to trusted names only, on every route.

    The page of another site, in a browser that was led here by a name of that site, sends that name: it is refused.
    """

    def __init__(self, app: Any, names: frozenset[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = [(name, value.decode("latin-1")) for name, value in scope["headers"]]
            hosts = [value for name, value in headers if name == b"host"]
            origins = [value for name, value in headers if name == b"origin"]
            if len(hosts) != 1 or not self._is_trusted(hosts[0]):
                await _refuse(send, 421, b"Invalid Host header")
                return
            if not all(map(self._is_trusted_origin, origins)):
                await _refuse(send, 403, b"Invalid Origin header")
                return
        await self._app(scope, receive, send)

    def _is_trusted(self, host: str) -> bool:
        match = _HOST.fullmatch(host)
        if match is None or int(match[2] or 0) > 65_535:
            return False
        return match[1].lower() in self._names or host.lower() in self._names

    def _is_trusted_origin(self, origin: str) -> bool:
        scheme, separator, host = origin.partition("://")
        return bool(separator) and scheme.lower() in ("http", "https") and self._is_trusted(host)


async def _refuse(send: Any, status: int, reason: bytes) -> None:
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(reason)),
    ]
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [*headers, (b"connection", b"close")],
        }
    )
    await send({"type": "http.response.body", "body": reason})


def is_any_address(host: str) -> bool:
    """``0.0.0.0`` and ``::``, in whatever notation."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == ""


def _impatient_protocol() -> type[asyncio.Protocol]:
    """uvicorn's protocol, which by itself waits for ever for a request to come in whole, from any number of clients."""
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class ImpatientProtocol(H11Protocol):
        """Closes what takes too long to say what it wants; where there are too many, that which has waited longest."""

        _limit: asyncio.TimerHandle | None = None
        _last_byte_at = 0.0

        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(cast("asyncio.Transport", transport))
            self._last_byte_at = self.loop.time()
            self._begin()
            if len(self.connections) > MAX_CONNECTIONS:
                mine = [each for each in self.connections if isinstance(each, ImpatientProtocol)]
                waiting = [
                    each for each in mine if each._is_waiting() and not each.transport.is_closing()
                ]
                min(waiting, key=lambda each: each._last_byte_at).transport.abort()

        def data_received(self, data: bytes) -> None:
            self._last_byte_at = self.loop.time()
            super().data_received(data)
            if not self._is_waiting():
                self._end()
            elif self._limit is None:
                self._begin()

        def connection_lost(self, exc: Exception | None) -> None:
            self._end()
            super().connection_lost(exc)

        def _is_waiting(self) -> bool:
            """For a request, or for the rest of its headers or of its body."""
            cycle = self.cycle
            return cycle is None or cycle.response_complete or cycle.more_body

        def _begin(self) -> None:
            self._limit = self.loop.call_later(REQUEST_S, self._give_up)

        def _end(self) -> None:
            if self._limit is not None:
                self._limit.cancel()
                self._limit = None

        def _give_up(self) -> None:
            self._limit = None
            if self._is_waiting():
                self.transport.abort()

    return ImpatientProtocol


def listen(app: Any, request: ServeRequest) -> None:
    """Serve an ASGI application until it is told to stop. Says on standard error where.

    Raises:
        UsageError: the place is taken, or is none of this machine's.
    """
    import uvicorn

    family = socket.AF_INET6 if ":" in request.host else socket.AF_INET
    try:
        listening = socket.create_server((request.host, request.port), family=family, backlog=256)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        message = f"cannot listen on {request.host} port {request.port}: {reason}"
        raise UsageError(message, hint="choose another --port, or 0 for a free one") from error
    # With the protocol named asyncio sends small answers at once, instead of 40 ms later (Nagle's algorithm).
    listening = socket.socket(
        family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=listening.detach()
    )
    with closing(listening):
        host = f"[{request.host}]" if ":" in request.host else request.host
        sys.stderr.write(f"serving MCP on http://{host}:{listening.getsockname()[1]}{PATH}\n")
        sys.stderr.flush()
        config = uvicorn.Config(
            TrustedHosts(app, trusted_names(request)),
            http=_impatient_protocol(),
            ws="none",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        )
        uvicorn.Server(config).run(sockets=[listening])
