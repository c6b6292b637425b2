"""Listening for HTTP clients: where, and whom."""

from __future__ import annotations

import ipaddress
import socket
import sys
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from ..service.serving import LOOPBACK

GRACE_S = 3  # for answers under way when the server is stopped
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


def trusted_hosts(request: ServeRequest) -> tuple[list[str], list[str]]:
    """What may stand in the headers Host and Origin, with any port or none.

    A browser that was led here by a name of somebody else's sends that name: it is refused.
    """
    names = ["127.0.0.1", "localhost", "[::1]", *request.allowed_hosts]
    if request.host not in LOOPBACK and not is_any_address(request.host):
        names.append(f"[{request.host}]" if ":" in request.host else request.host)
    if is_any_address(request.host):
        names.append(socket.gethostname())
    hosts = [entry for name in dict.fromkeys(names) for entry in (name, f"{name}:*")]
    return hosts, [f"{scheme}://{host}" for scheme in ("http", "https") for host in hosts]


def is_any_address(host: str) -> bool:
    """``0.0.0.0`` and ``::``, in whatever notation."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == ""


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
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=listening.detach())
    with closing(listening):
        host = f"[{request.host}]" if ":" in request.host else request.host
        sys.stderr.write(f"serving MCP on http://{host}:{listening.getsockname()[1]}{PATH}\n")
        sys.stderr.flush()
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=GRACE_S)
        uvicorn.Server(config).run(sockets=[listening])
