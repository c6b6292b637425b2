"""Command-line options of a server become settings, which its workers inherit."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..errors import UsageError

MIN_TOKEN_CHARS = 16  # characters; 64 bits in hexadecimal, more than can be tried over a network
LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})

_TOKEN_HINT = "set TRANSCRIBE_MCP_TOKEN, for example to the output of: openssl rand -hex 32"


def configure(options: Mapping[str, str | None]) -> None:
    """Set settings by name from command-line options; ``None`` leaves one as it is.

    Raises:
        UsageError: an invalid value.
    """
    from ..settings import PREFIX, Settings, settings

    given = {name: value for name, value in options.items() if value is not None}
    Settings(**given)
    for name, value in given.items():
        os.environ[f"{PREFIX}{name.upper()}"] = value
    settings.cache_clear()


def data_dir() -> Path:
    """The directory for jobs and transcripts."""
    from ..settings import settings

    return settings().data_dir


def model_aliases() -> dict[str, str]:
    """Name that HTTP clients use -> model."""
    from ..settings import settings

    return settings().models_by_alias


def may_download_models() -> bool:
    """Whether HTTP clients may name models that are not on this machine."""
    from ..settings import settings

    return settings().allow_model_download


def take_token(host: str) -> str:
    """The bearer token of HTTP clients, or "". Child processes do not inherit it.

    Raises:
        UsageError: the token is too short or not printable ASCII, or ``host`` is public and no
            token is set.
    """
    from ..settings import settings

    token = settings().token
    os.environ.pop("TRANSCRIBE_MCP_TOKEN", None)
    if not token and host not in LOOPBACK:
        raise UsageError(
            f"other machines can reach {host}, and no token is set",
            hint=f"{_TOKEN_HINT}; or serve on 127.0.0.1",
        )
    if token and (
        len(token) < MIN_TOKEN_CHARS
        or not token.isascii()
        or not token.isprintable()
        or " " in token
    ):
        raise UsageError(
            f"the token has fewer than {MIN_TOKEN_CHARS} characters or not only printable ASCII",
            hint=_TOKEN_HINT,
        )
    return token
