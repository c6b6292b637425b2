"""What a server is started with: options become settings, which the worker that it starts inherits."""

from __future__ import annotations

import os
from collections.abc import Mapping

from ..errors import UsageError

SHORTEST_TOKEN = 16  # characters; 64 bits in hexadecimal, more than can be tried over a network
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_TOKEN_HINT = "set TRANSCRIBE_MCP_TOKEN, for example to the output of: openssl rand -hex 32"


def configure(options: Mapping[str, str | None]) -> None:
    """Let options of the command line win over the environment, by the names of the settings; ``None`` is not given.

    Raises:
        UsageError: a value that the setting cannot have.
    """
    from ..settings import settings

    for name, value in options.items():
        if value is not None:
            os.environ[f"TRANSCRIBE_MCP_{name.upper()}"] = value
    settings.cache_clear()
    settings()


def take_token(host: str) -> str:
    """The bearer token of HTTP clients, or nothing. It leaves the environment, so that no child inherits it.

    Raises:
        UsageError: other machines could reach ``host`` and there is no token, or one that can be guessed or not sent.
    """
    from ..settings import settings

    token = settings().token.get_secret_value()
    os.environ.pop("TRANSCRIBE_MCP_TOKEN", None)
    if not token and host not in LOOPBACK:
        message = f"other machines could reach {host} and no token is set"
        raise UsageError(message, hint=f"{_TOKEN_HINT}; or serve on 127.0.0.1")
    if token and (
        len(token) < SHORTEST_TOKEN
        or not token.isascii()
        or not token.isprintable()
        or " " in token
    ):
        message = f"the token is shorter than {SHORTEST_TOKEN} characters or holds some that no header can carry"
        raise UsageError(message, hint=_TOKEN_HINT)
    return token
