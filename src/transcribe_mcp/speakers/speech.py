"""Frames -> speech -> segments of one speaker.

The segmentation network and the voice detector both find speech. The network is generous at the
edges of speech. The detector is strict, and misses much on a noisy telephone line. So where both
find speech they decide together, and elsewhere each decides alone. The detector's probabilities for
clear speech depend on the line, so they are compared with that level.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .segmentation import FRAME_S

HEARD = 0.25  # minimum probability of the segmentation network
DETECTED = 0.5  # the same for the voice detector
AGREED = 0.9  # minimum sum of both probabilities, where both find speech
ALONE = 0.5  # above this the segmentation network overrules the detector
ALONE_S = 0.5  # only for longer than this, if the detector finds the rest of the segment
PAUSE_S = 0.25  # a shorter pause does not end a segment of one speaker
TRUSTED = 0.5  # share of clear speech that the detector must find; otherwise it is ignored
CHANGED = 0.5  # probability of a change that cuts a segment

Mask = NDArray[np.bool_]
Array = NDArray[np.float32]


def spans_of(mask: Mask) -> list[tuple[int, int]]:
    """The runs of true values, as (first, end)."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def speech_of(speech: Array, detected: Array) -> Mask:
    """Which frames are speech.

    Args:
        speech: probabilities (n,) of the segmentation network.
        detected: probabilities (n,) of the voice detector.
    """
    is_speech = np.zeros(len(speech), np.bool_)
    for first, end in spans_of((speech >= HEARD) | (detected >= DETECTED)):
        own = speech[first:end]
        found = detected[first:end]
        if found.max() < DETECTED or _hears_little(own, found):
            is_speech[first:end] = True
            continue
        agreed = own + found / _sureness(own, found) >= AGREED
        for start, stop in spans_of(~agreed & (own >= ALONE)):
            if (stop - start) * FRAME_S > ALONE_S:
                agreed[start:stop] = True
        is_speech[first:end] = agreed
    return is_speech


def _hears_little(speech: Array, detected: Array) -> bool:
    """Whether the detector misses much clear speech, as on a noisy line."""
    is_sure = speech >= ALONE
    return bool(is_sure.any() and np.mean(detected[is_sure] >= DETECTED) < TRUSTED)


def _sureness(speech: Array, detected: Array) -> float:
    """The detector's typical probability for clear speech; 1 if there is none."""
    is_sure = speech >= ALONE
    return float(np.clip(np.median(detected[is_sure]), DETECTED, 1)) if is_sure.any() else 1.0


def joined(mask: Mask, pause_s: float = PAUSE_S) -> list[tuple[int, int]]:
    """The runs of true values, joined where the pause between two is at most ``pause_s``."""
    runs: list[tuple[int, int]] = []
    for first, end in spans_of(mask):
        if runs and (first - runs[-1][1]) * FRAME_S <= pause_s:
            runs[-1] = (runs[-1][0], end)
        else:
            runs.append((first, end))
    return runs


def segments_of(mask: Mask, change: Array) -> Iterator[tuple[int, int]]:
    """Segments of speech as (first, end), cut where the speaker may change.

    Args:
        mask: which frames are speech.
        change: probabilities of a change.
    """
    for first, end in joined(mask):
        cuts = first + 1 + np.flatnonzero(change[first + 1 : end] >= CHANGED)
        edges = [first, *cuts.tolist(), end]
        yield from itertools.pairwise(edges)
