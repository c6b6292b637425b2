"""Parallel decoding: ranges of about a minute, each thread with its own container.

A range equals the serial decode bit for bit. It is read from a multiple of 0.2 s, where every
resampler has its initial phase, and decoder and resampler warm up before it. The second before it
is decoded twice, by this range and the one before. If the two differ, the rest is decoded serially.

FFmpeg's filter graph reads most ranges (``movie``). The last range, and any that fails there, is
read frame by frame.

Containers such as MP3 have no index. To seek, FFmpeg reads everything before the target, which
would be a third of the work for an hour. One thread scans such a file once, and ranges start at the
offsets it finds.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice, repeat, takewhile
from math import ceil, gcd, inf
from queue import Empty, SimpleQueue
from threading import Event

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer

from ..errors import SourceError
from .container import FOREIGN_ERRORS, Media, frames, info, open_media
from .decode_serial import GAP_S
from .movie import TIMESTAMP_SAMPLES, Excerpt, Gap, read_excerpt
from .openat import OpenedFile
from .resampler import SAMPLE_RATE_HZ, Mix, Resampler, Samples

Source = tuple[InputContainer, AudioStream]

# Each thread's first range, and the maximum after that. Opening a file holds the GIL, so short
# ranges slow the others; long ones arrive late, and the first result waits for all threads.
FIRST_RANGE_S = 20
MAX_RANGE_S = 50
MAX_RANGE_IN_WARM_UPS = 10  # where warm-up is long
RANGES_AHEAD = 1.5  # ranges per thread in progress, so that a slow one leaves none idle
SHARED_S = 1  # overlap of neighbouring ranges
MARGIN_S = Fraction(1, 5)  # longer than half of any resampling filter
TAIL_S = 3  # the real end may be this close to the claimed one
SHARED_SAMPLES = SHARED_S * SAMPLE_RATE_HZ
# With more phases, swresample interpolates its filters, and one sample in a million differs in its
# last bit.
MAX_PHASES = 1024
MAX_PLANES = 2

# Warm-up of each decoder in seconds; Opus needed 3.3 s. AAC is missing: its noise generator runs on
# from the start of the file, so no range is exact.
WARM_UP_S = {"flac": 0, "alac": 0, "wavpack": 0, "tta": 0, "mp3float": 1, "mp3": 1, "opus": 8}
WITHOUT_TABLE = {"mp3"}  # containers without an index


class Inexact(Exception):
    """The range may differ from the serial decode. Never leaves this module."""


@dataclass(frozen=True, slots=True)
class Range:
    """Seconds ``[begin_s, end_s)`` of the stream; reading includes the overlap and margins."""

    begin_s: int
    end_s: int

    @property
    def read_from_s(self) -> Fraction:
        return max(Fraction(0), self.begin_s - SHARED_S - MARGIN_S)

    @property
    def read_to_s(self) -> Fraction:
        return self.end_s + MARGIN_S

    @property
    def n_samples(self) -> int:
        return (self.end_s - self.begin_s) * SAMPLE_RATE_HZ

    def of(self, out: Samples) -> tuple[Samples, Samples]:
        """Split what was read into the overlap with the range before and the range."""
        first = int((self.begin_s - self.read_from_s) * SAMPLE_RATE_HZ)
        shared = SHARED_SAMPLES if self.begin_s else 0
        return out[..., first - shared : first], out[..., first : first + self.n_samples]


@dataclass(frozen=True, slots=True)
class Place:
    """Byte offset and timestamp of a packet."""

    byte: int
    pts: int


@dataclass(frozen=True, slots=True)
class RangeLayout:
    """Timestamps, sample rate and decoder properties of a stream."""

    first_pts: int
    samples_per_tick: Fraction
    rate_hz: int
    warm_up_s: int
    lossless: bool
    stream: int
    mix: Mix
    claim_s: float | None  # duration by the container
    container_format: str

    @property
    def max_range_s(self) -> int:
        return max(MAX_RANGE_S, MAX_RANGE_IN_WARM_UPS * self.warm_up_s)

    @property
    def has_table(self) -> bool:
        """Whether the container has an index of packets."""
        return self.container_format not in WITHOUT_TABLE

    def excerpt(self, media: Media, part: Range, place: Place | None) -> Excerpt | None:
        """The request for ``movie``, or ``None`` where the stream may end in the range.

        Near the end only frames show whether everything is there. ``None`` also for an open file
        that cannot be reopened.
        """
        if isinstance(media.path, OpenedFile) and not media.path.reopens:
            return None
        begins_pts = self.first_pts - (place.pts if place else 0)
        first_pts_samples = begins_pts * self.samples_per_tick
        if (
            self.claim_s is None
            or part.end_s > self.claim_s - TAIL_S
            or first_pts_samples.denominator != 1
        ):
            return None
        begin, end = self.samples_of(part)
        return Excerpt(
            media,
            self.container_format,
            self.stream,
            self.rate_hz,
            self.mix,
            int(first_pts_samples),
            begin=begin,
            end=end,
            seek_pts=None if place else self.decode_from(part),
            skip_bytes=place.byte if place else 0,
        )

    def samples_of(self, part: Range) -> tuple[int, int]:
        """First and last sample to read."""
        return int(part.read_from_s * self.rate_hz), int(part.read_to_s * self.rate_hz)

    def sample_at(self, pts: int | None) -> int:
        """Raises Inexact if the timestamp falls between two samples."""
        if pts is None:
            raise Inexact
        at, rest = divmod(
            (pts - self.first_pts) * self.samples_per_tick.numerator,
            self.samples_per_tick.denominator,
        )
        if rest:
            raise Inexact
        return at

    def pts_at(self, second: int | Fraction) -> int:
        return self.first_pts + int(second * self.rate_hz / self.samples_per_tick)

    def decode_from(self, part: Range) -> int | None:
        """Timestamp to start decoding at; ``None`` for a newly opened container."""
        return (
            self.pts_at(max(Fraction(0), part.read_from_s - self.warm_up_s))
            if part.begin_s
            else None
        )


def range_layout(
    container: InputContainer, stream: AudioStream, channel: str = "auto"
) -> RangeLayout | None:
    """The layout, or ``None`` if ranges cannot be exact: codec, sample rate, rounded timestamps or
    late start.

    Also ``None`` for many channels, which would need too much memory.
    """
    name = stream.codec_context.name
    warm_up_s = 0 if name.startswith("pcm_") else WARM_UP_S.get(name)
    if warm_up_s is None or not stream.time_base:
        return None
    rate_hz = stream.codec_context.sample_rate
    if SAMPLE_RATE_HZ // gcd(rate_hz, SAMPLE_RATE_HZ) > MAX_PHASES or rate_hz * MARGIN_S % 1:
        return None
    frame = next(frames(container, stream, lambda at_s: None), None)
    if frame is None or frame.pts is None or frame.sample_rate != rate_hz:
        return None
    start_s = float(frame.pts * stream.time_base) - (container.start_time or 0) / av.time_base
    mix = Mix.of(frame.layout.name, frame.layout.nb_channels, channel)
    if abs(start_s) > GAP_S or mix.n_planes > MAX_PLANES:
        return None
    return RangeLayout(
        frame.pts,
        stream.time_base * rate_hz,
        rate_hz,
        warm_up_s,
        lossless=warm_up_s == 0,
        stream=stream.index,
        mix=mix,
        claim_s=info(container, stream).duration,
        container_format=container.format.name.partition(",")[0],  # some have several names
    )


def ranges(media: Media, layout: RangeLayout, threads: int) -> Generator[Samples]:
    """Yield the ranges in order, each complete except the last.

    Raises:
        Inexact: the next range may differ from the serial decode.
    """
    planned = _planned(layout, threads)
    claim_s = layout.claim_s or inf
    max_pending = max(threads + 1, round(RANGES_AHEAD * threads))
    reader = _Reader(media, layout, threads)
    pending: deque[tuple[Range, Future[tuple[Samples, Samples]]]] = deque()
    following = next(planned)
    seam = layout.mix.empty(0)
    try:
        while True:
            # Read past the claimed end only after everything before it.
            while len(pending) < max_pending and (not pending or following.begin_s < claim_s):
                pending.append((following, reader.begin(following)))
                following = next(planned)
            part, work = pending.popleft()
            again, samples = work.result()
            # Silence proves nothing for a lossy decoder.
            proves = layout.lossless or not seam.size or bool(seam.any())
            if not proves or seam.tobytes() != again.tobytes():
                raise Inexact
            seam = samples[..., -SHARED_SAMPLES:].copy()
            yield samples
            if samples.shape[-1] < part.n_samples:
                return
            if part.end_s > claim_s:  # the claim was wrong
                claim_s = inf
    except (SourceError, *FOREIGN_ERRORS) as error:
        raise Inexact from error
    finally:
        reader.close()


def _planned(layout: RangeLayout, threads: int) -> Iterator[Range]:
    """Infinite. The possible end of the stream gets its own range, because it is read frame by
    frame.

    After each thread's first, all ranges are equal and divide evenly among the threads.
    """
    before_tail_s = int(layout.claim_s or 0) - TAIL_S
    equal_s = _equal_range_s(before_tail_s - threads * FIRST_RANGE_S, threads, layout.max_range_s)
    begin_s = 0
    for max_s in chain(repeat(FIRST_RANGE_S, threads), repeat(equal_s)):
        left_s = before_tail_s - begin_s
        end_s = begin_s + (min(max_s, left_s) if left_s > 0 else max_s)
        yield Range(begin_s, end_s)
        begin_s = end_s


def _equal_range_s(seconds: int, threads: int, max_s: int) -> int:
    if seconds <= 0:  # nothing is left, or unknown length
        return max_s
    each = ceil(seconds / (threads * max_s))
    return ceil(seconds / (threads * each))


class _Reader:
    """Reads ranges of a file on a thread pool."""

    def __init__(self, media: Media, layout: RangeLayout, threads: int) -> None:
        self._media = media
        self._layout = layout
        self._threads = threads
        self._stop = Event()
        self._idle: SimpleQueue[Source] = SimpleQueue()
        self._places: dict[Range, Place] = {}
        self._pool = ThreadPoolExecutor(
            threads + (not layout.has_table), thread_name_prefix="decode"
        )
        if not layout.has_table:  # find offsets while the first ranges are read
            self._pool.submit(self._find_places)

    def begin(self, part: Range) -> Future[tuple[Samples, Samples]]:
        """Read a range; the result is that of ``Range.of``."""
        return self._pool.submit(self._read, part)

    def close(self) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get()[0].close()

    def _find_places(self) -> None:
        """Scan the whole file for the offsets at which ranges begin, a group of ranges at a
        time.
        """
        layout = self._layout
        container, stream = open_media(self._media)
        claim_s = layout.claim_s or 0
        planned = takewhile(lambda part: part.begin_s < claim_s, _planned(layout, self._threads))
        try:
            with suppress(SourceError, *FOREIGN_ERRORS):
                while not self._stop.is_set() and (parts := list(islice(planned, self._threads))):
                    container.seek(layout.pts_at(parts[-1].begin_s), stream=stream)
                    self._places |= _found_places(stream, layout, parts)
        finally:
            self._idle.put((container, stream))

    def _read(self, part: Range) -> tuple[Samples, Samples]:
        if excerpt := self._layout.excerpt(self._media, part, self._places.get(part)):
            with suppress(Gap, *FOREIGN_ERRORS):  # fall back to frames
                n_samples = int((part.read_to_s - part.read_from_s) * SAMPLE_RATE_HZ)
                return part.of(_read_in_graph(excerpt, n_samples, self._stop))
        try:
            if part.begin_s == 0:
                raise Empty  # needs a newly opened container
            source = self._idle.get_nowait()
        except Empty:
            source = open_media(self._media)
        try:
            return part.of(self._read_by_frames(source, part))
        finally:
            self._idle.put(source)

    def _read_by_frames(self, source: Source, part: Range) -> Samples:
        """Decode a range; a short result means the end of the stream.

        Raises:
            Inexact: damage, gaps or another format, which serial decoding handles.
        """
        begin, end = self._layout.samples_of(part)
        resampler: Resampler | None = None
        pieces: list[Samples] = []
        for at, frame in self._frames(source, part):
            if resampler is None:
                resampler = Resampler(frame, self._media.channel, first_sample=begin)
            elif not resampler.fits(frame):
                raise Inexact
            pieces.extend(resampler.push(frame, at))
            if at + frame.samples >= end:
                break
        if resampler:
            pieces.extend(resampler.finish())
        return np.concatenate(pieces, axis=-1) if pieces else self._layout.mix.empty(0)

    def _frames(self, source: Source, part: Range) -> Iterator[tuple[int, AudioFrame]]:
        """Yield frames from the range's first sample on, each with the index of its first sample.

        Raises:
            Inexact: damage, a gap, or a start after the first sample.
        """
        container, stream = source
        begin, _ = self._layout.samples_of(part)
        pts = self._layout.decode_from(part)
        if pts is not None:
            container.seek(pts, stream=stream)
        expected: int | None = None  # set by the first frame in the range

        def on_error(at_s: float | None) -> None:
            if expected is not None or not part.begin_s:
                raise Inexact

        for frame in frames(container, stream, on_error):
            at = self._layout.sample_at(frame.pts)
            end = at + frame.samples
            if self._stop.is_set():
                raise Inexact
            if expected is None and end <= begin:
                continue
            if at > begin if expected is None else at != expected:
                raise Inexact
            expected = end
            yield at, frame


def _found_places(
    stream: AudioStream, layout: RangeLayout, parts: Sequence[Range]
) -> dict[Range, Place]:
    """The offsets of ranges in the part that FFmpeg has scanned."""
    entries = stream.index_entries
    found: dict[Range, Place] = {}
    for part in parts:
        pts = layout.decode_from(part)
        if pts is not None and (at := entries.search_timestamp(pts)) >= 0:
            found[part] = Place(entries[at].pos, entries[at].timestamp)
    return found


def _read_in_graph(excerpt: Excerpt, n_samples: int, stop: Event) -> Samples:
    """Raises Gap if samples are missing or out of step with their timestamps; FFmpeg's errors."""
    out = excerpt.mix.empty(n_samples + TIMESTAMP_SAMPLES)
    n_read = 0
    # Each piece is copied at once, so that FFmpeg reuses the buffer while it is in the cache.
    for piece in read_excerpt(excerpt):
        if stop.is_set():
            raise Inexact
        end = n_read + piece.shape[-1]
        if end > out.shape[-1]:
            raise Gap
        out[..., n_read:end] = piece
        n_read = end
    if n_samples - n_read > TIMESTAMP_SAMPLES:  # a gap at the end, or an early end
        raise Gap
    return out[..., :n_read]
