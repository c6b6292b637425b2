"""Turn an alignment path through cross-attention into word timestamps, clamped to speech."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..domain.transcript import Word
from ..speech.regions import Region
from .words import TokenSpan

ENCODER_FRAME_S = 0.02  # one encoder position: two mel frames of 10 ms
MIN_WORD_S = 0.02
MAX_WORD_S = 2.0  # longer words include silence
LETTER_S = 0.15  # slow speech, per letter
EDGE_S = 0.05  # accuracy of region edges; detector frames are 32 ms
TAIL_S = 0.05  # regions outlast their speech by this much (measured)
SNAP_S = 0.5  # attention is up to this late for the first word after a pause
MARKS = tuple(".!?,;:…。．｡！？、，；：؟،؛۔।")
MARK_SHARE = 0.7  # share of a mark's time that belongs to the next word
MAX_MARK_S = 0.6  # a longer mark contains a pause, or speech that was not decoded


def token_starts(path: Sequence[tuple[int, int]], n_tokens: int) -> NDArray[np.float64]:
    """Start of each token in seconds, from a monotonic path of (token, encoder frame) pairs:
    (n_tokens,).
    """
    pairs = np.asarray(path, dtype=np.int64).reshape(-1, 2)
    starts = np.full(n_tokens, np.iinfo(np.int64).max, dtype=np.int64)
    inside = pairs[:, 0] < n_tokens
    np.minimum.at(starts, pairs[inside, 0], pairs[inside, 1])
    last_frame = int(pairs[-1, 1]) if len(pairs) else 0
    return np.minimum(starts, last_frame) * ENCODER_FRAME_S


def time_words(
    spans: Sequence[TokenSpan],
    starts: NDArray[np.float64],
    probabilities: Sequence[float],
    offset: float,
) -> list[Word]:
    """Assign token times to words.

    Args:
        spans: words as runs of tokens.
        starts: (n_tokens + 1,) seconds in the window; the last entry is the end of the text.
        probabilities: one per token.
        offset: start of the window on the recording's clock.
    """
    # Indexing Python floats one by one is cheaper than indexing an array.
    at_s = np.asarray(starts, dtype=np.float64).tolist()
    for span in spans:
        # Punctuation is silent: the next word starts during it.
        if span.last - span.first > 1 and span.text.endswith(MARKS):
            mark_s = at_s[span.last] - at_s[span.last - 1]
            at_s[span.last] -= MARK_SHARE * mark_s if mark_s <= MAX_MARK_S else 0.0
    likely = np.asarray(probabilities, dtype=np.float64).tolist()
    words = []
    for span in spans:
        start = at_s[span.first]
        end = max(start, at_s[span.last])
        n_tokens = span.last - span.first
        probability = sum(likely[span.first : span.last]) / n_tokens if n_tokens else None
        words.append(Word(offset + start, offset + end, span.text, probability))
    return words


def clamp_to_speech(
    words: Sequence[Word], regions: Sequence[Region], lag_s: float = 0.0
) -> tuple[Word, ...]:
    """Move words into speech regions, in order, without overlap and without implausible lengths.

    Cross-attention assigns a pause to one of its neighbours, which then ends late or starts early.
    Onsets from voice detection are within 15 ms of the truth (median).

    Args:
        lag_s: constant delay of the attention.
    """
    if not regions:
        return tuple(words)
    edges = [region.start for region in regions]
    clamped: list[Word] = []
    floor = 0.0
    last_opened = -1
    for word in words:
        at = _region_of(word, regions, edges)
        region = regions[at]
        latest = max(region.start, region.end - MIN_WORD_S)
        start = min(max(word.start - lag_s, region.start), latest)
        end = min(word.end - lag_s, max(start, region.end - TAIL_S))
        if at != last_opened and start - region.start <= SNAP_S:
            start = region.start
        last_opened = at
        start = max(start, floor)
        longest = min(MAX_WORD_S, max(2, len(word.text.strip())) * LETTER_S + EDGE_S)
        floor = min(max(end, start + MIN_WORD_S), start + longest)
        unmoved = start == word.start and floor == word.end
        clamped.append(
            word if unmoved else Word(start, floor, word.text, word.probability, word.speaker)
        )
    return _without_overrun(clamped, regions[-1].end)


def _region_of(word: Word, regions: Sequence[Region], edges: Sequence[float]) -> int:
    """Index of the region where the word starts, or of the next one if it mostly lies there."""
    at = max(0, bisect_right(edges, word.start + EDGE_S) - 1)
    if (
        word.start > regions[at].end - EDGE_S
        and at + 1 < len(regions)
        and word.end > regions[at + 1].start
    ):
        return at + 1
    return at


def _without_overrun(words: list[Word], limit: float) -> tuple[Word, ...]:
    """Shift back words that piled up after the end of speech, so that the last one ends in it."""
    if not words:
        return ()
    least_s = min(MIN_WORD_S, max(0.0, limit - words[0].start) / len(words))
    ceiling = limit
    for i in range(len(words) - 1, -1, -1):
        word = words[i]
        if word.end <= ceiling:
            break
        start = max(0.0, min(word.start, ceiling - least_s))
        words[i] = Word(start, max(start, ceiling), word.text, word.probability, word.speaker)
        ceiling = start
    return tuple(words)
