"""The words of an edited sentence, with times from its words before the edit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..domain.text_breaks import line_units
from ..domain.transcript import Word
from .edit_distance import align

MAX_COMPARED = 500_000  # pairs of words; takes 10 ms. Only absurd sentences have more


def word_texts(text: str, words: Sequence[Word], *, spaced: bool) -> list[str]:
    """Cut an edited text into words, where possible at the word boundaries before the edit.

    Args:
        text: without white space at its end. Joined, the result is this text.
        words: of the sentence before the edit.
        spaced: whether the language separates words by spaces.
    """
    if not spaced:
        return _unspaced(text, [word.text for word in words])
    chunks: list[list[str]] = []
    for word in words:
        if not chunks or word.text[:1].isspace():
            chunks.append([])
        chunks[-1].append(word.text)
    known = {"".join(chunk): chunk for chunk in chunks}
    return [part for chunk in _chunks(text) for part in known.get(chunk, [chunk])]


def retimed(
    words: Sequence[Word], texts: Sequence[str], span: tuple[float, float], speaker: str | None
) -> tuple[Word, ...]:
    """Times for the words of an edited sentence.

    Equal words keep time and probability. A run of other words shares the time of the words that it
    replaces, by characters; inserted words share the gap between their neighbours. Each new word
    lasts at least 1 ms where the sentence is long enough; neighbours without a gap give it.

    Args:
        words: of the sentence before the edit.
        texts: of its words now.
        span: start and end of the sentence in seconds.
        speaker: of new words.
    """
    low = round(1000 * span[0])
    high = round(1000 * span[1])
    kept = _kept([word.text for word in words], texts)
    spans = _spans(words, texts, kept, (low, high))
    _settle(spans, low, high)
    return tuple(
        _word(words[kept[number]] if number in kept else Word(0, 0, text, None, speaker), span)
        for number, (text, span) in enumerate(zip(texts, spans, strict=True))
    )


def _kept(before: Sequence[str], after: Sequence[str]) -> dict[int, int]:
    """Indices of the kept words: now -> before."""
    head = 0
    tail = 0
    shorter = min(len(before), len(after))
    if len(before) * len(after) > MAX_COMPARED:  # first equal words at both ends
        while head < shorter and before[head] == after[head]:
            head += 1
        while tail < shorter - head and before[-1 - tail] == after[-1 - tail]:
            tail += 1
    kept = {number: number for number in range(head)}
    inner_before = before[head : len(before) - tail]
    inner_after = after[head : len(after) - tail]
    if len(inner_before) * len(inner_after) <= MAX_COMPARED:
        for old, new in align(inner_before, inner_after):
            if old is not None and new is not None and inner_before[old] == inner_after[new]:
                kept[head + new] = head + old
    for back in range(tail, 0, -1):
        kept[len(after) - back] = len(before) - back
    return kept


@dataclass(slots=True)
class _Span:
    """Milliseconds; ``least`` is the least length."""

    start: int
    end: int
    least: int


def _spans(
    words: Sequence[Word], texts: Sequence[str], kept: dict[int, int], bounds: tuple[int, int]
) -> list[_Span]:
    """The spans of kept words, and of the others as if there were always a gap for them."""
    spans: list[_Span] = []
    last = -1  # index of the previous kept word in ``words``
    for new, old in [*kept.items(), (len(texts), len(words))]:
        run = texts[len(spans) : new]
        replaced = words[last + 1 : old]
        begin = bounds[0] if last < 0 else round(1000 * words[last].end)
        end = bounds[1] if old == len(words) else round(1000 * words[old].start)
        if replaced:
            begin = round(1000 * replaced[0].start)
            end = round(1000 * replaced[-1].end)
        spans += _shared(run, begin, max(begin, end))
        if old < len(words):
            word = words[old]
            spans.append(_Span(round(1000 * word.start), round(1000 * word.end), 0))
        last = old
    return spans


def _shared(texts: Sequence[str], begin: int, end: int) -> list[_Span]:
    weights = [max(1, len(text.strip())) for text in texts]
    total = sum(weights)
    spans = []
    done = 0
    for weight in weights:
        start = begin + (end - begin) * done // total
        done += weight
        spans.append(_Span(start, begin + (end - begin) * done // total, 1))
    return spans


def _settle(spans: Sequence[_Span], low: int, high: int) -> None:
    """Move spans so that they are in order, inside the bounds, and long enough if there is room."""
    is_roomy = sum(span.least for span in spans) <= high - low
    end = low
    for span in spans:
        span.least = span.least if is_roomy else 0
        span.start = max(span.start, end)
        span.end = end = max(span.end, span.start + span.least)
    start = high
    for span in reversed(spans):
        span.end = min(span.end, start)
        span.start = start = min(span.start, span.end - span.least)


def _word(word: Word, span: _Span) -> Word:
    if (round(1000 * word.start), round(1000 * word.end)) == (span.start, span.end):
        return word
    return Word(span.start / 1000, span.end / 1000, word.text, word.probability, word.speaker)


def _unspaced(text: str, words: Sequence[str]) -> list[str]:
    """Words before and after the edit stay; the text between is cut at possible line breaks."""
    first = 0
    begin = 0
    while first < len(words) and text.startswith(words[first], begin):
        begin += len(words[first])
        first += 1
    last = len(words)
    end = len(text)
    while last > first and end - len(words[last - 1]) >= begin:
        if not text.endswith(words[last - 1], begin, end):
            break
        last -= 1
        end -= len(words[last])
    middle = [unit for chunk in _chunks(text[begin:end]) for unit in _units(chunk)]
    return [*words[:first], *middle, *words[last:]]


def _chunks(text: str) -> list[str]:
    """Parts that begin with white space, as words of spaced languages do."""
    return re.findall(r"\s*\S+|\s+$", text)


def _units(chunk: str) -> list[str]:
    bare = chunk.lstrip()
    units = line_units(bare) if bare else [""]
    return [chunk[: len(chunk) - len(bare)] + units[0], *units[1:]]
