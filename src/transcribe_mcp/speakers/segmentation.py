"""Samples -> speech, overlap and changes of the speaker, per frame of 17 ms, by segmentation-3.0.

The network sees windows of 10 s, one each 5 s. For each of its frames it scores seven sets of
speakers: nobody, one of three, or two of three. Their order differs between windows, so only
results that do not depend on it are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..domain.audio import SAMPLE_RATE_HZ
from .protocol import SpeakerNetworks

WINDOW_SAMPLES = 160_000
STEP_SAMPLES = 80_000
FRAME_SAMPLES = 270
FRAME_S = FRAME_SAMPLES / SAMPLE_RATE_HZ
FIRST_SAMPLE = 360  # of frame 0; the network sees 495 samples on each side of its centre
N_FRAMES = 589  # of a window
TWO_SPEAKERS = 4  # the first set of two
# The middle of a window has more context than its edges.
_WEIGHTS = (np.hamming(N_FRAMES) + 1e-3).astype(np.float32)

Array = NDArray[np.float32]


def frame_at(time_s: float) -> int:
    """The frame that contains a time, or the one nearest to the start of the recording."""
    return max(0, int((time_s * SAMPLE_RATE_HZ - FIRST_SAMPLE) // FRAME_SAMPLES))


def start_of(frame: int) -> float:
    """Start of a frame in seconds; the first one reaches to the start of the recording."""
    return (frame * FRAME_SAMPLES + FIRST_SAMPLE) / SAMPLE_RATE_HZ if frame else 0.0


@dataclass(frozen=True, slots=True)
class Frames:
    """Probabilities per frame, (n,) float32 each.

    ``change`` is the probability that the speaker changes at the start of the frame.
    """

    speech: Array
    overlap: Array
    change: Array

    def __len__(self) -> int:
        return len(self.speech)

    @classmethod
    def joined(cls, parts: Sequence[Frames]) -> Frames:
        speech = np.concatenate([part.speech for part in parts])
        overlap = np.concatenate([part.overlap for part in parts])
        return cls(speech, overlap, np.concatenate([part.change for part in parts]))

    def since(self, first: int) -> Frames:
        return Frames(self.speech[first:], self.overlap[first:], self.change[first:])


class Segmenter:
    """The frames of one recording, pushed block by block. Results do not depend on the blocks.

    Args:
        networks: see ``SpeakerNetworks``. Samples are on its device.
    """

    def __init__(self, networks: SpeakerNetworks) -> None:
        self._networks = networks
        self._samples: Any = None  # from the start of the next window
        self._n_samples = 0
        self._n_windows = 0
        self._n_returned = 0
        # Weight, speech, overlap and change of frames that are not returned yet.
        self._sums = np.zeros((4, 0), np.float32)

    def push(self, samples: Any, *, last: bool = False) -> Frames:
        """Take the next samples (n,); return the frames that later samples cannot change."""
        networks = self._networks
        self._n_samples += len(samples)
        before = [] if self._samples is None else [self._samples]
        self._samples = networks.joined([*before, samples])
        n_windows = max(0, 1 + (len(self._samples) - WINDOW_SAMPLES) // STEP_SAMPLES)
        if last:
            n_new = max(0, len(self._samples) - (WINDOW_SAMPLES - STEP_SAMPLES))
            n_windows = max(-(-n_new // STEP_SAMPLES), int(not self._n_windows))
            n_missing = max(0, (n_windows + 1) * STEP_SAMPLES - len(self._samples))
            silence = networks.on_device(np.zeros(n_missing, np.float32))
            self._samples = networks.joined([self._samples, silence])
        else:
            n_windows -= n_windows % networks.segmentation_batch
        if n_windows:
            self._add(networks.segment(self._samples[: (n_windows + 1) * STEP_SAMPLES]))
            self._samples = self._samples[n_windows * STEP_SAMPLES :]
        end = _first_frame(self._n_windows)
        if last:
            end = max(0, (self._n_samples - FIRST_SAMPLE) // FRAME_SAMPLES)
        return self._returned(end)

    def _add(self, windows: Array) -> None:
        end = _first_frame(self._n_windows + len(windows) - 1) + N_FRAMES - self._n_returned
        missing = max(0, end - self._sums.shape[1])
        self._sums = np.pad(self._sums, ((0, 0), (0, missing)))
        speech, overlap, sets = windows.transpose(2, 0, 1)
        facts = np.stack([np.ones_like(speech), speech, overlap, _changes(sets)], axis=1)
        for weighted in facts * _WEIGHTS:
            first = _first_frame(self._n_windows) - self._n_returned
            self._sums[:, first : first + N_FRAMES] += weighted
            self._n_windows += 1

    def _returned(self, end: int) -> Frames:
        """Return and drop the frames up to ``end``."""
        n = end - self._n_returned
        done = self._sums[:, :n]
        self._sums = self._sums[:, n:]
        self._n_returned += done.shape[1]
        speech, overlap, change = done[1:] / np.maximum(done[0], 1e-6)
        return Frames(speech, overlap, change)


def speech_overlap_sets(scores: Array) -> Array:
    """Scores of the 7 sets of speakers (..., 7) -> P(speech), P(overlap) and the number of the most
    probable set, (..., 3).
    """
    exponents = np.exp(scores - scores.max(axis=-1, keepdims=True))
    probabilities = exponents / exponents.sum(axis=-1, keepdims=True)
    speech = 1 - probabilities[..., 0]
    overlap = probabilities[..., TWO_SPEAKERS:].sum(axis=-1)
    sets = scores.argmax(axis=-1).astype(np.float32)
    return np.stack([speech, overlap, sets], axis=-1)


def _first_frame(window: int) -> int:
    return round(window * STEP_SAMPLES / FRAME_SAMPLES)


def _changes(sets: Array) -> Array:
    """1 where the set of speakers differs from the last one in its window, in the middle of the
    pause; (n_windows, 589).
    """
    flat = sets.ravel()
    spoken = np.flatnonzero(flat)
    before = spoken[:-1]
    after = spoken[1:]
    is_change = (flat[before] != flat[after]) & (before // N_FRAMES == after // N_FRAMES)
    changes = np.zeros_like(flat)
    changes[(before + after + 1)[is_change] // 2] = 1.0
    return changes.reshape(sets.shape)
