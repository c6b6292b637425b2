"""The parallel decode: ranges of 120 s on several threads, each thread with its own container. The first are shorter,
so that work on the first minutes can begin soon.

A range equals the serial decode because it starts on a whole second of the stream (there every resampler is in the
phase it has at the start), because decoder and resampler warm up before it, and because the second before it is
computed twice, by it and by the range before: unless the two agree bit for bit, the rest is decoded serially.

Most ranges are read inside FFmpeg's filter graph (``movie``). The last one, and any that does not come out whole there,
is read frame by frame.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from math import gcd
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event

import av
import numpy as np
from av.audio.stream import AudioStream
from av.container import InputContainer

from ..errors import SourceError
from .media import FOREIGN_ERRORS, frames, info, open_media
from .movie import TIMESTAMP_SAMPLES, Excerpt, Gap, read_excerpt
from .resampler import SAMPLE_RATE_HZ, Resampler, Samples
from .serial import GAP_S

Source = tuple[InputContainer, AudioStream]

RANGE_S = 120
N_SHORT_RANGES, SHORT_RANGE_S = 16, 30
SHARED_S = 1  # what two neighbours both compute
MARGIN_S = 1  # longer than half of any resampling filter
SHARED_SAMPLES = SHARED_S * SAMPLE_RATE_HZ
# With more, swresample interpolates between its filters, and one sample in a million then differs in its last bit.
MAX_PHASES = 1024

# Seconds that a decoder needs to forget where it began; Opus was seen to take 3.3 s. AAC is not here: its noise
# substitution draws from a generator that runs on from the start of the file, so no range of it is exact.
WARM_UP_S = {"flac": 0, "alac": 0, "wavpack": 0, "tta": 0, "mp3float": 1, "mp3": 1, "opus": 8}


class Inexact(Exception):
    """A range cannot be shown to equal the serial decode; never leaves this file."""


@dataclass(frozen=True, slots=True)
class RangeLayout:
    """How to turn this stream's timestamps into sample numbers, and how its decoder has to be treated."""

    first_pts: int
    samples_per_tick: Fraction
    rate_hz: int
    warm_up_s: int
    lossless: bool
    stream: int
    unplaced_channels: int | None
    claim_s: float | None  # how long the container says that the stream is

    def excerpt(self, path: Path, begin_s: int, end_s: int) -> Excerpt | None:
        """``None`` where the stream's end may be in it: only the frames themselves tell whether all of it is there."""
        first_pts_samples = self.first_pts * self.samples_per_tick
        if self.claim_s is None or end_s >= self.claim_s - 1 or first_pts_samples.denominator != 1:
            return None
        return Excerpt(
            path,
            self.stream,
            self.rate_hz,
            self.unplaced_channels,
            int(first_pts_samples),
            begin=begin_s * self.rate_hz,
            end=end_s * self.rate_hz,
            seek_pts=self.pts_at(max(0, begin_s - self.warm_up_s)) if begin_s else None,
        )

    def sample_at(self, pts: int | None) -> int:
        """Raises: Inexact where the timestamp falls between two samples."""
        if pts is None:
            raise Inexact
        at, rest = divmod((pts - self.first_pts) * self.samples_per_tick.numerator, self.samples_per_tick.denominator)
        if rest:
            raise Inexact
        return at

    def pts_at(self, second: int) -> int:
        return self.first_pts + int(second * self.rate_hz / self.samples_per_tick)


def range_layout(container: InputContainer, stream: AudioStream) -> RangeLayout | None:
    """None where ranges could not be exact: codec or sample rate unfit, timestamps rounded, a late start."""
    name = stream.codec_context.name
    warm_up_s = 0 if name.startswith("pcm_") else WARM_UP_S.get(name)
    if warm_up_s is None or not stream.time_base:
        return None
    rate_hz = stream.codec_context.sample_rate
    if SAMPLE_RATE_HZ // gcd(rate_hz, SAMPLE_RATE_HZ) > MAX_PHASES:
        return None
    frame = next(frames(container, stream, lambda at_s: None), None)
    if frame is None or frame.pts is None or frame.sample_rate != rate_hz:
        return None
    start_s = float(frame.pts * stream.time_base) - (container.start_time or 0) / av.time_base
    if abs(start_s) > GAP_S:
        return None
    return RangeLayout(
        frame.pts,
        stream.time_base * rate_hz,
        rate_hz,
        warm_up_s,
        lossless=warm_up_s == 0,
        stream=stream.index,
        unplaced_channels=frame.layout.nb_channels if frame.layout.name.endswith("channels") else None,
        claim_s=info(container, stream).duration,
    )


def ranges(path: Path, layout: RangeLayout, threads: int) -> Generator[Samples]:
    """The ranges in order, each with all its samples but for the last.

    Raises:
        Inexact: the next range cannot be shown to equal the serial decode.
    """
    stop = Event()
    idle: SimpleQueue[Source] = SimpleQueue()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="decode")
    work = (pool.submit(_work, path, layout, k, stop, idle) for k in count())
    ahead: deque[Future[tuple[Samples, Samples]]] = deque()
    seam = np.empty(0, np.float32)
    try:
        for begin_s, end_s in map(_range_s, count()):
            ahead.extend(next(work) for _ in range(threads + 1 - len(ahead)))
            again, samples = ahead.popleft().result()
            if not _same_seam(seam, again, layout):
                raise Inexact
            seam = samples[-SHARED_SAMPLES:].copy()
            yield samples
            if len(samples) < (end_s - begin_s) * SAMPLE_RATE_HZ:
                return
    except (SourceError, *FOREIGN_ERRORS) as error:
        raise Inexact from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)
        while not idle.empty():
            idle.get()[0].close()


def _same_seam(before: Samples, again: Samples, layout: RangeLayout) -> bool:
    """Whether two ranges agree, bit for bit, where they overlap. Silence proves nothing about a lossy decoder."""
    return before.tobytes() == again.tobytes() and (layout.lossless or not len(before) or bool(before.any()))


def _work(path: Path, layout: RangeLayout, k: int, stop: Event, idle: SimpleQueue[Source]) -> tuple[Samples, Samples]:
    begin_s, end_s = _span_s(k)
    if excerpt := layout.excerpt(path, begin_s, end_s):
        with suppress(Gap, *FOREIGN_ERRORS):  # frame by frame, then
            return _parts_of(_read_in_graph(excerpt, (end_s - begin_s) * SAMPLE_RATE_HZ, stop), k)
    try:
        if k == 0:
            raise Empty  # it reads from where a fresh container stands
        source = idle.get_nowait()
    except Empty:
        source = open_media(path)
    try:
        return _read_range(source, layout, k, stop)
    finally:
        idle.put(source)


def _range_s(k: int) -> tuple[int, int]:
    """Where range ``k`` begins and ends."""
    if k < N_SHORT_RANGES:
        return k * SHORT_RANGE_S, (k + 1) * SHORT_RANGE_S
    begin_s = N_SHORT_RANGES * SHORT_RANGE_S + (k - N_SHORT_RANGES) * RANGE_S
    return begin_s, begin_s + RANGE_S


def _span_s(k: int) -> tuple[int, int]:
    """What is read of range ``k``: from before the second that it shares with the range before, to behind its end."""
    begin_s, end_s = _range_s(k)
    return max(0, begin_s - SHARED_S - MARGIN_S), end_s + MARGIN_S


def _parts_of(out: Samples, k: int) -> tuple[Samples, Samples]:
    """The second that it shares with the range before, and range ``k`` itself, of all that was read."""
    begin_s, end_s = _range_s(k)
    first = (begin_s - _span_s(k)[0]) * SAMPLE_RATE_HZ
    shared = SHARED_SAMPLES if k else 0
    return out[first - shared : first], out[first : first + (end_s - begin_s) * SAMPLE_RATE_HZ]


def _read_in_graph(excerpt: Excerpt, n_samples: int, stop: Event) -> Samples:
    """Raises Gap where it is not all there or not in step with its timestamps; FFmpeg's errors."""
    pieces: list[Samples] = []
    for piece in read_excerpt(excerpt):
        if stop.is_set():
            raise Inexact
        pieces.append(piece)
    out = np.concatenate(pieces) if pieces else np.empty(0, np.float32)
    if abs(len(out) - n_samples) > TIMESTAMP_SAMPLES:  # a hole at the end, or an end that comes early
        raise Gap
    return out


def _read_range(source: Source, layout: RangeLayout, k: int, stop: Event) -> tuple[Samples, Samples]:
    """Range ``k``, before it the second that it shares with the range before. Less than a whole range: the end.

    Raises:
        Inexact: anything that the serial decode has rules for: damage, holes, another format.
    """
    container, stream = source
    begin_s, end_s = _span_s(k)
    begin, end = begin_s * layout.rate_hz, end_s * layout.rate_hz
    if k:
        container.seek(layout.pts_at(max(0, begin_s - layout.warm_up_s)), stream=stream)
    resampler: Resampler | None = None
    pieces: list[Samples] = []
    expected = 0

    def on_error(at_s: float | None) -> None:
        if resampler or not k:
            raise Inexact

    for frame in frames(container, stream, on_error):
        if stop.is_set():
            raise Inexact
        at = layout.sample_at(frame.pts)
        contiguous, expected = at == expected, at + frame.samples
        if expected <= begin:
            continue
        if resampler is None:
            if at > begin:
                raise Inexact
            resampler = Resampler(frame, first_sample=begin)
        elif not (contiguous and resampler.fits(frame)):
            raise Inexact
        pieces.extend(resampler.push(frame, at))
        if expected >= end:
            break
    if resampler:
        pieces.extend(resampler.finish())
    return _parts_of(np.concatenate(pieces) if pieces else np.empty(0, np.float32), k)
