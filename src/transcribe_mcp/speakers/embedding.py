"""Segments of speech -> windows of 1.5 s -> an embedding of the voice in each.

Windows do not overlap. Where two neighbours differ, the speaker may change, and a window between
them shows where. This takes half as much work as the usual overlap of 50 %.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..domain.audio import SAMPLE_RATE_HZ
from .clustering import unit
from .evidence import N_EMBEDDING
from .features import HOP_SAMPLES, FeatureBuffer, n_frames_of
from .protocol import Array, Rows

WINDOW_S = 1.5
MIN_WINDOW_S = 0.3
HOP_S = HOP_SAMPLES / SAMPLE_RATE_HZ
N_FRAMES = n_frames_of(round(WINDOW_S * SAMPLE_RATE_HZ))
ALIKE = 0.6  # below this cosine of neighbours, the window between them is embedded too


@dataclass(frozen=True, slots=True)
class VoiceWindow:
    """The window of features [first, end) of the recording, in a segment with this number."""

    first: int
    end: int
    segment: int


@dataclass(frozen=True, slots=True)
class Embeddings:
    """The voices in windows: ``vectors`` (n, 192) float16."""

    windows: list[VoiceWindow]
    vectors: NDArray[np.float16]


class Embedder:
    """Embeddings of the segments of one recording. Results do not depend on when segments arrive.

    Args:
        embed: embeddings of windows of features, see ``SpeakerNetworks``.
        batch: windows per call.
    """

    def __init__(self, embed: Callable[[Any, Rows, Rows], Array], batch: int) -> None:
        # The features [first, end) of windows, (n, 2), and the vectors of these.
        self._found: list[tuple[Rows, NDArray[np.float16]]] = []
        self._embed = embed
        self._batch = batch
        self._n_segments = 0
        self._windows: list[VoiceWindow] = []  # to be embedded
        self._between: list[VoiceWindow] = []  # the same, between two different windows
        self._last = Embeddings([], np.empty((0, N_EMBEDDING), np.float16))

    def push(self, first: int, end: int) -> None:
        """Add the segment of the features [first, end)."""
        n_frames = end - first
        if n_frames * HOP_S < MIN_WINDOW_S:
            return
        self._n_segments += 1
        n_steps = math.ceil(max(0, n_frames - N_FRAMES) / N_FRAMES)
        for step in range(n_steps + 1):
            at = first + round((n_frames - N_FRAMES) * step / n_steps) if n_steps else first
            self._windows.append(VoiceWindow(at, min(end, at + N_FRAMES), self._n_segments))

    def needs(self, first: int) -> int:
        """The first frame whose features windows still need; ``first`` if there are none."""
        return min((window.first for window in self._windows + self._between), default=first)

    def run(self, features: FeatureBuffer, *, last: bool = False) -> None:
        """Compute the embeddings of whole batches; of all windows if no segment follows."""
        if found := self._run(features, self._windows, last):
            self._look_between(found)
        self._run(features, self._between, last)

    def _look_between(self, found: Embeddings) -> None:
        """Add the windows between neighbours of one segment that differ."""
        windows = self._last.windows + found.windows
        vectors = unit(np.concatenate([self._last.vectors, found.vectors]).astype(np.float32))
        cosines = (vectors[:-1] * vectors[1:]).sum(axis=1)
        for i in np.flatnonzero(cosines < ALIKE).tolist():
            before = windows[i]
            after = windows[i + 1]
            if before.segment == after.segment:
                first = (before.first + after.first) // 2
                self._between.append(VoiceWindow(first, first + N_FRAMES, before.segment))
        self._last = Embeddings(windows[-1:], found.vectors[-1:])

    def _run(
        self, features: FeatureBuffer, windows: list[VoiceWindow], last: bool
    ) -> Embeddings | None:
        n = len(windows) if last else len(windows) // self._batch * self._batch
        if not n:
            return None
        batch = windows[:n]
        del windows[:n]
        firsts = np.array([window.first - features.first for window in batch], np.intp)
        lengths = np.array([window.end - window.first for window in batch], np.intp)
        vectors = self._embed(features.values, firsts, lengths).astype(np.float16)
        self._found.append((np.stack([firsts, firsts + lengths], axis=1) + features.first, vectors))
        return Embeddings(batch, vectors)

    def found(self) -> tuple[Array, Array, NDArray[np.float16]]:
        """Starts and ends (n,) in seconds and vectors (n, 192) of all windows, in order."""
        spans = np.concatenate([np.empty((0, 2), np.intp), *(rows for rows, _ in self._found)])
        nothing = np.empty((0, N_EMBEDDING), np.float16)
        vectors = np.concatenate([nothing, *(vectors for _, vectors in self._found)])
        order = np.argsort(spans[:, 0], kind="stable")
        seconds = (spans[order] + (0, 2)) * HOP_S  # frames overlap the next two
        return *seconds.astype(np.float32).T, vectors[order]


def rows_of(firsts: Rows, lengths: Rows) -> Rows:
    """The frames of each window (n, 148); short windows are repeated."""
    return firsts[:, None] + np.arange(N_FRAMES) % lengths[:, None]
