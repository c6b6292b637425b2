"""Logins of browsers to the page. They end with the server."""

from __future__ import annotations

import hmac
import secrets
from collections import deque

MAX_SESSIONS = 1_000  # beyond this number the oldest ends


class Sessions:
    """
    Args:
        token: opens a session; if empty, one is generated, so that other users of this machine
            cannot read the transcripts.

    Attributes:
        token: the server's token, or the generated one.
    """

    def __init__(self, token: str = "") -> None:
        self.token = token or secrets.token_urlsafe(24)
        self._open: deque[str] = deque(maxlen=MAX_SESSIONS)

    def begin(self, token: str) -> str | None:
        """The value of the cookie of a new session; ``None`` for a wrong token."""
        given = token.encode("utf-8", "surrogatepass")  # JSON can contain half a character
        if not hmac.compare_digest(given, self.token.encode()):
            return None
        self._open.append(secrets.token_urlsafe(24))
        return self._open[-1]

    def has(self, value: str) -> bool:
        return any(hmac.compare_digest(value.encode(), each.encode()) for each in self._open)
