"""Shared by all formats: clean text, speakers, and words cut to the width of a line."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

from ..domain.text_breaks import clusters, columns, line_units
from ..domain.transcript import Segment, Transcript, Word


@dataclass(frozen=True, slots=True)
class Utterance:
    """A segment, or one speaker's part of it. ``text`` is one clean line, never empty."""

    start: float
    end: float
    text: str
    speaker: str | None
    words: tuple[Word, ...]


def utterances(transcript: Transcript) -> Iterator[Utterance]:
    """Utterances in order: segments, cut where the speaker changes, without empty ones."""
    for segment in transcript.segments:
        for utterance in _by_speaker(segment):
            if utterance.text:
                yield utterance


def _by_speaker(segment: Segment) -> Iterator[Utterance]:
    speakers: list[str | None] = []
    for word in segment.words:  # a word without a speaker joins the words before it
        speakers.append(word.speaker or (speakers[-1] if speakers else segment.speaker))
    if len(set(speakers)) <= 1:
        speaker = speakers[0] if speakers else segment.speaker
        text = clean(segment.text) or clean("".join(word.text for word in segment.words))
        yield Utterance(segment.start, segment.end, text, _name(speaker), segment.words)
        return
    for speaker, group in groupby(
        zip(speakers, segment.words, strict=True), key=lambda pair: pair[0]
    ):
        words = tuple(word for _, word in group)
        text = clean("".join(word.text for word in words))
        yield Utterance(words[0].start, words[-1].end, text, _name(speaker), words)


def _name(speaker: str | None) -> str | None:
    return (clean(speaker) or None) if speaker else None


def clean(text: str) -> str:
    """The text as one line, without control characters, tabs or runs of spaces."""
    line = " ".join(text.split())
    if line.isprintable():
        return line
    kept = "".join(char for char in text if char.isspace() or unicodedata.category(char) != "Cc")
    return " ".join(kept.split())


def pieces(word: Word, max_columns: int, *, split_wide: bool = False) -> list[Word]:
    """Cut a word at spaces and at the line width; times are shared by width.

    Args:
        word: any text; the first piece keeps a leading space, and blank words give no pieces.
        max_columns: limit for each piece, except for a single wider grapheme cluster.
        split_wide: also cut at other line breaks, such as between East Asian characters.
    """
    text = clean(word.text)
    lead = " " if word.text[:1].isspace() else ""
    texts: list[str] = []
    for part in text.split():
        units = line_units(part) if split_wide or columns(part) > max_columns else [part]
        chunks = [chunk for unit in units for chunk in _chunks(unit, max_columns)]
        texts += [(" " if texts else lead) + chunks[0], *chunks[1:]]
    if not texts:
        return []
    if len(texts) == 1:
        return [replace(word, text=texts[0])]
    weights = [max(1, columns(piece.strip())) for piece in texts]
    seconds_per_weight = (word.end - word.start) / sum(weights)
    edges = [word.start]
    for weight in weights:
        edges.append(min(word.end, edges[-1] + weight * seconds_per_weight))
    spans = zip(pairwise(edges), texts, strict=True)
    return [replace(word, start=start, end=end, text=piece) for (start, end), piece in spans]


def parts_freely(char: str) -> bool:
    """Whether a line can break around the character: Chinese and Japanese, but not Korean, which
    has spaces.
    """
    return columns(char) == 2 and not unicodedata.name(char, "").startswith("HANGUL")


def _chunks(text: str, max_columns: int) -> list[str]:
    if columns(text) <= max_columns:
        return [text]
    chunks = [""]
    width = 0
    for cluster in clusters(text):
        width += columns(cluster)
        if width > max_columns and chunks[-1]:
            chunks.append("")
            width = columns(cluster)
        chunks[-1] += cluster
    return chunks


def turns_apart(transcript: Transcript) -> list[Transcript]:
    """The transcript, or one per turn if any overlap: each lasts until the next begins, or
    longer.
    """
    if all(before.end <= after.start for before, after in pairwise(transcript.segments)):
        return [transcript]
    turns = [
        tuple(group)
        for _, group in groupby(transcript.segments, key=lambda segment: segment.speaker)
    ]
    starts = [*(turn[0].start for turn in turns[1:]), transcript.duration]
    return [
        replace(
            transcript, segments=turn, duration=min(transcript.duration, max(turn[-1].end, start))
        )
        for turn, start in zip(turns, starts, strict=True)
    ]


def clock(time_ms: int, mark: str) -> str:
    """Milliseconds as ``HH:MM:SS<mark>mmm``."""
    seconds, ms = divmod(time_ms, 1000)
    return f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}{mark}{ms:03d}"
