"""The parallel decode: ranges of less than a minute or so on several threads, each thread with its own container.

A range equals the serial decode because it is read from a whole fifth of a second of the stream (there every resampler
is in the phase it has at the start), because decoder and resampler warm up before it, and because the second before it
is computed twice, by it and by the range before: unless the two agree bit for bit, the rest is decoded serially.

Most ranges are read inside FFmpeg's filter graph (``movie``). The last one, and any that does not come out whole there,
is read frame by frame.

Some containers have no table of where their packets are: to find a second, FFmpeg reads all that is before it, and for
an hour of MP3 in ranges that would be a third of the work. There one thread reads through the file once, and the ranges
begin at the bytes that it found.
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
from av.audio.stream import AudioStream
from av.container import InputContainer

from ..errors import SourceError
from .container import FOREIGN_ERRORS, Media, frames, info, open_media
from .decode_serial import GAP_S
from .movie import TIMESTAMP_SAMPLES, Excerpt, Gap, read_excerpt
from .openat import OpenedFile
from .resampler import SAMPLE_RATE_HZ, Mix, Resampler, Samples

Source = tuple[InputContainer, AudioStream]

# Each thread's first range, and the longest that follow. To open a file takes the interpreter lock, so short ranges
# hold up others; but long ones come late, and what is waited for first is what all threads work at.
FIRST_RANGE_S = 20
LONGEST_RANGE_S = 50
LONGEST_IN_WARM_UPS = 10  # where decoding what comes before takes long
RANGES_AHEAD = 1.5  # a thread, begun or waiting: one that takes long, for which all wait, leaves none without work
SHARED_S = 1  # what two neighbours both compute
MARGIN_S = Fraction(1, 5)  # longer than half of any resampling filter
TAIL_S = 3  # before the end that a container claims; there the end may be
SHARED_SAMPLES = SHARED_S * SAMPLE_RATE_HZ
# With more, swresample interpolates between its filters, and one sample in a million then differs in its last bit.
MAX_PHASES = 1024
MOST_PLANES = 2

# Seconds that a decoder needs to forget where it began; Opus was seen to take 3.3 s. AAC is not here: its noise
# substitution draws from a generator that runs on from the start of the file, so no range of it is exact.
WARM_UP_S = {"flac": 0, "alac": 0, "wavpack": 0, "tta": 0, "mp3float": 1, "mp3": 1, "opus": 8}
WITHOUT_TABLE = {"mp3"}  # containers that do not say where their packets are


class Inexact(Exception):
    """A range cannot be shown to equal the serial decode; never leaves this file."""


@dataclass(frozen=True, slots=True)
class Range:
    """Which seconds of the stream a thread decodes, and which it reads for that: from before the second that it shares
    with the range before, to behind its end."""

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
        """The second that it shares with the range before, and the range itself, of all that was read."""
        first = int((self.begin_s - self.read_from_s) * SAMPLE_RATE_HZ)
        shared = SHARED_SAMPLES if self.begin_s else 0
        return out[..., first - shared : first], out[..., first : first + self.n_samples]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a packet begins in the file, and its timestamp."""

    byte: int
    pts: int


@dataclass(frozen=True, slots=True)
class RangeLayout:
    """How to turn this stream's timestamps into sample numbers, and how its decoder has to be treated."""

    first_pts: int
    samples_per_tick: Fraction
    rate_hz: int
    warm_up_s: int
    lossless: bool
    stream: int
    mix: Mix
    claim_s: float | None  # how long the container says that the stream is
    container_format: str

    @property
    def longest_range_s(self) -> int:
        return max(LONGEST_RANGE_S, LONGEST_IN_WARM_UPS * self.warm_up_s)

    @property
    def has_table(self) -> bool:
        """Of where its packets are."""
        return self.container_format not in WITHOUT_TABLE

    def excerpt(self, media: Media, part: Range, place: Place | None) -> Excerpt | None:
        """``None`` where the stream's end may be in it: only the frames themselves tell whether all of it is there.

        Nor has FFmpeg a name for a held file where the system lends out one position to all who open it.
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
        """From which sample of the stream to which it is read."""
        return int(part.read_from_s * self.rate_hz), int(part.read_to_s * self.rate_hz)

    def sample_at(self, pts: int | None) -> int:
        """Raises: Inexact where the timestamp falls between two samples."""
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
        """Timestamp at which the decoder has to begin; ``None``: where a fresh container stands."""
        return (
            self.pts_at(max(Fraction(0), part.read_from_s - self.warm_up_s))
            if part.begin_s
            else None
        )


def range_layout(
    container: InputContainer, stream: AudioStream, channel: str = "auto"
) -> RangeLayout | None:
    """None where ranges could not be exact: codec or sample rate unfit, timestamps rounded, a late start.

    Nor are they worth their memory where many channels come out.
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
    if abs(start_s) > GAP_S or mix.n_planes > MOST_PLANES:
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
    """The ranges in order, each with all its samples but for the last.

    Raises:
        Inexact: the next range cannot be shown to equal the serial decode.
    """
    planned, claim_s = _planned(layout, threads), layout.claim_s or inf
    most_ahead = max(threads + 1, round(RANGES_AHEAD * threads))
    reader = _Reader(media, layout, threads)
    ahead: deque[tuple[Range, Future[tuple[Samples, Samples]]]] = deque()
    following, seam = next(planned), layout.mix.empty(0)
    try:
        while True:
            # What is behind the end that the container claims is looked at when all before it is there.
            while len(ahead) < most_ahead and (not ahead or following.begin_s < claim_s):
                ahead.append((following, reader.begin(following)))
                following = next(planned)
            part, work = ahead.popleft()
            again, samples = work.result()
            if not _same_seam(seam, again, layout):
                raise Inexact
            seam = samples[..., -SHARED_SAMPLES:].copy()
            yield samples
            if samples.shape[-1] < part.n_samples:
                return
            if part.end_s > claim_s:  # which was wrong, then
                claim_s = inf
    except (SourceError, *FOREIGN_ERRORS) as error:
        raise Inexact from error
    finally:
        reader.close()


def _same_seam(before: Samples, again: Samples, layout: RangeLayout) -> bool:
    """Whether two ranges agree, bit for bit, where they overlap. Silence proves nothing about a lossy decoder."""
    return before.tobytes() == again.tobytes() and (
        layout.lossless or not before.size or bool(before.any())
    )


def _planned(layout: RangeLayout, threads: int) -> Iterator[Range]:
    """Without an end. What may be the end of the stream has a range of its own, because frame by frame it is slower.

    After each thread's first they are equal, and as many for every thread: none is without work while another has a
    whole range to go.
    """
    before_tail_s = int(layout.claim_s or 0) - TAIL_S
    equal_s = _equal_range_s(
        before_tail_s - threads * FIRST_RANGE_S, threads, layout.longest_range_s
    )
    begin_s = 0
    for longest_s in chain(repeat(FIRST_RANGE_S, threads), repeat(equal_s)):
        left_s = before_tail_s - begin_s
        end_s = begin_s + (min(longest_s, left_s) if left_s > 0 else longest_s)
        yield Range(begin_s, end_s)
        begin_s = end_s


def _equal_range_s(seconds: int, threads: int, longest_s: int) -> int:
    if seconds <= 0:  # all there is, or the length is not known
        return longest_s
    each = ceil(seconds / (threads * longest_s))
    return ceil(seconds / (threads * each))


class _Reader:
    """Reads ranges of a file on some threads."""

    def __init__(self, media: Media, layout: RangeLayout, threads: int) -> None:
        self._media, self._layout, self._threads = media, layout, threads
        self._stop = Event()
        self._idle: SimpleQueue[Source] = SimpleQueue()
        self._places: dict[Range, Place] = {}
        self._pool = ThreadPoolExecutor(
            threads + (not layout.has_table), thread_name_prefix="decode"
        )
        if not layout.has_table:  # places are looked for beside the first ranges
            self._pool.submit(self._find_places)

    def begin(self, part: Range) -> Future[tuple[Samples, Samples]]:
        """See ``Range.of``."""
        return self._pool.submit(self._read, part)

    def close(self) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)
        while not self._idle.empty():
            self._idle.get()[0].close()

    def _find_places(self) -> None:
        """Where ranges begin, of those that can be found; the whole file is read through, as far as each thread's next
        range at a time."""
        layout, (container, stream) = self._layout, open_media(self._media)
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
            with suppress(Gap, *FOREIGN_ERRORS):  # frame by frame, then
                n_samples = int((part.read_to_s - part.read_from_s) * SAMPLE_RATE_HZ)
                return part.of(_read_in_graph(excerpt, n_samples, self._stop))
        try:
            if part.begin_s == 0:
                raise Empty  # it reads from where a fresh container stands
            source = self._idle.get_nowait()
        except Empty:
            source = open_media(self._media)
        try:
            return part.of(self._read_by_frames(source, part))
        finally:
            self._idle.put(source)

    def _read_by_frames(self, source: Source, part: Range) -> Samples:
        """Less than what is to be read of the range: the end.

        Raises:
            Inexact: anything that the serial decode has rules for: damage, holes, another format.
        """
        layout, (container, stream) = self._layout, source
        begin, end = layout.samples_of(part)
        pts = layout.decode_from(part)
        if pts is not None:
            container.seek(pts, stream=stream)
        resampler: Resampler | None = None
        pieces: list[Samples] = []
        expected = 0

        def on_error(at_s: float | None) -> None:
            if resampler or not part.begin_s:
                raise Inexact

        for frame in frames(container, stream, on_error):
            if self._stop.is_set():
                raise Inexact
            at = layout.sample_at(frame.pts)
            contiguous, expected = at == expected, at + frame.samples
            if expected <= begin:
                continue
            if resampler is None:
                if at > begin:
                    raise Inexact
                resampler = Resampler(frame, self._media.channel, first_sample=begin)
            elif not (contiguous and resampler.fits(frame)):
                raise Inexact
            pieces.extend(resampler.push(frame, at))
            if expected >= end:
                break
        if resampler:
            pieces.extend(resampler.finish())
        return np.concatenate(pieces, axis=-1) if pieces else layout.mix.empty(0)


def _found_places(
    stream: AudioStream, layout: RangeLayout, parts: Sequence[Range]
) -> dict[Range, Place]:
    """Of ranges that FFmpeg has read past."""
    entries, found = stream.index_entries, {}
    for part in parts:
        pts = layout.decode_from(part)
        if pts is not None and (at := entries.search_timestamp(pts)) >= 0:
            found[part] = Place(entries[at].pos, entries[at].timestamp)
    return found


def _read_in_graph(excerpt: Excerpt, n_samples: int, stop: Event) -> Samples:
    """Raises Gap where it is not all there or not in step with its timestamps; FFmpeg's errors."""
    out = excerpt.mix.empty(n_samples + TIMESTAMP_SAMPLES)
    n_read = 0
    for piece in read_excerpt(
        excerpt
    ):  # copied at once: what FFmpeg gets back serves for the next, already paged in
        if stop.is_set():
            raise Inexact
        end = n_read + piece.shape[-1]
        if end > out.shape[-1]:
            raise Gap
        out[..., n_read:end] = piece
        n_read = end
    if n_samples - n_read > TIMESTAMP_SAMPLES:  # a hole at the end, or an end that comes early
        raise Gap
    return out[..., :n_read]
