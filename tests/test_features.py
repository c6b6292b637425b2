"""The log-mel spectrogram against the definition written out, and against faster-whisper's."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from transcribe_mcp.speech.features import (
    WINDOW_FRAMES,
    WINDOW_SAMPLES,
    log_mel,
    mel_filters,
)

SAMPLE_RATE_HZ = 16_000
MELS = (80, 128)
TOLERANCE = 1e-4
EDGES_SAMPLES = (1, 2, 159, 160, 161, 199, 200, 201, 399, 400, 401, 16_000, 123_457)
FULL_SAMPLES = (
    479_799,
    479_800,
    479_801,
    479_999,
    480_000,
)  # the last frames reach over the end of the window

PRINT_FEATURES = f"""
import sys
import numpy as np
from transcribe_mcp.speech.features import log_mel

samples = np.random.default_rng(0).normal(0, 0.1, 480_000).astype(np.float32)
for n_mels in {MELS}:
    sys.stdout.buffer.write(log_mel(samples, n_mels).tobytes())
"""

Samples = NDArray[np.float32]


def speechlike(n_samples: int) -> Samples:
    t = np.arange(n_samples) / SAMPLE_RATE_HZ
    voice = sum(np.sin(2 * np.pi * 140 * k * t + k) / k for k in range(1, 12)) * (
        0.5 + 0.5 * np.sin(9 * t)
    )
    noise = np.random.default_rng(n_samples).normal(0, 0.01, n_samples)
    return (0.1 * voice + noise).astype(np.float32)


# -- the definition, in float64 --------------------------------------------------------------------


def hz_of_mel(mel: float) -> float:
    """Slaney's scale: 200/3 Hz a mel up to 1 kHz, then 27 mels for each factor of 6.4."""
    return mel * 200 / 3 if mel < 15 else 1000 * 6.4 ** ((mel - 15) / 27)


@cache
def reference_filters(n_mels: int) -> NDArray[np.float64]:
    top_mel = 15 + 27 * np.log(8) / np.log(6.4)  # 8 kHz
    edges_hz = [hz_of_mel(top_mel * i / (n_mels + 1)) for i in range(n_mels + 2)]
    bins_hz = np.arange(201) * 40.0
    return np.stack(
        [
            np.interp(bins_hz, [low, middle, high], [0, 2 / (high - low), 0])
            for (low, middle), (_, high) in pairwise(pairwise(edges_hz))
        ]
    )


@cache
def reference_transform() -> NDArray[np.complex128]:
    """Periodic Hann window and discrete Fourier transform in one matrix: (400, 201)."""
    n, k = np.arange(400)[:, None], np.arange(201)[None, :]
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * n / 400)
    return hann * np.exp(-2j * np.pi * n * k / 400)


def reference_log_mel(samples: Samples, n_mels: int) -> NDArray[np.float64]:
    window = np.zeros(480_000)
    window[: len(samples)] = samples
    mirrored = np.pad(window, 200, mode="reflect")
    frames = np.stack([mirrored[160 * i : 160 * i + 400] for i in range(3000)])
    power = np.abs(frames @ reference_transform()) ** 2
    logarithm = np.log10(np.maximum(reference_filters(n_mels) @ power.T, 1e-10))
    return (np.maximum(logarithm, logarithm.max() - 8) + 4) / 4


# -- comparisons -----------------------------------------------------------------------------------


@pytest.mark.parametrize("n_mels", MELS)
@pytest.mark.parametrize("n_samples", [*EDGES_SAMPLES, *FULL_SAMPLES])
def test_log_mel_follows_the_definition_at_every_length(n_samples: int, n_mels: int) -> None:
    samples = speechlike(n_samples)

    computed = log_mel(samples, n_mels)

    assert computed.shape == (n_mels, WINDOW_FRAMES)
    assert computed.dtype == np.float32
    np.testing.assert_allclose(computed, reference_log_mel(samples, n_mels), atol=TOLERANCE)


@pytest.mark.parametrize("n_mels", MELS)
@pytest.mark.parametrize("n_samples", [1, 200, 48_000, 480_000])
def test_log_mel_is_what_faster_whisper_computes(n_samples: int, n_mels: int) -> None:
    feature_extractor = pytest.importorskip("faster_whisper.feature_extractor")
    samples = speechlike(n_samples)
    padded = np.pad(samples, (0, WINDOW_SAMPLES - n_samples))

    theirs = feature_extractor.FeatureExtractor(feature_size=n_mels)(padded, padding=0)

    np.testing.assert_allclose(log_mel(samples, n_mels), theirs[:, :WINDOW_FRAMES], atol=TOLERANCE)


@pytest.mark.parametrize("n_mels", MELS)
@pytest.mark.parametrize("scale", [0.0, 1e-6, 1.0, 100.0])
def test_log_mel_of_any_loudness_is_finite_and_keeps_80_db(n_mels: int, scale: float) -> None:
    computed = log_mel((scale * speechlike(32_000)).astype(np.float32), n_mels)

    assert np.isfinite(computed).all()
    assert computed.max() - computed.min() <= 2 + 1e-6  # 8 powers of ten, scaled by a quarter


@pytest.mark.parametrize("n_mels", MELS)
def test_no_samples_are_silence(n_mels: int) -> None:
    np.testing.assert_array_equal(
        log_mel(np.empty(0, np.float32), n_mels), np.full((n_mels, 3000), -1.5, np.float32)
    )
    np.testing.assert_array_equal(
        log_mel(np.zeros(999, np.float32), n_mels), log_mel(np.empty(0, np.float32), n_mels)
    )


def test_more_samples_than_a_window_holds_are_refused() -> None:
    with pytest.raises(ValueError, match="480001"):
        log_mel(np.zeros(WINDOW_SAMPLES + 1, np.float32), 80)


@pytest.mark.parametrize("n_mels", MELS)
def test_the_input_is_left_as_it_was(n_mels: int) -> None:
    samples = speechlike(4000)
    before = samples.copy()

    log_mel(samples, n_mels)

    np.testing.assert_array_equal(samples, before)


def test_features_do_not_depend_on_the_number_of_threads() -> None:
    def features(threads: int) -> bytes:
        names = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS")
        environment = os.environ | dict.fromkeys(names, str(threads))
        return subprocess.run(
            [sys.executable, "-c", PRINT_FEATURES], env=environment, check=True, capture_output=True
        ).stdout

    assert len(alone := features(1)) == sum(MELS) * WINDOW_FRAMES * 4
    assert features(2) == alone


@pytest.mark.parametrize("n_mels", MELS)
def test_the_filters_cover_the_spectrum_and_none_is_empty(n_mels: int) -> None:
    filters = mel_filters(n_mels)

    assert filters.shape == (n_mels, 201)
    assert filters.min() >= 0
    assert (filters.max(axis=1) > 0).all()
    np.testing.assert_allclose(filters, reference_filters(n_mels), atol=1e-7)
