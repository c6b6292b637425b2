"""What every format needs of a transcript: clean text, who says it, and how wide it is on a screen."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby, pairwise

from ..transcript import Segment, Transcript, Word

OPENERS = "([{“‘„‚«‹「『【（《〈¿¡"
CLOSERS = ")]}”’»›」』】）》〉,.;:!?…、。，．；：！？"


@dataclass(frozen=True, slots=True)
class Utterance:
    """A segment, or the part of one that one speaker says. ``text`` is one clean line, never empty."""

    start: float
    end: float
    text: str
    speaker: str | None
    words: tuple[Word, ...]


def utterances(transcript: Transcript) -> Iterator[Utterance]:
    """What is said, in order; segments are cut where the speaker changes, empty ones are left out."""
    for segment in transcript.segments:
        for utterance in _by_speaker(segment):
            if utterance.text:
                yield utterance


def _by_speaker(segment: Segment) -> Iterator[Utterance]:
    speakers: list[str | None] = []
    for word in segment.words:  # a word nobody was found for goes with the words before it
        speakers.append(word.speaker or (speakers[-1] if speakers else segment.speaker))
    if len(set(speakers)) <= 1:
        speaker = speakers[0] if speakers else segment.speaker
        text = clean(segment.text) or clean("".join(word.text for word in segment.words))
        yield Utterance(segment.start, segment.end, text, _name(speaker), segment.words)
        return
    for speaker, group in groupby(zip(speakers, segment.words, strict=True), key=lambda pair: pair[0]):
        words = tuple(word for _, word in group)
        text = clean("".join(word.text for word in words))
        yield Utterance(words[0].start, words[-1].end, text, _name(speaker), words)


def _name(speaker: str | None) -> str | None:
    return (clean(speaker) or None) if speaker else None


def clean(text: str) -> str:
    """The text as one line: no line breaks, tabs, runs of spaces or control characters."""
    line = " ".join(text.split())
    if line.isprintable():
        return line
    kept = "".join(char for char in text if char.isspace() or unicodedata.category(char) != "Cc")
    return " ".join(kept.split())


def columns(text: str) -> int:
    """Width on a screen: East Asian wide characters take two columns, combining and invisible ones none."""
    return len(text) if text.isascii() else sum(map(_char_columns, text))


@lru_cache(maxsize=4096)
def _char_columns(char: str) -> int:
    if unicodedata.category(char) in ("Mn", "Me", "Cf"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


def pieces(word: Word, max_columns: int, *, split_wide: bool = False) -> list[Word]:
    """Cut a word where it holds spaces, and where it is wider than a line; times are shared by width.

    Args:
        word: any text; what is left of it keeps its leading space; a blank one has no pieces.
        max_columns: no piece is wider.
        split_wide: also cut between East Asian characters, which may stand in different lines.
    """
    text = clean(word.text)
    lead = " " if word.text[:1].isspace() else ""
    texts: list[str] = []
    for part in text.split():
        units = _units(part) if split_wide or columns(part) > max_columns else [part]
        chunks = [chunk for unit in units for chunk in _chunks(unit, max_columns)]
        texts += [(" " if texts else lead) + chunks[0], *chunks[1:]]
    if not texts:
        return []
    if len(texts) == 1:
        return [Word(word.start, word.end, texts[0], word.probability, word.speaker)]
    weights = [max(1, columns(piece.strip())) for piece in texts]
    seconds_per_weight = (word.end - word.start) / sum(weights)
    edges = [word.start]
    for weight in weights:
        edges.append(min(word.end, edges[-1] + weight * seconds_per_weight))
    spans = zip(pairwise(edges), texts, strict=True)
    return [Word(start, end, piece, word.probability, word.speaker) for (start, end), piece in spans]


def _units(text: str) -> list[str]:
    """Runs of text that a line break may part: East Asian characters one by one, closing marks with what they close."""
    units: list[str] = []
    for char in text:
        joins = bool(units) and (
            char in CLOSERS
            or _char_columns(char) == 0
            or units[-1][-1] in OPENERS
            or not (parts_freely(char) or parts_freely(units[-1][-1]))
        )
        if joins:
            units[-1] += char
        else:
            units.append(char)
    return units


def parts_freely(char: str) -> bool:
    """Chinese and Japanese characters; Korean ones are as wide, but Korean writes spaces between words."""
    return _char_columns(char) == 2 and not unicodedata.name(char, "").startswith("HANGUL")


def _chunks(text: str, max_columns: int) -> list[str]:
    if columns(text) <= max_columns:
        return [text]
    chunks, width = [""], 0
    for char in text:
        width += _char_columns(char)
        if width > max_columns and chunks[-1]:
            chunks.append("")
            width = _char_columns(char)
        chunks[-1] += char
    return chunks


def clock(time_ms: int, mark: str) -> str:
    """Milliseconds as ``HH:MM:SS<mark>mmm``."""
    seconds, ms = divmod(time_ms, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{mark}{ms:03d}"
