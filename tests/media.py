"""Builds real media files with PyAV's own encoders."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


def speechlike(seconds: float, rate_hz: int = 16_000) -> NDArray[np.float32]:
    """(n,) float32: a gliding tone with noise and pauses; no two seconds alike, so that a shift cannot hide."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    voice = np.sin(2 * np.pi * (180 * t + 40 * np.sin(0.7 * t))) * (0.5 + 0.5 * np.sin(2.1 * t))
    noise = np.random.default_rng(7).standard_normal(len(t)) * 0.02
    return (0.3 * voice + noise).astype(np.float32)


def write_audio(
    path: Path, codec: str, samples: NDArray[np.float32], *, rate_hz: int = 16_000, layout: str = "mono", **options: str
) -> Path:
    """Encode ``samples`` (the same in every channel) with ``codec`` into the container that the suffix names."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout=layout, options={"strict": "-2", **options})
        for frame in _frames(samples, rate_hz, layout):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _frames(samples: NDArray[np.float32], rate_hz: int, layout: str):
    channels = av.AudioLayout(layout).nb_channels
    for start in range(0, len(samples), rate_hz):
        part = samples[start : start + rate_hz]
        frame = av.AudioFrame.from_ndarray(np.repeat(part, channels)[None], format="flt", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, start, Fraction(1, rate_hz)
        yield frame


def write_video(
    path: Path, *, seconds: float = 2.0, audio_codec: str | None = "aac", audio_start_s: float = 0.0,
    hole_s: tuple[float, float] | None = None,
) -> Path:  # fmt: skip
    """A 64 × 48 video with uneven frame times; its sound starts at ``audio_start_s`` and lacks ``hole_s``."""
    rate_hz = 48_000 if audio_codec == "libopus" else 16_000
    with av.open(str(path), "w") as container:
        video = container.add_stream("libvpx" if path.suffix == ".webm" else "mpeg4", rate=25)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream(audio_codec, rate=rate_hz, layout="mono") if audio_codec else None
        packets = []
        for i in range(round(seconds * 25)):
            frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), i * 5 % 255, np.uint8), format="rgb24")
            frame.pts, frame.time_base = i * 40 + (i % 3) * 7, Fraction(1, 1000)
            packets += video.encode(frame)
        packets += video.encode(None)
        if audio:
            packets += _shifted(audio, speechlike(max(2.0, seconds - audio_start_s), rate_hz), audio_start_s, hole_s)
        for packet in sorted(packets, key=lambda p: float((p.dts or 0) * p.time_base)):
            container.mux(packet)
    return path


def _shifted(stream, samples, start_s: float, hole_s: tuple[float, float] | None):
    packets = [p for frame in _frames(samples, stream.rate, "mono") for p in stream.encode(frame)] + stream.encode(None)
    for packet in packets:
        packet.pts += round(start_s / packet.time_base)
        packet.dts = packet.pts
        at_s = float(packet.pts * packet.time_base)
        if not hole_s or not hole_s[0] <= at_s < hole_s[1]:
            yield packet


def wav_bytes(data: bytes, *, rate_hz: int, channels: int, bits: int, code: int = 1, claim: int | None = None) -> bytes:
    """A WAV written by hand; ``code`` 1 is integers, 3 floats; ``claim`` is a size to lie about."""
    size = len(data) if claim is None else claim
    width = channels * bits // 8
    form = struct.pack("<HHIIHH", code, channels, rate_hz, rate_hz * width, width, bits)
    return (
        b"RIFF" + struct.pack("<I", 36 + size) + b"WAVEfmt \x10\0\0\0" + form + b"data" + struct.pack("<I", size) + data
    )
