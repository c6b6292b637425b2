"""Windows -> log-mel spectrograms, as Whisper models were trained on them.

The NumPy reference, with the constants of openai-whisper's ``audio.py`` (Radford et al. 2022,
section 2.2): 25 ms Hann windows every 10 ms, power spectra, Slaney mel filters, log10, a dynamic
range of 80 dB, scaled to about [-1, 1].
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ..domain.audio import SAMPLE_RATE_HZ

FFT_SAMPLES = 400  # 25 ms
HOP_SAMPLES = 160  # 10 ms
WINDOW_SAMPLES = 30 * SAMPLE_RATE_HZ
WINDOW_FRAMES = WINDOW_SAMPLES // HOP_SAMPLES
FRAMES_PER_SECOND = SAMPLE_RATE_HZ // HOP_SAMPLES
BINS = FFT_SAMPLES // 2 + 1
DYNAMIC_RANGE = 8.0  # powers of ten kept below the loudest bin of a window
SILENCE = 1e-10  # the floor under the logarithm

assert WINDOW_FRAMES == 3000
assert BINS == 201


def log_mel(samples: NDArray[np.float32], n_mels: int) -> NDArray[np.float32]:
    """Log-mel spectrogram of one window, padded with silence to 30 s.

    Args:
        samples: (n,) float32, mono, 16 kHz, n at most 480,000.
        n_mels: 80, or 128 for large-v3 and later models.

    Returns:
        (n_mels, 3000) float32.
    """
    if len(samples) > WINDOW_SAMPLES:
        raise ValueError(f"a window holds at most {WINDOW_SAMPLES} samples, not {len(samples)}")
    spectrogram = np.full((n_mels, WINDOW_FRAMES), np.log10(SILENCE), dtype=np.float32)
    # Frames inside the padding are silence and need no transform.
    n_frames = (
        min(WINDOW_FRAMES, (len(samples) + FFT_SAMPLES // 2) // HOP_SAMPLES + 1)
        if len(samples)
        else 0
    )
    if n_frames:
        power = _power_spectrum(samples, n_frames).T
        mel = _mel_energies(power, n_mels)
        # On some processors log10 of the floor differs in the last digit.
        np.maximum(
            np.log10(np.maximum(mel, SILENCE)),
            spectrogram[:, :n_frames],
            out=spectrogram[:, :n_frames],
        )
    np.maximum(spectrogram, spectrogram.max() - DYNAMIC_RANGE, out=spectrogram)
    spectrogram += 4.0
    spectrogram /= 4.0
    return spectrogram


def _power_spectrum(samples: NDArray[np.float32], n_frames: int) -> NDArray[np.float32]:
    """Squared magnitudes of centred frames: (n_frames, 201) float32."""
    half = FFT_SAMPLES // 2
    padded = np.zeros(WINDOW_SAMPLES + FFT_SAMPLES, dtype=np.float32)
    padded[half : half + len(samples)] = samples
    # Reflection at both ends of the 30 s, as in torch.stft(center=True).
    padded[:half] = padded[FFT_SAMPLES:half:-1]
    padded[-half:] = padded[-half - 2 : -FFT_SAMPLES - 2 : -1]
    frames = np.lib.stride_tricks.sliding_window_view(padded, FFT_SAMPLES)[::HOP_SAMPLES][:n_frames]
    hann = np.hanning(FFT_SAMPLES + 1)[:-1].astype(np.float32)  # periodic, as torch.hann_window
    spectrum = np.fft.rfft(frames * hann, axis=-1)
    return np.asarray(spectrum.real**2 + spectrum.imag**2, dtype=np.float32)


def _mel_energies(power: NDArray[np.float32], n_mels: int) -> NDArray[np.float32]:
    """Power spectra (201, n_frames) through the filters: (n_mels, n_frames) float32.

    A matrix product of BLAS rounds differently with another number of threads, and in a borderline
    window the text then differs too. These sums have one order, and skip the filters' zeros.
    """
    power = np.ascontiguousarray(power)
    mel = np.empty((n_mels, power.shape[1]), dtype=np.float32)
    for filter_, energies in zip(mel_filters(n_mels), mel, strict=True):
        bins = np.flatnonzero(filter_)
        band = slice(bins[0], bins[-1] + 1)
        np.einsum("b,bf->f", filter_[band], power[band], out=energies)
    return mel


@lru_cache(maxsize=4)
def mel_filters(n_mels: int) -> NDArray[np.float32]:
    """Slaney's mel filters with unit area: (n_mels, 201) float32 (Slaney 1998, Auditory
    Toolbox).
    """
    bins_hz = np.linspace(0.0, SAMPLE_RATE_HZ / 2, BINS)
    top_mel = _BREAK_MEL + np.log(SAMPLE_RATE_HZ / 2 / _BREAK_HZ) / _LOG_STEP
    mel = np.linspace(0.0, top_mel, n_mels + 2)
    logarithmic = _BREAK_HZ * np.exp(_LOG_STEP * (mel - _BREAK_MEL))
    edges_hz = np.where(mel < _BREAK_MEL, mel * _LINEAR_HZ_PER_MEL, logarithmic)
    rising = (bins_hz[None, :] - edges_hz[:-2, None]) / (edges_hz[1:-1] - edges_hz[:-2])[:, None]
    falling = (edges_hz[2:, None] - bins_hz[None, :]) / (edges_hz[2:] - edges_hz[1:-1])[:, None]
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    area = 2.0 / (edges_hz[2:] - edges_hz[:-2])
    return np.asarray(triangles * area[:, None], dtype=np.float32)


# Slaney's scale: linear below 1 kHz (15 mels), logarithmic above (27 mels for a factor of 6.4).
_LINEAR_HZ_PER_MEL = 200.0 / 3.0
_BREAK_HZ = 1000.0
_BREAK_MEL = _BREAK_HZ / _LINEAR_HZ_PER_MEL
_LOG_STEP = np.log(6.4) / 27.0
