"""Log-mel features of the embedding network, as Kaldi's filter bank computes them.

Frames of 25 ms each 10 ms, without padding at the ends and without dither; power spectra through 80
triangular filters from 20 Hz to 8 kHz (https://kaldi-asr.org/doc/feat.html).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..domain.audio import SAMPLE_RATE_HZ

N_MELS = 80
FRAME_SAMPLES = 400
HOP_SAMPLES = 160
N_FFT = 512
PRE_EMPHASIS = 0.97
LOW_HZ = 20.0
HIGH_HZ = SAMPLE_RATE_HZ / 2
FLOOR = float(np.finfo(np.float32).eps)
CHUNK_FRAMES = 512  # always computed in the same chunks; their spectra fit the cache

Array = NDArray[np.float32]


def n_frames_of(n_samples: int) -> int:
    return max(0, 1 + (n_samples - FRAME_SAMPLES) // HOP_SAMPLES)


def log_mel(samples: Array) -> Array:
    """The features of samples (n,): (n_frames, 80) float32, not normalized."""
    features = np.empty((n_frames_of(len(samples)), N_MELS), np.float32)
    if not len(features):
        return features
    frames = np.lib.stride_tricks.sliding_window_view(samples, FRAME_SAMPLES)[::HOP_SAMPLES]
    for start in range(0, len(frames), CHUNK_FRAMES):
        chunk = frames[start : start + CHUNK_FRAMES]
        chunk = chunk - chunk.mean(axis=1, keepdims=True)
        before = np.concatenate([chunk[:, :1], chunk[:, :-1]], axis=1)
        spectra = np.fft.rfft((chunk - PRE_EMPHASIS * before) * window(), N_FFT)[:, :-1]
        power = (spectra.real**2 + spectra.imag**2).astype(np.float32)
        features[start : start + len(chunk)] = np.log(np.maximum(power @ mel_filters(), FLOOR))
    return features


class FeatureBuffer:
    """The features of one recording, from the first needed frame on.

    Args:
        log_mel: computes the features of samples, on any device.
        joined: joins arrays on that device.
    """

    def __init__(
        self, log_mel: Callable[[Any], Any], joined: Callable[[Sequence[Any]], Any]
    ) -> None:
        self._log_mel = log_mel
        self._joined = joined
        self._samples: list[Any] = []  # from the first frame that is not computed
        self._parts: list[Any] = []
        self.first = 0  # number of the first frame
        self.end = 0  # number of the frame after the last

    def push(self, samples: Any, *, last: bool = False) -> None:
        """Take the next samples (n,); compute whole chunks of frames, and the rest at the end."""
        samples = self._joined([*self._samples, samples])
        n = n_frames_of(len(samples))
        n -= 0 if last else n % CHUNK_FRAMES
        if n > 0:
            n_samples = (n - 1) * HOP_SAMPLES + FRAME_SAMPLES
            self._parts.append(self._log_mel(samples[:n_samples]))
            samples = samples[n * HOP_SAMPLES :]
            self.end += n
        self._samples = [samples]

    @property
    def values(self) -> Any:
        """The features (end - first, 80)."""
        if len(self._parts) > 1:
            self._parts = [self._joined(self._parts)]
        return self._parts[0]

    def drop(self, before: int) -> None:
        """Drop the frames before this number."""
        if before > self.first and self._parts:
            self._parts = [self.values[before - self.first :]]
            self.first = min(before, self.end)


@cache
def window() -> Array:
    """Povey's window (400,): a Hann window to the power of 0.85."""
    phase = 2 * np.pi * np.arange(FRAME_SAMPLES) / (FRAME_SAMPLES - 1)
    return ((0.5 - 0.5 * np.cos(phase)) ** 0.85).astype(np.float32)


@cache
def mel_filters() -> Array:
    """(256, 80): triangles of equal width on the mel scale."""

    def mel(frequency_hz: NDArray[np.float64] | float) -> NDArray[np.float64]:
        return 1127.0 * np.log1p(np.asarray(frequency_hz, np.float64) / 700.0)

    edges = np.linspace(mel(LOW_HZ), mel(HIGH_HZ), N_MELS + 2)
    bins = mel(np.arange(N_FFT // 2) * SAMPLE_RATE_HZ / N_FFT)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.maximum(0.0, np.minimum(rising, falling)).astype(np.float32)
