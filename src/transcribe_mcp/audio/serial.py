"""The serial decode: every format and all damage, packet by packet, on the recording's own clock."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from ..errors import NotMediaError
from ..transcript import Notice
from .media import FOREIGN_ERRORS, SAMPLE_RATES_HZ, frames, not_media, opened
from .resampler import SAMPLE_RATE_HZ, Resampler, Samples

GAP_S = 0.05  # timestamps of real containers jitter by a frame or so; a longer hole is one
DECODER_DELAY_S = 0.5  # some decoders give nothing for their first packets; that is no hole
SILENCE_S = 3600.0  # all the silence that timestamps may ask for
SILENT_PIECE_SAMPLES = 60 * SAMPLE_RATE_HZ


@dataclass(slots=True)
class Findings:
    """What a decode met, by code: how often, at what second first, and what it was."""

    first: dict[str, tuple[float, str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, code: str, at_s: float, what: str) -> None:
        self.first.setdefault(code, (at_s, what))
        self.counts[code] = self.counts.get(code, 0) + 1

    def notices(self) -> Iterator[Notice]:
        for code, (at_s, what) in self.first.items():
            more = f" (and {self.counts[code] - 1} more of the kind)" if self.counts[code] > 1 else ""
            yield Notice(code, f"At {at_s:.1f} s {what}{more}.")


class Clock:
    """Keeps the recording's own time: holes in its timestamps become silence, jumps that make no sense do not."""

    def __init__(self, tick_s: float, origin_s: float, findings: Findings) -> None:
        self._tick_s = tick_s
        self._shift_s = -origin_s
        self._findings = findings
        self._silence_left_s = SILENCE_S
        self.now_s = 0.0

    def start_of(self, frame: AudioFrame) -> float:
        """Seconds at which ``frame`` starts; ``now_s`` unless there is a hole before it."""
        if frame.pts is None:
            return self.now_s
        gap_s = frame.pts * self._tick_s + self._shift_s - self.now_s
        if abs(gap_s) <= GAP_S:
            return self.now_s
        if 0 < gap_s <= self._silence_left_s:
            self._silence_left_s -= gap_s
            if self.now_s or gap_s > DECODER_DELAY_S:
                self._findings.add("gap_filled", self.now_s, f"{gap_s:.2f} s without sound were kept as silence")
            return self.now_s + gap_s
        self._shift_s -= gap_s
        self._findings.add("timestamps_ignored", self.now_s, f"the timestamps jump by {gap_s:+.1f} s; read on without")
        return self.now_s


def serial(path: Path, findings: Findings, *, skip_samples: int = 0) -> Generator[Samples]:
    """Decode packet by packet, all formats and all damage; leave out the first ``skip_samples``."""
    decoded = False
    with opened(path) as (container, stream):
        try:
            for piece in _on_the_clock(container, stream, findings):
                decoded = True
                if len(piece) > skip_samples:
                    yield piece[skip_samples:]
                skip_samples = max(0, skip_samples - len(piece))
        except FOREIGN_ERRORS as error:
            raise not_media(path, error) from error
        if not decoded and "source_damaged" in findings.counts:
            raise NotMediaError(
                f"{path}: nothing of its sound ({stream.codec_context.name}) could be decoded",
                hint="The file may be damaged or no recording at all.",
            )


def _on_the_clock(container: InputContainer, stream: AudioStream, findings: Findings) -> Iterator[Samples]:
    origin_s = (container.start_time or 0) / av.time_base
    clock = Clock(float(stream.time_base or 0), origin_s, findings)
    resampler: Resampler | None = None
    segment_samples = out_samples = 0

    def on_error(at_s: float | None) -> None:
        at_s = clock.now_s if at_s is None else at_s - origin_s
        findings.add("source_damaged", max(0.0, at_s), "a part could not be decoded and was left out")

    for frame in frames(container, stream, on_error):
        if frame.sample_rate not in SAMPLE_RATES_HZ or not frame.samples:
            continue
        start_s = clock.start_of(frame)
        if resampler is None or start_s > clock.now_s or not resampler.fits(frame):
            for piece in resampler.finish() if resampler else ():
                out_samples += len(piece)
                yield piece
            for piece in _silence(round(start_s * SAMPLE_RATE_HZ) - out_samples):
                out_samples += len(piece)
                yield piece
            resampler, segment_samples, segment_s = Resampler(frame), 0, start_s
        samples, rate_hz = frame.samples, frame.sample_rate
        for piece in resampler.push(frame, segment_samples):
            out_samples += len(piece)
            yield piece
        segment_samples += samples
        clock.now_s = segment_s + segment_samples / rate_hz
    if resampler:
        yield from resampler.finish()


def _silence(samples: int) -> Iterator[Samples]:
    for start in range(0, samples, SILENT_PIECE_SAMPLES):
        yield np.zeros(min(samples - start, SILENT_PIECE_SAMPLES), np.float32)
