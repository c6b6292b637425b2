"""An HTTP host for any ASGI application: its address and its limits."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

from ..errors import UsageError

if TYPE_CHECKING:
    import asyncio

GRACE_S = 3  # for responses in progress when the server stops


@dataclass(frozen=True, slots=True)
class Pages:
    """Whether there is a page for browsers, and whether a browser shows it at once."""

    is_served: bool = True
    is_opened: bool = False


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen.

    Attributes:
        port: 0 picks a free one.
        allowed_hosts: further names that clients use for this machine.
        allowed_origins: of pages elsewhere that may use the API, such as ``app://obsidian.md``.
        pages: for browsers.

    Raises:
        UsageError: an allowed origin is invalid.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    allowed_hosts: tuple[str, ...] = ()
    allowed_origins: tuple[str, ...] = ()
    pages: Pages = Pages()

    def __post_init__(self) -> None:
        for origin in self.allowed_origins:
            scheme, separator, rest = origin.partition("://")
            if not (scheme and separator and rest) or "/" in rest:
                raise UsageError(
                    f"the allowed origin {origin!r} is not an origin",
                    hint="give scheme://host or scheme://host:port, as the browser sends it",
                )


def bracketed(host: str) -> str:
    """A host as in URLs: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host


def _websockets() -> type[asyncio.Protocol] | None:
    """The protocol for WebSockets, imported by the first; ``None`` without its library."""
    if find_spec("websockets") is None:
        return None

    def make(*arguments: Any, **named: Any) -> asyncio.Protocol:
        from .websocket_protocol import WebSocketProtocol

        return WebSocketProtocol(*arguments, **named)

    return cast("type[asyncio.Protocol]", make)


def listen(app: Any, address: Address, on_ready: Callable[[str], None]) -> None:
    """Serve an ASGI application until a signal stops it.

    Args:
        on_ready: called with the URL once clients can connect.

    Raises:
        UsageError: the port is taken, or the address does not belong to this machine.
    """
    import uvicorn

    from .limited_protocol import MAX_HEADER_BYTES, LimitedProtocol
    from .stoppable_server import StoppableServer

    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        bound = socket.create_server((address.host, address.port), family=family, backlog=256)
    except (OSError, OverflowError) as error:
        errno = getattr(error, "errno", None)  # strerror repeats the address
        reason = os.strerror(errno) if errno else str(error)
        raise UsageError(
            f"cannot listen on {address.host} port {address.port}: {reason}",
            hint="choose another --port, or 0 for a free one",
        ) from error
    # asyncio turns off Nagle's algorithm only for sockets with this protocol. With it, small
    # answers are 40 ms late.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, fileno=bound.detach())
    with closing(bound):
        url = f"http://{bracketed(address.host)}:{bound.getsockname()[1]}"
        on_ready(url)
        config = uvicorn.Config(
            app,
            http=LimitedProtocol,
            ws=_websockets() or "none",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=2 * GRACE_S,  # for what cannot be cancelled
            h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        )
        StoppableServer(config, GRACE_S).run(sockets=[bound])
