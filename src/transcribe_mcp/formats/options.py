"""What a caller may choose about a format."""

from __future__ import annotations

from dataclasses import dataclass

from .subtitles import SubtitleRules

DEFAULT_RULES = SubtitleRules()


@dataclass(frozen=True, slots=True)
class FormatOptions:
    """One record for every format; each reads what it knows."""

    subtitles: SubtitleRules = DEFAULT_RULES  # srt, vtt
    highlight_words: bool = (
        False  # vtt: a time stamp before every word, for players that show the word being said
    )
    note: bool = False  # vtt: a comment that names engine, model and device
