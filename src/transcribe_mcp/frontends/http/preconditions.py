"""The transcript revision of a request."""

from __future__ import annotations

import re

from starlette.requests import Request

from ...errors import UsageError

MAX_DIGITS = 9
_TAG = re.compile(r'(?:W/)?"r([0-9]{1,9})"')


def if_match(request: Request) -> int | None:
    """The revision of the header ``If-Match``; ``None`` without it.

    Raises:
        UsageError: it is not a tag of this server.
    """
    given = request.headers.get("if-match")
    if given is None:
        return None
    match = _TAG.fullmatch(given.strip())
    if match is None:
        hint = 'send the ETag of the transcript with its quotes, such as If-Match: "r3"'
        message = f"the header If-Match is {given[:40]}, which is not the ETag of a transcript"
        raise UsageError(message, hint=hint)
    return int(match[1])


def number_of(text: str) -> int:
    """
    Raises:
        UsageError: it is not the number of a revision.
    """
    if not (text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS):
        hint = "give a number such as 3; 0 is the original"
        raise UsageError(f"the revision is {text[:40]!r}", hint=hint)
    return int(text)
