"""Amplify very quiet audio before voice detection, which fails at -60 dB, where Whisper still
recognizes every word.

The level of a minute is that of its loudest second, so clicks and pauses do not count. A minute is
amplified if that second is very quiet and stands out from the rest, as speech does and steady noise
does not. Loud parts of such a minute stay unchanged.

A constant offset, mains hum or rumble below any voice hides speech in the same way, and its level.
Where it is the loudest part of a minute by far, it is filtered out first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..domain.transcript import Notice
from .resampler import SAMPLE_RATE_HZ, Samples

FRAME_SAMPLES = SAMPLE_RATE_HZ // 10
FRAMES_PER_S = 10
UNIT_SAMPLES = 60 * SAMPLE_RATE_HZ
SILENCE_DB = -120.0  # level of digital silence
QUIET_DB = -50.0  # Detection works well at -55 dB in the loudest second and hardly at -65 dB.
TARGET_DB = -30.0
MAX_GAIN_DB = 60.0  # below -90 dB there is only rounding noise
STANDS_OUT_DB = 6.0  # above the quietest tenth; noise varies by up to 4 dB
RUMBLE_HZ = (65.0, 95.0)  # below the first nothing passes the filter, above the second everything
RUMBLE_SHARE = 4.0  # of the rest's power from which it is filtered; at 10, detection misses speech
MIRRORED_SAMPLES = SAMPLE_RATE_HZ  # beside the filtered samples, so that their edges do not ring


class Levels:
    """Measures the levels of one recording block by block, and amplifies quiet minutes."""

    def __init__(self) -> None:
        # DB per tenth of a second, before amplification
        self.frames: list[NDArray[np.float32]] = []
        self._n_units = 0
        self._raised: list[tuple[int, float, float]] = []  # minute, level, gain
        self._rumbling: list[int] = []  # minutes

    def leveled(self, block: Samples) -> Samples:
        """The block (n,), or an amplified copy. Blocks are whole minutes except the last."""
        out = block
        for number, start in enumerate(range(0, len(block), UNIT_SAMPLES), start=self._n_units):
            unit = block[start : start + UNIT_SAMPLES]
            clear = _without_rumble(unit) if _is_rumble_likely(unit) else unit
            if clear is not unit:
                out = block.copy() if out is block else out
                out[start : start + len(unit)] = clear
                self._rumbling.append(number)
        frames = frame_levels(out)
        self.frames.append(frames)
        per_unit = UNIT_SAMPLES // FRAME_SAMPLES
        for first in range(0, len(frames), per_unit):
            unit = frames[first : first + per_unit]
            gain_db = _gain_db(unit)
            if gain_db:
                out = block.copy() if out is block else out
                part = out[first * FRAME_SAMPLES : (first + per_unit) * FRAME_SAMPLES]
                _raise(part, unit, gain_db)
                self._raised.append((self._n_units, loudest_second_db(unit), gain_db))
            self._n_units += 1
        return out

    @property
    def loudest_db(self) -> float:
        """The level that a second of the recording reaches, in dB."""
        return loudest_second_db(np.concatenate([np.empty(0, np.float32), *self.frames]))

    def notices(self) -> Iterator[Notice]:
        if self._rumbling:
            message = (
                f"At {60.0 * self._rumbling[0]:.1f} s an offset, hum or rumble below "
                f"{RUMBLE_HZ[1]:.0f} Hz, louder than everything else, was filtered out."
            )
            yield Notice("rumble_removed", message)
        if self._raised:
            number, level_db, gain_db = self._raised[0]
            share = (
                f"{len(self._raised)} of {self._n_units} minutes are"
                if self._n_units > 1
                else "the recording is"
            )
            where = f", from {number} min on" if number else ""
            message = (
                f"{share[0].upper()}{share[1:]} very quiet "
                f"(loudest second {level_db:.0f} dB){where}: raised by {gain_db:.0f} dB."
            )
            yield Notice("level_raised", message)


def _is_rumble_likely(samples: Samples) -> bool:
    """A quick check of one tenth of the samples."""
    whole = len(samples) - len(samples) % FRAME_SAMPLES
    spectra = np.fft.rfft(samples[:whole].reshape(-1, FRAME_SAMPLES)[::10], axis=1)
    return _low_share(np.square(np.abs(spectra)).sum(axis=0)) >= RUMBLE_SHARE / 2


def _without_rumble(samples: Samples) -> Samples:
    """The samples (n,) without low sounds if these outweigh the others, else the same array."""
    edge = min(MIRRORED_SAMPLES, len(samples) - 1)
    spectrum = np.fft.rfft(np.pad(samples.astype(np.float64), edge, mode="reflect"))
    if _low_share(np.square(np.abs(spectrum))) < RUMBLE_SHARE:
        return samples
    low, high = RUMBLE_HZ
    hz = np.linspace(0, SAMPLE_RATE_HZ / 2, len(spectrum))
    passed = np.sin(np.clip((hz - low) / (high - low), 0, 1) * np.pi / 2) ** 2
    clear = np.fft.irfft(spectrum * passed, len(samples) + 2 * edge)
    return clear[edge : edge + len(samples)].astype(np.float32)


def _low_share(power: NDArray[np.floating[Any]]) -> float:
    """Of the power below ``RUMBLE_HZ`` in a spectrum, relative to the rest."""
    n_low = int(len(power) * RUMBLE_HZ[0] / (SAMPLE_RATE_HZ / 2)) + 1
    # Of a real signal's spectrum, all but the first value stand for two.
    return float((power[0] / 2 + power[1:n_low].sum()) / max(power[n_low:].sum(), 1e-30))


def frame_levels(samples: Samples) -> NDArray[np.float32]:
    """(n,) -> (ceil(n / 1600),) dB below full scale; silence pads the last frame."""
    whole = len(samples) - len(samples) % FRAME_SAMPLES
    frames = samples[:whole].reshape(-1, FRAME_SAMPLES)
    power = np.einsum("fs,fs->f", frames, frames)
    if whole < len(samples):
        power = np.append(power, samples[whole:] @ samples[whole:])
    return np.asarray(10 * np.log10(power / FRAME_SAMPLES + 10 ** (SILENCE_DB / 10)), np.float32)


def loudest_second_db(frames: NDArray[np.float32]) -> float:
    """The level reached by one second in total, or by half of a clip shorter than 2 s."""
    if not len(frames):
        return SILENCE_DB
    rank = min(FRAMES_PER_S, -(-len(frames) // 2))
    return float(np.partition(frames, -rank)[-rank])


def _gain_db(frames: NDArray[np.float32]) -> float:
    level_db = loudest_second_db(frames)
    if level_db > QUIET_DB or level_db <= TARGET_DB - MAX_GAIN_DB - STANDS_OUT_DB:
        return 0.0
    quietest_db = float(np.percentile(frames, 10))
    return (
        min(MAX_GAIN_DB, TARGET_DB - level_db) if level_db - quietest_db >= STANDS_OUT_DB else 0.0
    )


def _raise(samples: Samples, frames: NDArray[np.float32], gain_db: float) -> None:
    """Amplify in place; frames louder than the target get less gain, down to none."""
    of_frame_db = np.clip(TARGET_DB + STANDS_OUT_DB - frames, 0.0, gain_db)
    middles = (np.arange(len(frames)) + 0.5) * FRAME_SAMPLES
    gain = np.interp(np.arange(len(samples)), middles, 10 ** (of_frame_db / 20)).astype(np.float32)
    samples *= gain
    np.clip(samples, -1.0, 1.0, out=samples)
