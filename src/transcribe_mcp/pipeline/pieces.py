"""Parts of a window that are decoded separately."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..speech.regions import SAMPLE_RATE_HZ, Region, Window
from .quality_rules import speech_s

CONTEXT_S = 0.3  # around speech that is decoded separately
SHORTEST_PIECE_S = 0.5  # of speech; shorter pieces make Whisper models invent words
QUIET_FRAME_S = 0.04  # a window is cut in the quietest moment of this length


def piece_of(window: Window, gap: Sequence[Region]) -> Window:
    """The part of a window with a gap, and ``CONTEXT_S`` around it."""
    first = max(0, round((gap[0].start - CONTEXT_S - window.start) * SAMPLE_RATE_HZ))
    stop = round((gap[-1].end + CONTEXT_S - window.start) * SAMPLE_RATE_HZ)
    return Window(window.start + first / SAMPLE_RATE_HZ, window.samples[first:stop], tuple(gap))


def halves(window: Window, gap: Sequence[Region] = ()) -> tuple[Window, ...]:
    """Cut a window in two at the quietest moment of a gap, or near its middle without one.

    Empty if a half would have less than ``SHORTEST_PIECE_S`` of speech.
    """
    regions = gap or window.regions
    if not regions:
        return ()
    begin = regions[0].start
    end = regions[-1].end
    if not gap:
        third = (end - begin) / 3
        begin = begin + third
        end = end - third
    at = _quietest(window, begin, end)
    before = tuple(Region(r.start, min(r.end, at)) for r in window.regions if r.start < at)
    after = tuple(Region(max(r.start, at), r.end) for r in window.regions if r.end > at)
    if min(speech_s(before), speech_s(after)) < SHORTEST_PIECE_S:
        return ()
    n = round((at - window.start) * SAMPLE_RATE_HZ)
    middle = window.start + n / SAMPLE_RATE_HZ
    first = Window(window.start, window.samples[:n], before, window.known)
    return first, Window(middle, window.samples[n:], after)


def _quietest(window: Window, begin: float, end: float) -> float:
    """The middle of the quietest ``QUIET_FRAME_S`` between two times on the original clock."""
    size = round(QUIET_FRAME_S * SAMPLE_RATE_HZ)
    first = max(0, round((begin - window.start) * SAMPLE_RATE_HZ))
    samples = window.samples[first : round((end - window.start) * SAMPLE_RATE_HZ)]
    n = len(samples) // size
    if n == 0:
        return (begin + end) / 2
    power = np.square(samples[: n * size].reshape(n, size)).mean(axis=1)
    return window.start + (first + (int(power.argmin()) + 0.5) * size) / SAMPLE_RATE_HZ
