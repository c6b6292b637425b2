"""A transcript in pages that fit a model's context, and the cursors that lead from one to the next.

A page of text is a slice of the rendered transcript that ends between lines, words or grapheme
clusters; joined, the pages are the whole. A cursor holds the start of the next page and a digest of
the view, and is refused in other views.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...domain.text_breaks import head
from ...errors import UsageError
from ...service.formats import render
from ...service.models import Segment, Transcript

MIN_CHARS = 200
MAX_CHARS = 100_000
DEFAULT_CHARS = 12_000
SEGMENT_CHARS = 60  # for the other fields of a segment

_CURSOR = re.compile(r"([0-9]{1,10})-([0-9a-f]{8})-([0-9]{0,9})")


@dataclass(frozen=True, slots=True)
class View:
    """A transcript in a format (``segments`` for times and texts), or a time range of it.

    ``revision``: 0 is the original, before people edited it; ``None`` the newest.
    """

    job_id: str
    form: str
    start_s: float | None = None
    end_s: float | None = None
    revision: int | None = None

    def __post_init__(self) -> None:
        if self.start_s is not None and self.end_s is not None and self.end_s <= self.start_s:
            raise UsageError(
                f"the range ends at {self.end_s:g} s and starts at {self.start_s:g} s",
                hint="give end_s above start_s, or leave one out",
            )

    def continued(self, cursor: str) -> View:
        """The revision of the cursor's page, so that an edit between pages loses no text."""
        match = _CURSOR.fullmatch(_decoded(cursor))
        return replace(self, revision=int(match[3])) if match and match[3] else self

    def text(self, transcript: Transcript) -> str:
        """
        Raises:
            UnknownNameError: no such format.
        """
        return render(self.of(transcript), self.form)

    def of(self, transcript: Transcript) -> Transcript:
        """The segments that overlap the time range."""
        if self.start_s is None and self.end_s is None:
            return transcript
        start = self.start_s or 0.0
        end = float("inf") if self.end_s is None else self.end_s
        return replace(
            transcript,
            segments=tuple(s for s in transcript.segments if s.end > start and s.start < end),
        )


def cursor_to(view: View, position: int) -> str:
    revision = "" if view.revision is None else view.revision
    text = f"{position}-{_digest(view)}-{revision}"
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def position_of(view: View, cursor: str | None) -> int:
    """The start of a page: an index of a character or of a segment.

    Raises:
        UsageError: not our cursor, or one of another view.
    """
    if not cursor:
        return 0
    hint = (
        "give next_cursor of the page before, with the same job_id, format and times; "
        "or start without a cursor"
    )
    match = _CURSOR.fullmatch(_decoded(cursor))
    if match is None or match[2] != _digest(view):
        raise UsageError(
            "the cursor belongs to another view" if match else "the cursor is not from this server",
            hint=hint,
        )
    return int(match[1])


def _decoded(cursor: str) -> str:
    """Empty if it is not from this server."""
    padded = cursor + "=" * (-len(cursor) % 4)
    try:
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode("ascii")
    except (binascii.Error, ValueError):
        return ""


def text_page(text: str, view: View, cursor: str | None, max_chars: int) -> tuple[str, str | None]:
    """A page of the rendered text and the cursor of the next.

    Raises:
        UsageError: see ``position_of``.
    """
    begin = position_of(view, cursor)
    end = min(begin + max_chars, len(text))
    if end < len(text):
        end = _break_before(text, begin, end)
    return text[begin:end], cursor_to(view, end) if end < len(text) else None


def segment_page(
    transcript: Transcript, view: View, cursor: str | None, max_chars: int
) -> tuple[Sequence[Segment], str | None]:
    """At least one segment, ``max_chars`` characters at most; and the next page's cursor."""
    first = position_of(view, cursor)
    segments = view.of(transcript).segments
    left = max_chars
    number = first
    while number < len(segments) and (
        number == first or len(segments[number].text) + SEGMENT_CHARS <= left
    ):
        left -= len(segments[number].text) + SEGMENT_CHARS
        number += 1
    return segments[first:number], cursor_to(view, number) if number < len(segments) else None


def _break_before(text: str, begin: int, end: int) -> int:
    """The last break in the second half: a blank line, a line, a word; else a line break."""
    for separator in ("\n\n", "\n", " "):
        found = text.rfind(separator, begin + (end - begin) // 2, end)
        if found > 0:
            return found + len(separator)
    return begin + len(head(text[begin:], end - begin))


def _digest(view: View) -> str:
    """Of the view in any revision."""
    text = repr(replace(view, revision=None))
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()[:8]
