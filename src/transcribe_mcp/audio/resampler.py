"""Frames of one format -> mono float32 at 16 kHz, through FFmpeg's filters (they let go of the interpreter lock)."""

from __future__ import annotations

from collections.abc import Iterator

import av
import av.filter
import av.filter.context
import numpy as np
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

Samples = NDArray[np.float32]

SAMPLE_RATE_HZ = 16_000
FRAME_SAMPLES = 8192  # what the resampler is fed: it is a third slower on frames of 1152
PULL_S = 2.0


class Resampler:
    """Frames of one format -> (n,) float32 mono at 16 kHz, n a fixed number but at the end."""

    def __init__(self, frame: AudioFrame, *, first_sample: int = 0) -> None:
        """``first_sample``: what lies before it, by the numbers given to ``push``, is cut off."""
        self._format = _format_of(frame)
        self._pending_s = 0.0
        rate, layout, channels = frame.sample_rate, frame.layout.name, frame.layout.nb_channels
        self._sample_s = 1 / rate
        self._graph = graph = new_graph()
        self._source = graph.add(
            "abuffer", sample_rate=f"{rate}", sample_fmt=frame.format.name, channel_layout=layout, time_base=f"1/{rate}"
        )
        self._sink = graph.add("abuffersink")
        chain = [self._source]
        if first_sample:
            chain.append(graph.add("atrim", start_pts=f"{first_sample}"))
        chain += to_mono_16_khz(graph, channels if layout.endswith("channels") else None)
        graph.link_nodes(*chain, self._sink).configure()
        graph.set_audio_frame_size(round(PULL_S * SAMPLE_RATE_HZ))

    def fits(self, frame: AudioFrame) -> bool:
        return _format_of(frame) == self._format

    def push(self, frame: AudioFrame, at_sample: int) -> Iterator[Samples]:
        """Take ``frame``, which starts at sample ``at_sample`` of the stream; give what is ready."""
        frame.pts = at_sample
        self._source.push(frame)
        self._pending_s += frame.samples * self._sample_s
        while self._pending_s >= 2 * PULL_S:
            self._pending_s -= PULL_S
            yield from self._pull()

    def finish(self) -> Iterator[Samples]:
        self._source.push(None)
        while pieces := self._pull():
            yield from pieces

    def _pull(self) -> list[Samples]:
        try:
            frame = self._sink.pull()
        except (av.error.BlockingIOError, av.error.EOFError):
            return []
        assert isinstance(frame, AudioFrame)
        return [np.frombuffer(frame.planes[0], np.float32, frame.samples)]  # type: ignore[call-overload]


def new_graph() -> av.filter.Graph:
    """One that works in the thread that asks it. By itself, each would start as many as there are cores and end them
    again; nothing here is shared among them, and with 16 that was three quarters of what it takes to open a file."""
    graph = av.filter.Graph()
    graph.threads = 1
    return graph


def to_mono_16_khz(graph: av.filter.Graph, unplaced_channels: int | None) -> list[av.filter.context.FilterContext]:
    """Filters for any format. Channels whose places are unknown are as many as given, and their plain mean is taken."""
    # To mono before the rate: half the work for stereo. Weights that sum to 1 cannot clip.
    filters = [
        graph.add("aresample", out_chlayout="mono", out_sample_fmt="fltp", rematrix_maxval="1.0"),
        graph.add("asetnsamples", nb_out_samples=f"{FRAME_SAMPLES}", pad="0"),
        graph.add("aresample", sample_rate=f"{SAMPLE_RATE_HZ}"),
        graph.add("aformat", sample_rates=f"{SAMPLE_RATE_HZ}", sample_fmts="flt", channel_layouts="mono"),
    ]
    if unplaced_channels is None:
        return filters
    return [graph.add("pan", "mono|c0<" + "+".join(f"c{i}" for i in range(unplaced_channels))), *filters]


def _format_of(frame: AudioFrame) -> tuple[str, str, int]:
    return frame.format.name, frame.layout.name, frame.sample_rate
