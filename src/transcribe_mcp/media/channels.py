"""Mix channels to mono without losing audio that cancels or is on one channel only.

The mean of a channel and its inverse is silent; faulty cables and plug-ins do that. Every half
second the power of the mean is compared with the channels. Where most power is lost, the loudest
channel is used alone. Channels that are much quieter than the others do not count.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ..domain.transcript import Notice
from .resampler import SAMPLE_RATE_HZ, Samples

PIECE_SAMPLES = SAMPLE_RATE_HZ // 2
ROUNDING = 1e11  # power relative to that of second differences due to rounding alone
PROBED_SAMPLES = SAMPLE_RATE_HZ // 20  # of a piece, checked for low sounds only
FLAT = 0.002  # power of first differences relative to the samples; 0.0015 for 100 Hz
FADE_SAMPLES = SAMPLE_RATE_HZ // 100  # cross-fade between two choices of channels
SILENT_BESIDE = 1e-4  # of the loudest channel's power: 40 dB below
# Power of the mean relative to unrelated channels: 2 for equal channels, 0 for cancellation.
CANCELLED = 0.3
RELATED = 0.6
COUNTED = 1e-3  # of the loudest piece's power; quieter pieces are pauses
NOTED_S = 1.0
MAX_LOSS_DB = 99.0
LOUDEST = 32_768.0  # float files with 16-bit scale exist; larger values are invalid
INVALID = "invalid samples (not a number, infinite or far too loud) became silence"


def _is_flat(pieces: Samples) -> NDArray[np.bool_]:
    """(k, n) -> (k,): whether they have low sounds only, or an offset."""
    steps = np.diff(pieces, axis=1)
    power, of_steps = (np.einsum("ks,ks->k", part, part) for part in (pieces, steps))
    return np.asarray(of_steps < FLAT * power)


def _judge_above_rumble(
    pieces: Samples, mean: Samples, power: NDArray[np.float32], mean_power: NDArray[np.float32]
) -> None:
    """Where an offset or hum dominates the mean, replace the powers in place by those of the rest,
    in which voices may cancel. The sum over the channels stays.
    """
    rumbles = np.flatnonzero(_is_flat(mean[:, :PROBED_SAMPLES]))
    if not len(rumbles):
        return
    curves = np.diff(pieces[:, rumbles], n=2, axis=2)
    curve = np.diff(mean[rumbles], n=2, axis=1)
    of_curves = np.einsum("cks,cks->ck", curves, curves)
    scale = power[:, rumbles].sum(axis=0) / np.maximum(of_curves.sum(axis=0), 1e-30)
    has_more = scale < ROUNDING
    power[:, rumbles[has_more]] = (of_curves * scale)[:, has_more]
    mean_power[rumbles[has_more]] = (np.einsum("ks,ks->k", curve, curve) * scale)[has_more]


class Downmix:
    """Mixes the pieces of one recording to mono, in order, and detects cancellation."""

    def __init__(self) -> None:
        self._rest: Samples | None = None
        self._weights: NDArray[np.float32] | None = None  # (channels,) of the previous piece
        self._single: int | None = None  # the channel used alone
        self._done_samples = 0
        self._peak_power = 0.0
        self._single_samples = 0
        self._first_s = 0.0
        self._loss_db = 0.0
        self._invalid_from_s: float | None = None

    def mono(self, pieces: Iterable[Samples]) -> Iterator[Samples]:
        """Convert pieces (n,) or (channels, n) to pieces (n,)."""
        for piece in pieces:
            if piece.ndim == 1:
                yield from self._flush()
                self._done_samples += len(piece)
                yield piece
                continue
            if self._rest is not None and len(self._rest) == len(piece):
                piece = np.concatenate([self._rest, piece], axis=1)
            else:
                yield from self._flush()
            whole = piece.shape[1] - piece.shape[1] % PIECE_SAMPLES
            self._rest = piece[:, whole:]
            if whole:
                yield self._mix(piece[:, :whole], PIECE_SAMPLES)
        yield from self._flush()

    def notices(self) -> Iterator[Notice]:
        if self._invalid_from_s is not None:
            yield Notice(
                "invalid_samples",
                f"At {self._invalid_from_s:.1f} s {INVALID}.",
            )
        seconds = self._single_samples / SAMPLE_RATE_HZ
        if seconds >= NOTED_S:
            message = (
                "The channels cancel each other: "
                f"mixed, they are up to {self._loss_db:.0f} dB quieter than alone. "
                f"From {self._first_s:.1f} s on, {seconds:.1f} s come from one channel."
            )
            yield Notice("channels_cancel", message)

    def _flush(self) -> Iterator[Samples]:
        rest = self._rest
        self._rest = None
        if rest is not None and rest.shape[1]:
            yield self._mix(rest, rest.shape[1])

    def _mix(self, planes: Samples, size: int) -> Samples:
        """(channels, k * size) -> (k * size,)."""
        n_channels = len(planes)
        pieces = planes.reshape(n_channels, -1, size)
        mean = pieces.mean(axis=0, dtype=np.float32)
        power = np.einsum("cks,cks->ck", pieces, pieces) / size
        if not np.isfinite(power).all():
            if self._invalid_from_s is None:
                self._invalid_from_s = self._done_samples / SAMPLE_RATE_HZ
            return self._mix(np.where(np.abs(planes) <= LOUDEST, planes, np.float32(0)), size)
        mean_power = np.einsum("ks,ks->k", mean, mean) / size
        _judge_above_rumble(pieces, mean, power, mean_power)
        share = mean_power / np.maximum(power.sum(axis=0) / n_channels**2, 1e-30)
        share[mean_power == power.max(axis=0)] = n_channels  # digital silence
        live = power >= SILENT_BESIDE * power.max(axis=0)
        equal = np.full(n_channels, 1 / n_channels, np.float32)
        if self._weights is None or len(self._weights) != n_channels:
            self._weights = None
            self._single = None
        is_usual = (
            (self._weights is None or (self._weights == equal).all())
            and live.all()
            and (share >= CANCELLED).all()
        )
        for k in range(0 if is_usual else pieces.shape[1]):
            self._decide(power[:, k], float(mean_power[k]), float(share[k]), size)
            self._done_samples += size
            weights = live[:, k] / live[:, k].sum(dtype=np.float32)
            if self._single is not None:
                weights = np.eye(n_channels, dtype=np.float32)[self._single]
            before = (weights if self._weights is None else self._weights) @ pieces[
                :, k, :FADE_SAMPLES
            ]
            mean[k] = weights @ pieces[:, k]
            if self._weights is not None and (weights != self._weights).any():
                rise = np.linspace(0, 1, len(before), dtype=np.float32)
                mean[k, :FADE_SAMPLES] += (1 - rise) * (before - mean[k, :FADE_SAMPLES])
            self._weights = weights
        if is_usual:
            self._weights = equal
            self._peak_power = max(self._peak_power, float(power.max()))
            self._done_samples += planes.shape[1]
        mono: Samples = mean.reshape(-1)
        return mono

    def _decide(
        self, power: NDArray[np.float32], mean_power: float, share: float, size: int
    ) -> None:
        """Decide whether to use one channel, from its power by channel and the share left in the
        mean.
        """
        loudest = float(power.max())
        self._peak_power = max(self._peak_power, loudest)
        if share >= (CANCELLED if self._single is None else RELATED):
            self._single = None
            return
        if self._single is None or power[self._single] < loudest / 2:
            self._single = int(power.argmax())
        if loudest >= COUNTED * self._peak_power:
            self._first_s = (
                self._first_s if self._single_samples else self._done_samples / SAMPLE_RATE_HZ
            )
            self._single_samples += size
            loss_db = 10 * np.log10(loudest / max(mean_power, 1e-30))
            self._loss_db = min(MAX_LOSS_DB, max(self._loss_db, float(loss_db)))
