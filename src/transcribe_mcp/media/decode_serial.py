"""The serial decode: every format and all damage, packet by packet, on the recording's own clock."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, field

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from ..domain.transcript import Notice
from ..errors import NotMediaError
from .container import FOREIGN_ERRORS, SAMPLE_RATES_HZ, Media, frames, info, not_media, opened
from .parts import flac_parts, is_flac
from .resampler import SAMPLE_RATE_HZ, Resampler, Samples

GAP_S = 0.05  # timestamps of real containers jitter by a frame or so; a longer hole is one
DECODER_DELAY_S = 0.5  # some decoders give nothing for their first packets; that is no hole
# ADTS has no timestamps: those it seems to have are counted at the first frame's rate, whatever that of the others is.
WITHOUT_TIMESTAMPS = {"aac"}
ONE_FORMAT = {"flac"}  # containers whose sound has one format; another one is another file's
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

    def forget(self, code: str) -> None:
        self.first.pop(code, None)
        self.counts.pop(code, None)

    def notices(self) -> Iterator[Notice]:
        for code, (at_s, what) in self.first.items():
            more = (
                f" (and {self.counts[code] - 1} more of the kind)" if self.counts[code] > 1 else ""
            )
            yield Notice(code, f"At {at_s:.1f} s {what}{more}.")


class Clock:
    """Keeps the recording's own time: holes in its timestamps become silence, jumps that make no sense do not."""

    def __init__(
        self, tick_s: float, origin_s: float, findings: Findings, base_s: float = 0.0
    ) -> None:
        """``base_s``: where on the recording's clock this one begins, if others came before."""
        self._tick_s = tick_s
        self._base_s = base_s
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
                what = f"{gap_s:.2f} s without sound were kept as silence"
                self._findings.add("gap_filled", self._base_s + self.now_s, what)
            return self.now_s + gap_s
        self._shift_s -= gap_s
        what = f"the timestamps jump by {gap_s:+.1f} s; read on without"
        self._findings.add("timestamps_ignored", self._base_s + self.now_s, what)
        return self.now_s


def serial(
    parts: Sequence[Media], findings: Findings, *, skip_samples: int = 0
) -> Generator[Samples]:
    """Decode packet by packet, all formats and all damage, one part after the other; leave out the first
    ``skip_samples``. Yields (n,) or (channels, n) at 16 kHz."""
    done_samples = 0
    todo = list(parts)
    while todo:
        media = todo.pop(0)
        for piece in _decoded(media, findings, done_samples / SAMPLE_RATE_HZ):
            n_samples = piece.shape[-1]
            if done_samples + n_samples > skip_samples:
                yield piece[..., max(0, skip_samples - done_samples) :]
            done_samples += n_samples
        if "source_damaged" in findings.counts and (
            more := _more_flac(media, done_samples / SAMPLE_RATE_HZ)
        ):
            findings.forget("source_damaged")
            findings.add(
                "several_parts",
                done_samples / SAMPLE_RATE_HZ,
                "another FLAC file begins in this one",
            )
            todo = more
    if not done_samples and "source_damaged" in findings.counts:
        raise NotMediaError(
            f"{parts[0].path}: nothing of its sound could be decoded",
            hint="The file may be damaged or no recording at all.",
        )


def _more_flac(media: Media, done_s: float) -> list[Media]:
    """The FLAC files in a file that FFmpeg, which takes them for one, has not decoded."""
    if media.begin or media.end is not None or not is_flac(media.path):
        return []
    found = flac_parts(media)
    ends_s = 0.0
    for number, part in enumerate(found):
        with opened(part) as (container, stream):
            ends_s += info(container, stream).duration or 0.0
        if ends_s >= done_s - GAP_S:
            return found[number + 1 :]
    return []


def _decoded(media: Media, findings: Findings, base_s: float) -> Iterator[Samples]:
    with opened(media) as (container, stream):
        try:
            yield from _on_the_clock(container, stream, media.channel, findings, base_s)
        except FOREIGN_ERRORS as error:
            raise not_media(media.path, error) from error


def _on_the_clock(
    container: InputContainer, stream: AudioStream, channel: str, findings: Findings, base_s: float
) -> Iterator[Samples]:
    origin_s = (container.start_time or 0) / av.time_base
    clock = Clock(float(stream.time_base or 0), origin_s, findings, base_s)
    resampler: Resampler | None = None
    segment_samples = out_samples = 0
    is_timed = container.format.name not in WITHOUT_TIMESTAMPS
    failed_s: list[float] = []  # since the last frame that could be decoded

    def on_error(at_s: float | None) -> None:
        at_s = clock.now_s if at_s is None else at_s - origin_s
        failed_s.append(base_s + max(0.0, at_s))

    for frame in frames(container, stream, on_error):
        if frame.sample_rate not in SAMPLE_RATES_HZ or not frame.samples:
            continue
        while failed_s:
            findings.add(
                "source_damaged", failed_s.pop(0), "a part could not be decoded and was left out"
            )
        if resampler and container.format.name in ONE_FORMAT and not resampler.fits(frame):
            failed_s.append(clock.now_s)
            break
        start_s = clock.start_of(frame) if is_timed else clock.now_s
        if resampler is None or start_s > clock.now_s or not resampler.fits(frame):
            for piece in resampler.finish() if resampler else ():
                out_samples += piece.shape[-1]
                yield piece
            for piece in _silence(round(start_s * SAMPLE_RATE_HZ) - out_samples):
                out_samples += len(piece)
                yield piece
            resampler, segment_samples, segment_s = Resampler(frame, channel), 0, start_s
        samples, rate_hz = frame.samples, frame.sample_rate
        for piece in resampler.push(frame, segment_samples):
            out_samples += piece.shape[-1]
            yield piece
        segment_samples += samples
        clock.now_s = segment_s + segment_samples / rate_hz
    if failed_s:
        findings.add(
            "source_damaged",
            base_s + clock.now_s,
            "the recording breaks off: the rest cannot be decoded",
        )
    if resampler:
        yield from resampler.finish()


def _silence(samples: int) -> Iterator[Samples]:
    for start in range(0, samples, SILENT_PIECE_SAMPLES):
        yield np.zeros(min(samples - start, SILENT_PIECE_SAMPLES), np.float32)
