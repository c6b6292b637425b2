"""Whether audio has frequencies above the telephone band, which ends at 3400 Hz.

In other recordings, consonants do. The sample rate of the file says less, because a call may be
stored at a high one. A sample of 16 ms every 250 ms is enough.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..domain.audio import SAMPLE_RATE_HZ

HOP_SAMPLES = 4000
FRAME_SAMPLES = 256
HOP_S = HOP_SAMPLES / SAMPLE_RATE_HZ
TELEPHONE_HZ = (300, 3400)
ABOVE_HZ = (4500, 7500)
WIDE = 10**-3.2  # power above the telephone band relative to the power within

Array = NDArray[np.float32]

_WINDOW = np.hanning(FRAME_SAMPLES).astype(np.float32)


def _bins(band_hz: tuple[int, int]) -> slice:
    return slice(*(round(edge * FRAME_SAMPLES / SAMPLE_RATE_HZ) for edge in band_hz))


class BandMeter:
    """The power of a recording in both bands, pushed block by block."""

    def __init__(self) -> None:
        self._waiting = np.empty(0, np.float32)
        self._powers: list[Array] = []

    def push(self, samples: Array) -> None:
        """Take the next samples (n,)."""
        if len(self._waiting):
            samples = np.concatenate([self._waiting, samples])
        n = len(samples) // HOP_SAMPLES
        frames = samples[: n * HOP_SAMPLES].reshape(n, HOP_SAMPLES)[:, :FRAME_SAMPLES]
        power = np.abs(np.fft.rfft(frames * _WINDOW)) ** 2
        bands = [power[:, _bins(band)].sum(axis=1) for band in (TELEPHONE_HZ, ABOVE_HZ)]
        self._powers.append(np.stack(bands, axis=1).astype(np.float32))
        self._waiting = samples[n * HOP_SAMPLES :].copy()

    def is_wide(self, starts: Array, ends: Array) -> NDArray[np.bool_]:
        """Whether each window has sound above the telephone band, (n,); times in seconds."""
        powers = np.concatenate([np.zeros((1, 2), np.float32), *self._powers])
        sums = powers.cumsum(axis=0, dtype=np.float64)
        firsts = np.minimum((starts / HOP_S).astype(np.intp), len(sums) - 1)
        stops = np.minimum(np.ceil(ends / HOP_S).astype(np.intp), len(sums) - 1)
        within, above = (sums[stops] - sums[firsts]).T
        return np.asarray(above > WIDE * within)
