"""Sounds that nobody speaks in: coloured noise, hum, tones, clicks, chords, and silence."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from speech import SAMPLE_RATE_HZ

SOUNDS = (
    "silence",
    "white",
    "pink",
    "brown",
    "hum",
    "tone",
    "sweep",
    "clicks",
    "chords",
    "beeps",
    "bursts",
)


def sound(name: str, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """(n,) float32 in -1 to 1, root mean square about 0.1 (silence apart)."""
    n = int(seconds * SAMPLE_RATE_HZ)
    wave = _SOUNDS[name](n, np.arange(n) / SAMPLE_RATE_HZ, rng).astype(np.float32)
    level = float(np.sqrt(np.mean(wave**2)))
    return np.clip(wave * (0.1 / level), -1, 1) if level > 1e-6 else wave


def _coloured(exponent: float):
    def make(n: int, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        spectrum = np.fft.rfft(rng.standard_normal(n))
        return np.fft.irfft(
            spectrum / np.maximum(np.fft.rfftfreq(n, 1 / SAMPLE_RATE_HZ), 20.0) ** exponent, n
        )

    return make


def _hum(n: int, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    base = rng.choice([50.0, 60.0]) * rng.uniform(0.98, 1.02)
    return sum(
        rng.uniform(0, 1) / k * np.sin(2 * np.pi * base * k * time + rng.uniform(0, 6.3))
        for k in range(1, 9)
    )


def _tone(n: int, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return np.sin(2 * np.pi * 10 ** rng.uniform(1.8, 3.8) * time)


def _sweep(n: int, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    low = 10 ** rng.uniform(1.8, 3.0)
    high = 10 ** rng.uniform(2.5, 3.8)
    position = 0.5 - 0.5 * np.cos(2 * np.pi * time * rng.uniform(0.05, 0.5))
    return np.sin(2 * np.pi * np.cumsum(low + (high - low) * position) / SAMPLE_RATE_HZ)


def _events(n: int, rng: np.random.Generator, gap_s: tuple[float, float], make) -> np.ndarray:
    wave = np.zeros(n)
    at = 0
    while True:
        at += int(rng.uniform(*gap_s) * SAMPLE_RATE_HZ)
        if at >= n:
            return wave
        event = make()[: n - at]
        wave[at : at + len(event)] += event


def _clicks(n: int, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    def click() -> np.ndarray:
        m = int(rng.integers(8, 400))
        return rng.standard_normal(m) * np.exp(-np.arange(m) / (m / 5)) * rng.uniform(0.3, 1)

    return _events(n, rng, (0.03, rng.uniform(0.1, 2)), click)


def _chords(n: int, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    def chord() -> np.ndarray:
        m = int(rng.uniform(0.15, 1.5) * SAMPLE_RATE_HZ)
        t = np.arange(m) / SAMPLE_RATE_HZ
        root = 110 * 2 ** (rng.integers(0, 30) / 12)
        notes = root * 2 ** (
            np.array([[0, 4, 7], [0, 3, 7], [0, 5, 9], [0, 4, 10]][rng.integers(4)]) / 12
        )
        tone = sum(
            np.sin(2 * np.pi * f * k * t) / k**1.5
            for f in notes
            for k in range(1, 5)
            if f * k < 7500
        )
        return tone * np.exp(-t * rng.uniform(0.5, 4)) * np.minimum(t / 0.01, 1)

    return _events(n, rng, (0.1, rng.uniform(0.3, 1.0)), chord)


def _beeps(n: int, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    frequency = 10 ** rng.uniform(2.3, 3.6)
    m = int(rng.uniform(0.05, 0.6) * SAMPLE_RATE_HZ)
    beep = np.sin(2 * np.pi * frequency * np.arange(m) / SAMPLE_RATE_HZ)
    return _events(n, rng, (0.1, rng.uniform(0.3, 3.0)), lambda: beep)


def _bursts(n: int, time: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    def burst() -> np.ndarray:
        m = int(rng.uniform(0.05, 1.5) * SAMPLE_RATE_HZ)
        return _coloured(rng.uniform(0, 1))(m, time, rng) * np.hanning(m)

    return _events(n, rng, (0.1, rng.uniform(0.3, 2.0)), burst)


_SOUNDS = {
    "silence": lambda n, time, rng: np.zeros(n),
    "white": _coloured(0.0),
    "pink": _coloured(0.5),
    "brown": _coloured(1.0),
    "hum": _hum,
    "tone": _tone,
    "sweep": _sweep,
    "clicks": _clicks,
    "chords": _chords,
    "beeps": _beeps,
    "bursts": _bursts,
}


def noise_bank(clips: int, seconds: float, seed: int) -> np.ndarray:
    """(clips * seconds * 16000,) int16: clips of noise end to end, each of a kind or of two
    mixed.
    """

    def clip(number: int) -> np.ndarray:
        rng = np.random.default_rng([seed, number])
        wave = sound(str(rng.choice(SOUNDS[1:])), seconds, rng)
        if rng.random() < 0.3:
            wave = 0.7 * wave + 0.7 * sound(str(rng.choice(SOUNDS[1:])), seconds, rng)
        return (np.clip(wave, -1, 1) * 32767).astype(np.int16)

    with ThreadPoolExecutor() as threads:
        return np.concatenate(list(threads.map(clip, range(clips))))
