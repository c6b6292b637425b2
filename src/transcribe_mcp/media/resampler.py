"""Resample frames of one format to float32 at 16 kHz, mono or by channel, with FFmpeg's filters.

The filters release the GIL.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import av
import av.filter
import av.filter.context
import numpy as np
from av.audio.frame import AudioFrame
from numpy.typing import NDArray

Samples = NDArray[np.float32]
FrameFormat = tuple[str, str, int]
"""Sample format and channel layout by FFmpeg's names, sample rate in Hz."""

SAMPLE_RATE_HZ = 16_000
FRAME_SAMPLES = 8192  # input frames; with 1152 samples resampling takes a third longer
PULL_S = 2.0


@dataclass(frozen=True, slots=True)
class Mix:
    """How the filters mix channels.

    Attributes:
        n_planes: number of output channels.
        pan: argument of the filter ``pan``, or empty.
        to: FFmpeg's name of the output layout, or empty to keep the channels.
    """

    n_planes: int
    pan: str = ""
    to: str = ""

    @classmethod
    def of(cls, layout: str, n_channels: int, channel: str) -> Mix:
        """The mix for a layout by FFmpeg's name.

        ``channel`` is a number, ``mix`` for the mean, or ``auto``, which keeps the channels so that
        ``channels.Downmix`` can detect cancellation. For surround layouts (5.1) ``auto`` mixes to
        stereo.
        """
        is_unplaced = layout.endswith("channels")
        if channel.isdecimal():
            return cls(1, f"mono|c0=c{min(int(channel), n_channels) - 1}", "mono")
        if channel == "auto" and n_channels > 1:
            return cls(n_channels) if is_unplaced or n_channels == 2 else cls(2, to="stereo")
        # Without known speaker positions, the plain mean.
        return cls(
            1,
            "mono|c0<" + "+".join(f"c{i}" for i in range(n_channels)) if is_unplaced else "",
            "mono",
        )

    def filters(
        self, graph: av.filter.Graph, frame_samples: int = FRAME_SAMPLES
    ) -> list[av.filter.context.FilterContext]:
        """Filters from any format to this mix at 16 kHz, by frames of so many input samples."""
        # Mixing before resampling halves the work. Weights that sum to 1 cannot clip.
        layout = {"out_chlayout": self.to} if self.to else {}
        filters = [
            graph.add("aresample", out_sample_fmt="fltp", rematrix_maxval="1.0", **layout),
            graph.add("asetnsamples", nb_out_samples=f"{frame_samples}", pad="0"),
            graph.add("aresample", sample_rate=f"{SAMPLE_RATE_HZ}"),
            graph.add(
                "aformat", sample_rates=f"{SAMPLE_RATE_HZ}", sample_fmts="flt"
            ),  # packed, because PyAV reads out of bounds with 8 planes
        ]
        return [graph.add("pan", self.pan), *filters] if self.pan else filters

    def samples(self, frame: AudioFrame) -> Samples:
        """Convert an output frame of ``filters`` to (n,), or (n_planes, n) for several planes."""
        packed = np.frombuffer(frame.planes[0], np.float32, frame.samples * self.n_planes)  # type: ignore[call-overload]
        return (
            packed
            if self.n_planes == 1
            else np.ascontiguousarray(packed.reshape(-1, self.n_planes).T)
        )

    def empty(self, n_samples: int) -> Samples:
        shape = (n_samples,) if self.n_planes == 1 else (self.n_planes, n_samples)
        return np.empty(shape, np.float32)


class Resampler:
    """Resamples frames of one format to float32 at 16 kHz: (n,) or (n_planes, n) in equal pieces
    except at the end.
    """

    def __init__(
        self, frame: AudioFrame, channel: str, *, first_sample: int = 0, piece_s: float = PULL_S
    ) -> None:
        """
        Args:
            first_sample: drops those before it, by the numbers given to ``push``.
            piece_s: length of the pieces; up to two of them are held back.
        """
        self._format = format_of(frame)
        self._piece_s = piece_s
        self._pending_s = 0.0
        format_name, layout, rate = self._format
        self._mix = Mix.of(layout, frame.layout.nb_channels, channel)
        self._sample_s = 1 / rate
        self._graph = graph = new_graph()
        self._source = graph.add(
            "abuffer",
            sample_rate=f"{rate}",
            sample_fmt=format_name,
            channel_layout=layout,
            time_base=f"1/{rate}",
        )
        self._sink = graph.add("abuffersink")
        chain = [self._source]
        if first_sample:
            chain.append(graph.add("atrim", start_pts=f"{first_sample}"))
        chain += self._mix.filters(graph, min(FRAME_SAMPLES, round(piece_s * rate)))
        graph.link_nodes(*chain, self._sink).configure()
        graph.set_audio_frame_size(round(piece_s * SAMPLE_RATE_HZ))

    def fits(self, frame: AudioFrame) -> bool:
        return format_of(frame) == self._format

    def push(self, frame: AudioFrame, at_sample: int) -> Iterator[Samples]:
        """Add a frame that starts at sample ``at_sample`` of the stream; yield finished pieces."""
        frame.pts = at_sample
        self._source.push(frame)
        self._pending_s += frame.samples * self._sample_s
        while self._pending_s >= 2 * self._piece_s:
            self._pending_s -= self._piece_s
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
        return [self._mix.samples(frame)]


def new_graph() -> av.filter.Graph:
    """A single-threaded filter graph.

    By default FFmpeg starts one thread per core for each graph: with 16 cores, three quarters of
    the time to open a file.
    """
    graph = av.filter.Graph()
    graph.threads = 1
    return graph


def format_of(frame: AudioFrame) -> FrameFormat:
    return frame.format.name, frame.layout.name, frame.sample_rate
