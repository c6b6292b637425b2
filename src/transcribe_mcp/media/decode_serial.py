"""Serial decoding, packet by packet: every format, tolerant of damage, with gaps kept as
silence.
"""

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
from .resampler import SAMPLE_RATE_HZ, FrameFormat, Resampler, Samples, format_of

GAP_S = 0.05  # timestamps jitter by about a frame; longer gaps are real
DECODER_DELAY_S = 0.5  # some decoders return nothing for their first packets
# ADTS has no timestamps. FFmpeg counts them at the first frame's rate, even when the rate changes.
WITHOUT_TIMESTAMPS = {"aac"}
ONE_FORMAT = {"flac"}  # in these containers, another format means another file
MAX_SILENCE_S = 3600.0  # limit per recording on silence for gaps
SILENT_PIECE_SAMPLES = 60 * SAMPLE_RATE_HZ


@dataclass(slots=True)
class Findings:
    """Problems of a decode by code: the first time and text, and the count."""

    first: dict[str, tuple[float, str]] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)

    def add(self, code: str, at_s: float, what: str) -> None:
        self.first.setdefault(code, (at_s, what))
        self.counts[code] = self.counts.get(code, 0) + 1

    def delete(self, code: str) -> None:
        self.first.pop(code, None)
        self.counts.pop(code, None)

    def notices(self) -> Iterator[Notice]:
        for code, (at_s, what) in self.first.items():
            more = f" (and {self.counts[code] - 1} more like this)" if self.counts[code] > 1 else ""
            yield Notice(code, f"At {at_s:.1f} s {what}{more}.")


class Clock:
    """The recording's clock. Gaps in timestamps become silence; senseless jumps are ignored."""

    def __init__(
        self, tick_s: float, origin_s: float, findings: Findings, base_s: float = 0.0
    ) -> None:
        """``base_s``: the recording's time at the start of this part."""
        self._tick_s = tick_s
        self._base_s = base_s
        self._origin_s = origin_s
        self._shift_s = -origin_s
        self._findings = findings
        self._silence_left_s = MAX_SILENCE_S
        self.now_s = 0.0

    @classmethod
    def of(
        cls, container: InputContainer, stream: AudioStream, findings: Findings, base_s: float
    ) -> Clock:
        origin_s = (container.start_time or 0) / av.time_base
        return cls(float(stream.time_base or 0), origin_s, findings, base_s)

    def at(self, stream_s: float | None) -> float:
        """Recording time of a stream timestamp; ``None``: the current time."""
        own_s = self.now_s if stream_s is None else stream_s - self._origin_s
        return self._base_s + max(0.0, own_s)

    def start_of(self, frame: AudioFrame) -> float:
        """Start of ``frame`` in seconds: ``now_s`` unless a gap comes before it."""
        if frame.pts is None:
            return self.now_s
        gap_s = frame.pts * self._tick_s + self._shift_s - self.now_s
        if abs(gap_s) <= GAP_S:
            return self.now_s
        if 0 < gap_s <= self._silence_left_s:
            self._silence_left_s -= gap_s
            if self.now_s or gap_s > DECODER_DELAY_S:
                what = f"{gap_s:.2f} s without audio were kept as silence"
                self._findings.add("gap_filled", self._base_s + self.now_s, what)
            return self.now_s + gap_s
        self._shift_s -= gap_s
        what = f"the timestamps jump by {gap_s:+.1f} s; the jump was ignored"
        self._findings.add("timestamps_ignored", self._base_s + self.now_s, what)
        return self.now_s


def serial(
    parts: Sequence[Media], findings: Findings, *, skip_samples: int = 0
) -> Generator[Samples]:
    """Decode the parts in order, without the first ``skip_samples``.

    Yields (n,) or (channels, n) at 16 kHz.
    """
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
            findings.delete("source_damaged")
            findings.add(
                "several_parts",
                done_samples / SAMPLE_RATE_HZ,
                "another FLAC file begins in this one",
            )
            todo = more
    if not done_samples and "source_damaged" in findings.counts:
        raise NotMediaError(
            f"{parts[0].path}: none of its audio could be decoded",
            hint="the file may be damaged, or not a recording",
        )


def _more_flac(media: Media, done_s: float) -> list[Media]:
    """The FLAC files after the first, if FFmpeg took them for damage."""
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
    clock = Clock.of(container, stream, findings, base_s)
    is_timed = container.format.name not in WITHOUT_TIMESTAMPS
    resampler: Resampler | None = None
    segment_s = 0.0
    segment_samples = out_samples = 0
    for frame in _usable_frames(container, stream, clock, findings):
        start_s = clock.start_of(frame) if is_timed else clock.now_s
        if resampler is None or start_s > clock.now_s or not resampler.fits(frame):
            for piece in resampler.finish() if resampler else ():
                out_samples += piece.shape[-1]
                yield piece
            for piece in _silence(round(start_s * SAMPLE_RATE_HZ) - out_samples):
                out_samples += len(piece)
                yield piece
            resampler = Resampler(frame, channel)
            segment_s = start_s
            segment_samples = 0
        pieces = resampler.push(frame, segment_samples)
        segment_samples += frame.samples
        end_s = segment_s + segment_samples / frame.sample_rate
        for piece in pieces:
            out_samples += piece.shape[-1]
            yield piece
        clock.now_s = end_s
    if resampler:
        yield from resampler.finish()


def _usable_frames(
    container: InputContainer, stream: AudioStream, clock: Clock, findings: Findings
) -> Iterator[AudioFrame]:
    """Yield frames with samples and report damage. Stops where another file's format begins."""
    failed_s: list[float] = []  # times of failures since the last good frame
    first_format: FrameFormat | None = None

    def on_error(at_s: float | None) -> None:
        failed_s.append(clock.at(at_s))

    for frame in frames(container, stream, on_error):
        if frame.sample_rate not in SAMPLE_RATES_HZ or not frame.samples:
            continue
        for at_s in failed_s:
            findings.add("source_damaged", at_s, "a damaged part was left out")
        failed_s.clear()
        first_format = first_format or format_of(frame)
        if container.format.name in ONE_FORMAT and format_of(frame) != first_format:
            failed_s.append(clock.now_s)
            break
        yield frame
    if failed_s:
        message = "decoding stops; the rest of the recording is unreadable"
        findings.add("source_damaged", clock.at(None), message)


def _silence(samples: int) -> Iterator[Samples]:
    for start in range(0, samples, SILENT_PIECE_SAMPLES):
        yield np.zeros(min(samples - start, SILENT_PIECE_SAMPLES), np.float32)
