"""Builds real media files with PyAV's own encoders."""

from __future__ import annotations

import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray


def speechlike(seconds: float, rate_hz: int = 16_000) -> NDArray[np.float32]:
    """(n,) float32: a gliding tone with noise and pauses; no two seconds alike, so that a shift
    cannot hide.
    """
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    voice = np.sin(2 * np.pi * (180 * t + 40 * np.sin(0.7 * t))) * (0.5 + 0.5 * np.sin(2.1 * t))
    noise = np.random.default_rng(7).standard_normal(len(t)) * 0.02
    return (0.3 * voice + noise).astype(np.float32)


def write_audio(
    path: Path,
    codec: str,
    samples: NDArray[np.float32],
    *,
    rate_hz: int = 16_000,
    layout: str = "mono",
    container_options: dict[str, str] | None = None,
    **options: str,
) -> Path:
    """Encode ``samples`` (the same in every channel) with ``codec`` into the container that the
    suffix names.
    """
    with av.open(str(path), "w", container_options=container_options) as container:
        stream = container.add_stream(
            codec, rate=rate_hz, layout=layout, options={"strict": "-2", **options}
        )
        for frame in _frames(samples, rate_hz, layout):
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _frames(samples: NDArray[np.float32], rate_hz: int, layout: str):
    channels = av.AudioLayout(layout).nb_channels
    for start in range(0, len(samples), rate_hz):
        part = samples[start : start + rate_hz]
        frame = av.AudioFrame.from_ndarray(
            np.repeat(part, channels)[None], format="flt", layout=layout
        )
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, start, Fraction(1, rate_hz)
        yield frame


def write_video(
    path: Path, *, seconds: float = 2.0, audio_codec: str | None = "aac",
    audio_start_s: float = 0.0, hole_s: tuple[float, float] | None = None,
    audio_seconds: float | None = None,
) -> Path:  # fmt: skip
    """A 64 × 48 video with uneven frame times; its sound starts at ``audio_start_s`` and lacks
    ``hole_s``.
    """
    rate_hz = {"libopus": 48_000, "libmp3lame": 22_050}.get(audio_codec, 16_000)
    with av.open(str(path), "w") as container:
        video = container.add_stream(
            {".webm": "libvpx", ".flv": "flv"}.get(path.suffix, "mpeg4"), rate=25
        )
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = (
            container.add_stream(audio_codec, rate=rate_hz, layout="mono") if audio_codec else None
        )
        if audio_codec == "wmav2":
            audio.bit_rate = 64_000
        packets = []
        for i in range(round(seconds * 25)):
            frame = av.VideoFrame.from_ndarray(
                np.full((48, 64, 3), i * 5 % 255, np.uint8), format="rgb24"
            )
            frame.pts, frame.time_base = i * 40 + (i % 3) * 7, Fraction(1, 1000)
            packets += video.encode(frame)
        packets += video.encode(None)
        if audio:
            sound = speechlike(audio_seconds or max(2.0, seconds - audio_start_s), rate_hz)
            packets += _shifted(audio, sound, audio_start_s, hole_s)
        for packet in sorted(packets, key=lambda p: float((p.dts or 0) * p.time_base)):
            container.mux(packet)
    return path


def _shifted(stream, samples, start_s: float, hole_s: tuple[float, float] | None):
    packets = [
        p for frame in _frames(samples, stream.rate, "mono") for p in stream.encode(frame)
    ] + stream.encode(None)
    for packet in packets:
        packet.pts += round(start_s / packet.time_base)
        packet.dts = packet.pts
        at_s = float(packet.pts * packet.time_base)
        if not hole_s or not hole_s[0] <= at_s < hole_s[1]:
            yield packet


def write_shifted(
    path: Path, codec: str, samples: NDArray[np.float32], rate_hz: int, start_s: float
) -> Path:
    """Sound alone, whose timestamps begin at ``start_s``."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        for packet in _shifted(stream, samples, start_s, None):
            container.mux(packet)
    return path


def wav_bytes(
    data: bytes, *, rate_hz: int, channels: int, bits: int, code: int = 1, claim: int | None = None
) -> bytes:
    """A WAV written by hand; ``code`` 1 is integers, 3 floats; ``claim`` is a size to lie about."""
    size = len(data) if claim is None else claim
    width = channels * bits // 8
    form = struct.pack("<HHIIHH", code, channels, rate_hz, rate_hz * width, width, bits)
    return (
        b"RIFF"
        + struct.pack("<I", min(36 + size, 0xFFFF_FFFF))
        + b"WAVEfmt \x10\0\0\0"
        + form
        + b"data"
        + struct.pack("<I", size)
        + data
    )


def write_planes(
    path: Path, layout: str, planes: list[NDArray[np.float32]], *, rate_hz: int = 16_000
) -> Path:
    """Channels that differ, in the codec that the suffix stands for; ``3 channels`` has no places
    for them.
    """
    samples = np.stack(planes, axis=1)
    if path.suffix == ".wav" and layout.endswith("channels"):
        data = (samples * 32_767).astype("<i2").tobytes()
        path.write_bytes(wav_bytes(data, rate_hz=rate_hz, channels=len(planes), bits=16))
        return path
    with av.open(str(path), "w") as container:
        stream = container.add_stream(
            "flac" if path.suffix == ".flac" else "pcm_s16le", rate=rate_hz, layout=layout
        )
        for start in range(0, len(samples), rate_hz):
            part = (np.ascontiguousarray(samples[start : start + rate_hz]) * 32_767).astype(
                np.int16
            )
            frame = av.AudioFrame.from_ndarray(part.reshape(1, -1), format="s16", layout=layout)
            frame.sample_rate, frame.pts, frame.time_base = rate_hz, start, Fraction(1, rate_hz)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def write_tracks(
    path: Path,
    codec: str,
    tracks: list[NDArray[np.float32]],
    metadata: list[dict[str, str]] | None = None,
) -> Path:
    """A file with several mono audio tracks; the first is the default one."""
    rate_hz = 16_000 if codec != "mp2" else 32_000
    with av.open(str(path), "w") as container:
        streams = [container.add_stream(codec, rate=rate_hz, layout="mono") for _ in tracks]
        for stream, facts in zip(streams, metadata or [], strict=False):
            stream.metadata.update(facts)
        streams[0].disposition = av.stream.Disposition.default
        packets = []
        for stream, samples in zip(streams, tracks, strict=True):
            samples = np.repeat(samples, rate_hz // 16_000)
            packets += [
                p for frame in _frames(samples, rate_hz, "mono") for p in stream.encode(frame)
            ]
            packets += stream.encode(None)
        for packet in sorted(packets, key=lambda p: float((p.dts or 0) * p.time_base)):
            container.mux(packet)
    return path
