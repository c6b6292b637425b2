"""Read, decode and resample one range of a recording inside FFmpeg's filter graph.

Frame by frame, Python handles 38 packets per second of MP3 and holds the GIL for a quarter of the
time. Here the graph opens the file, and Python runs once per 20 s of audio. Damage and gaps show in
the timestamps of the output.
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

SEEK_BACKWARD = 1  # AVSEEK_FLAG_BACKWARD: to the last keyframe before the target
PULL_S = 20.0  # each pull waits for the GIL
# Rounding error of a timestamp at 16 kHz.
TIMESTAMP_SAMPLES = 1

# Opening a file holds the GIL for a millisecond or more. Several threads at once would delay the
# thread that launches GPU work.
_opening = Lock()


class Gap(Exception):
    """The samples are not contiguous by their timestamps, or start at the wrong place."""


@dataclass(frozen=True, slots=True)
class Excerpt:
    """The part of a stream to read.

    Attributes:
        container_format: FFmpeg's name; detecting it for every range takes as long as opening the
            file.
        stream: index of the audio track.
        rate_hz: its sample rate.
        mix: the channels to read.
        first_pts_samples: timestamp of its first sample, in samples.
        begin, end: the part, in samples from the first.
        seek_pts: timestamp to start decoding at, early enough for the decoder to warm up; ``None``
            for the start of the reader.
        skip_bytes: bytes of the file before the reader; timestamps then count from there.
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
    """Yield the part in pieces of 20 s: float32 at 16 kHz, shaped as ``Mix.samples``; less at the
    end of the stream.

    Raises:
        Gap: samples are missing.
        av.FFmpegError: opening or decoding failed.
    """
    with _opening:
        _graph, source, sink = _open(excerpt)  # the graph must outlive its ends
    if excerpt.seek_pts is not None:
        # The seek command releases the GIL; the option of the filter does not. Seeking to the end
        # of a long MP3 takes as long as decoding two minutes.
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
