"""An HTTP host for any ASGI application: address, trusted hosts, token, limits."""

from __future__ import annotations

import hmac
import ipaddress
import re
import socket
import sys
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from ..errors import UsageError
from ..service.server_settings import LOOPBACK

GRACE_S = 3  # for answers under way when the server stops
MAX_PORT = 65_535
_HOST = re.compile(r"([a-z0-9_.-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen.

    Attributes:
        port: 0 takes a free one.
        allowed_hosts: further names that clients use for this machine.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    allowed_hosts: tuple[str, ...] = ()


def same_token(given: str, token: str) -> bool:
    """Compare in constant time, so that the duration reveals nothing about the token."""
    return hmac.compare_digest(given.encode(), token.encode())


def trusted_names(address: Address) -> frozenset[str]:
    """The host names that the headers Host and Origin may have, with any port or none."""
    names = {"127.0.0.1", "localhost", "[::1]", *address.allowed_hosts}
    if _is_any_address(address.host):
        names.add(socket.gethostname())
    elif address.host not in LOOPBACK:
        names.add(_bracketed(address.host))
    return frozenset(name.lower() for name in names)


def _is_any_address(host: str) -> bool:
    """``0.0.0.0`` and ``::``, in any notation."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return host == ""


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class TrustedHosts:
    """Serves requests to trusted names only, on every route.

    This stops DNS rebinding, where a page of another site reaches this server by a name of that
    site.
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
        if match is None or int(match[2] or 0) > MAX_PORT:
            return False
        return match[1].lower() in self._names or host.lower() in self._names

    def _is_trusted_origin(self, origin: str) -> bool:
        scheme, separator, host = origin.partition("://")
        return bool(separator) and scheme.lower() in ("http", "https") and self._is_trusted(host)


async def _refuse(send: Any, status: int, reason: bytes) -> None:
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", b"%d" % len(reason)),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": reason})


def listen(app: Any, address: Address, service: str, path: str) -> None:
    """Serve an ASGI application until a signal stops it. Prints its URL on standard error.

    Args:
        service: name in that line.
        path: of the URL in that line.

    Raises:
        UsageError: the port is taken, or the address is not of this machine.
    """
    import uvicorn

    from .limited_protocol import MAX_HEADER_BYTES, LimitedProtocol

    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        bound = socket.create_server((address.host, address.port), family=family, backlog=256)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UsageError(
            f"cannot listen on {address.host} port {address.port}: {reason}",
            hint="choose another --port, or 0 for a free one",
        ) from error
    # asyncio turns off Nagle's algorithm only for sockets with this protocol. With it, small
    # answers are 40 ms late.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=bound.detach())
    with closing(bound):
        url = f"http://{_bracketed(address.host)}:{bound.getsockname()[1]}{path}"
        sys.stderr.write(f"serving {service} on {url}\n")
        sys.stderr.flush()
        config = uvicorn.Config(
            TrustedHosts(app, trusted_names(address)),
            http=LimitedProtocol,
            ws="none",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=GRACE_S,
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        )
        uvicorn.Server(config).run(sockets=[bound])
