"""One range of a recording, read, decoded and resampled inside FFmpeg's filter graph.

Frame by frame, Python handles 38 packets for every second of an MP3 and holds the interpreter lock for a quarter of the
time, so that threads wait for each other. Here the graph's source opens the file itself, and Python is called once for
every twenty seconds of audio. What the graph does not tell (damage, holes) shows in the timestamps of what comes out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from threading import Lock

import av
import av.filter
from av.audio.frame import AudioFrame
from av.filter.context import FilterContext

from .container import OPEN_OPTIONS, Media
from .resampler import SAMPLE_RATE_HZ, Mix, Samples, new_graph

SEEK_BACKWARD = 1  # AVSEEK_FLAG_BACKWARD: to the last place before, not the nearest
PULL_S = 20.0  # every time, a thread has to wait for the interpreter lock, and the busier Python is the longer
TIMESTAMP_SAMPLES = (
    1  # by how much a timestamp at 16 kHz may be off without a hole being there: rounding
)

# To open a file takes the interpreter lock for a millisecond or more. Where several threads wait to do that, a thread
# that tells a GPU what to do would come after all of them.
_opening = Lock()


class Gap(Exception):
    """The samples do not follow one another as their timestamps say, or do not begin where they should."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """Which part of a stream to read.

    Attributes:
        container_format: FFmpeg's name of it; to find out again for every range would take as long as to open the file.
        stream: the index of the sound track.
        rate_hz: its sample rate.
        mix: the channels to take.
        first_pts_samples: the timestamp of its first sample, in samples.
        begin, end: the part, in samples from the first.
        seek_pts: where to start decoding, as a timestamp of the stream, early enough for the decoder to forget where it
            began; ``None`` for where the reader begins.
        skip_bytes: of the file, before the reader begins; timestamps then count from there.
    """

    media: Media
    container_format: str
    stream: int
    rate_hz: int
    mix: Mix
    first_pts_samples: int
    begin: int
    end: int
    seek_pts: int | None
    skip_bytes: int = 0


def read_excerpt(excerpt: Excerpt) -> Iterator[Samples]:
    """The part in pieces of 20 s: float32 at 16 kHz, shaped as ``Mix.samples``; less where the stream ends before.

    Raises:
        Gap: see there.
        av.FFmpegError: the file cannot be opened or decoded this way.
    """
    with _opening:
        _graph, source, sink = _open(excerpt)  # it has to outlive its ends
    if excerpt.seek_pts is not None:
        # As a command, because it lets go of the interpreter lock, and as an option of the filter it would not: finding
        # a place at the end of a long MP3 takes as long as decoding two minutes.
        source.process_command("seek", f"{excerpt.stream}|{excerpt.seek_pts}|{SEEK_BACKWARD}")
    expected = excerpt.begin * SAMPLE_RATE_HZ // excerpt.rate_hz
    while True:
        try:
            frame = sink.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return
        assert isinstance(frame, AudioFrame)
        if frame.pts is None or abs(frame.pts - expected) > TIMESTAMP_SAMPLES:
            raise Gap
        expected += frame.samples
        yield excerpt.mix.samples(frame)


def _open(excerpt: Excerpt) -> tuple[av.filter.Graph, FilterContext, FilterContext]:
    """The graph and its two ends."""
    graph = new_graph()
    open_options = OPEN_OPTIONS | {"skip_initial_bytes": str(excerpt.skip_bytes)}
    options = ":".join(f"{name}={value}" for name, value in open_options.items())
    source = graph.add(
        "amovie",
        filename=excerpt.media.url,
        format_name=excerpt.container_format,
        streams=f"{excerpt.stream}",
        format_opts=options,
        dec_threads="1",  # the ranges are the threads
    )
    chain = [
        source,
        graph.add("asettb", f"1/{excerpt.rate_hz}"),
        graph.add("asetpts", f"PTS-({excerpt.first_pts_samples})"),
        graph.add("atrim", start_pts=f"{excerpt.begin}", end_pts=f"{excerpt.end}"),
        *excerpt.mix.filters(graph),
    ]
    sink = graph.add("abuffersink")
    graph.link_nodes(*chain, sink).configure()
    graph.set_audio_frame_size(round(PULL_S * SAMPLE_RATE_HZ))
    return graph, source, sink
