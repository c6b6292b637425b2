"""Move boundaries between words towards the quietest moment nearby.

Cross-attention finds a boundary within about 50 ms. Speech is often quieter between words, but not
always. So half way is more accurate than either (docs/accuracy.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ..domain.transcript import Word
from ..speech.regions import SAMPLE_RATE_HZ

HOP_S = 0.005
LEVEL_HOPS = 4  # the level is averaged over 20 ms
REACH_HOPS = 16  # 80 ms to each side
DIP_DB = 4.0  # smaller dips are ignored
SHARE = 0.5  # of the way to the quietest moment
TOUCHING_S = 0.03  # words further apart share no border
MIN_WORD_S = 0.03  # minimum duration of a word after the move

_AROUND = np.arange(-REACH_HOPS, REACH_HOPS + 1)


def at_quiet_moments(
    words: Sequence[Word], samples: NDArray[np.float32], offset: float
) -> tuple[Word, ...]:
    """Move the common borders of words; order and gaps stay.

    Args:
        samples: (n,) at 16 kHz, the audio of the words.
        offset: start of ``samples`` on the words' clock, in seconds.
    """
    levels = _levels(samples)
    if len(words) < 2 or not len(levels):
        return tuple(words)
    starts, ends = (np.array([getattr(word, name) for word in words]) for name in ("start", "end"))
    at = starts[1:]
    first = np.ceil(
        (np.maximum(starts[:-1] + MIN_WORD_S, at - REACH_HOPS * HOP_S) - offset) / HOP_S
    )
    last = np.floor((np.minimum(ends[1:] - MIN_WORD_S, at + REACH_HOPS * HOP_S) - offset) / HOP_S)
    now = np.rint((at - offset) / HOP_S).astype(np.int64)
    near = now[:, None] + _AROUND
    is_near = (near >= np.maximum(first, 0)[:, None]) & (
        near <= np.minimum(last, len(levels) - 1)[:, None]
    )
    found = np.where(is_near, levels[near.clip(0, len(levels) - 1)], np.inf)
    place = found.argmin(axis=1)
    rows = np.arange(len(at))
    dip_db = levels[now.clip(0, len(levels) - 1)] - found[rows, place]
    moves = (at - ends[:-1] < TOUCHING_S) & (dip_db > DIP_DB)
    quietest = offset + near[rows, place] * HOP_S
    # Transcripts hold milliseconds.
    moved = np.where(moves, np.round(at + SHARE * (quietest - at), 3), at)
    common = ends[:-1] == at
    starts[1:] = moved
    ends[:-1] = np.where(common, moved, np.minimum(ends[:-1], moved))
    return tuple(
        Word(start, end, word.text, word.probability, word.speaker)
        for word, start, end in zip(words, starts.tolist(), ends.tolist(), strict=True)
    )


def _levels(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """(n_hops,) level in dB around the start of every hop."""
    size = round(HOP_S * SAMPLE_RATE_HZ)
    n = len(samples) // size
    hops = samples[: n * size].reshape(n, size)
    power = np.einsum("ij,ij->i", hops, hops)
    padded = np.pad(power, LEVEL_HOPS // 2)
    around = sum(padded[i : i + n] for i in range(LEVEL_HOPS)) / (LEVEL_HOPS * size)
    levels: NDArray[np.float32] = 10 * np.log10(around + np.float32(1e-8))
    return levels
