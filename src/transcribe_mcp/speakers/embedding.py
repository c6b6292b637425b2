"""Segments of speech -> windows of 1.5 s -> an embedding of the voice in each.

Windows lie end to end. Where two neighbours differ, the speaker may change, and a window between
them tells where. That halves the work of the usual overlap of one half.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..domain.audio import SAMPLE_RATE_HZ
from .clustering import unit
from .features import HOP_SAMPLES, log_mel, n_frames_of

WINDOW_S = 1.5
MIN_WINDOW_S = 0.3
HOP_S = HOP_SAMPLES / SAMPLE_RATE_HZ
N_FRAMES = n_frames_of(round(WINDOW_S * SAMPLE_RATE_HZ))
ALIKE = 0.6  # cosine of neighbours; if it is lower, the window between them is looked at too

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class VoiceWindow:
    """A window of a segment.

    Attributes:
        start: in seconds, and its ``end``.
        segment: the features of the whole segment, (n_frames, 80).
        first: its first frame there.
    """

    start: float
    end: float
    segment: Array
    first: int

    @property
    def features(self) -> Array:
        """(148, 80), without the mean of the window; short windows are repeated."""
        own = self.segment[self.first : self.first + N_FRAMES]
        return np.resize(own - own.mean(axis=0), (N_FRAMES, own.shape[1]))


@dataclass(frozen=True, slots=True)
class Embedding:
    """The voice in a window: ``vector`` (192,) float16."""

    start: float
    end: float
    vector: NDArray[np.float16]


class Embedder:
    """Embeddings of the segments of one recording. Results do not depend on when segments come.

    Args:
        embed: embeddings of windows of features, see ``CpuNetworks``.
        batch: windows of a call.
    """

    def __init__(self, embed: Callable[[Array], Array], batch: int) -> None:
        self.found: list[Embedding] = []
        self._embed = embed
        self._batch = batch
        self._windows: list[VoiceWindow] = []  # to be embedded
        self._between: list[VoiceWindow] = []  # the same, between two that differ
        self._before: tuple[VoiceWindow, Array] | None = None

    def push(self, samples: Array, start: float) -> None:
        """Add the samples (n,) of a segment that starts at ``start`` seconds."""
        features = log_mel(samples)
        if len(features) * HOP_S < MIN_WINDOW_S:
            return
        n_steps = math.ceil(max(0, len(features) - N_FRAMES) / N_FRAMES)
        last = max(0, len(features) - N_FRAMES)
        for step in range(n_steps + 1):
            first = round(last * step / n_steps) if n_steps else 0
            self._windows.append(_window(features, start, first))

    def run(self, *, last: bool = False) -> None:
        """Compute the embeddings of whole batches; of all windows if no segment follows."""
        for window, vector in self._run(self._windows, last):
            if self._before is not None and self._before[0].segment is window.segment:
                self._look_between(*self._before, window, vector)
            self._before = (window, vector)
        self._run(self._between, last)

    def _look_between(
        self, window: VoiceWindow, vector: Array, following: VoiceWindow, other: Array
    ) -> None:
        if float(unit(vector) @ unit(other)) < ALIKE:
            first = (window.first + following.first) // 2
            start = window.start - window.first * HOP_S
            self._between.append(_window(window.segment, start, first))

    def _run(self, windows: list[VoiceWindow], last: bool) -> list[tuple[VoiceWindow, Array]]:
        n = len(windows) if last else len(windows) // self._batch * self._batch
        if not n:
            return []
        batch = windows[:n]
        del windows[:n]
        vectors = self._embed(np.stack([window.features for window in batch]))
        for window, vector in zip(batch, vectors, strict=True):
            self.found.append(Embedding(window.start, window.end, vector.astype(np.float16)))
        return list(zip(batch, vectors, strict=True))


def _window(segment: Array, start: float, first: int) -> VoiceWindow:
    n_frames = min(N_FRAMES, len(segment) - first)
    begin = start + first * HOP_S
    return VoiceWindow(begin, begin + (n_frames + 2) * HOP_S, segment, first)
