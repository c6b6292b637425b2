"""What a browser needs to play a recording: a seekable copy, and the peaks of the waveform.

Both are on the clock of the transcript, because they come from the samples that engines get. A
clip is a part of such a file, for viewers that get audio through messages.
"""

from __future__ import annotations

import io
from collections.abc import Generator
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame

from ..domain.audio import SAMPLE_RATE_HZ
from .container import frames, opened
from .decode import Samples, find, read_blocks

PEAKS_PER_S = 20
BLOCK_S = 60.0
COPY_BITS_PER_S = 64_000
CLIP_BITS_PER_S = 24_000
CLIP_RATE_HZ = 48_000  # Opus has no other clock
PREROLL_S = 0.5  # decoded before a clip, until the decoder is right
MAX_SHIFT_S = 0.03  # between the clock of the file and that of the transcript
PEAK_SAMPLES = SAMPLE_RATE_HZ // PEAKS_PER_S

# Format and codec of files that browsers play and seek exactly -> media type. MP3 is not among
# them: browsers estimate positions in files with a variable bit rate.
_PLAYED = {
    ("wav", "pcm_s16le"): "audio/wav",
    ("flac", "flac"): "audio/flac",
    ("ogg", "opus"): "audio/ogg",
    ("ogg", "vorbis"): "audio/ogg",
    ("mov,mp4,m4a,3gp,3g2,mj2", "aac"): "audio/mp4",
}


def played_type(path: Path) -> str | None:
    """The media type of a file that browsers play as it is; ``None`` if they need a copy.

    Raises:
        SourceError: it cannot be opened, or has no audio.
    """
    sound = find(path)
    if len(sound.parts.media) > 1 or sound.media.is_part:
        return None
    with opened(sound.media) as (container, stream):
        start_s = (container.start_time or 0) / av.time_base
        if len(container.streams) > 1 or abs(start_s) > MAX_SHIFT_S:
            return None
        return _PLAYED.get((container.format.name, stream.codec_context.name))


def write_peaks(path: Path, target: Path, threads: int) -> None:
    """Write the loudest sample of each 50 ms, 0 to 127, one byte each.

    Raises:
        SourceError: nothing can be decoded.
    """
    with target.open("wb") as file, closing(_blocks(path, threads)) as blocks:
        for block in blocks:
            file.write(_peaks(block))


def write_copy(path: Path, target: Path, peaks: Path, threads: int) -> None:
    """Write the sound as AAC in an M4A file, and its peaks as ``write_peaks`` does.

    Raises:
        SourceError: nothing can be decoded.
        OSError: a file cannot be written.
    """
    options = {"movflags": "faststart"}
    with (
        peaks.open("wb") as peaks_file,
        av.open(str(target), "w", format="mp4", options=options) as container,
        closing(_blocks(path, threads)) as blocks,
    ):
        stream = container.add_stream("aac", rate=SAMPLE_RATE_HZ, layout="mono")
        stream.bit_rate = COPY_BITS_PER_S
        n_samples = 0
        for block in blocks:
            peaks_file.write(_peaks(block))
            frame = AudioFrame.from_ndarray(block[None], "fltp", "mono")
            frame.sample_rate = SAMPLE_RATE_HZ
            frame.time_base = Fraction(1, SAMPLE_RATE_HZ)
            frame.pts = n_samples
            container.mux(stream.encode(frame))
            n_samples += len(block)
        container.mux(stream.encode(None))


def clip(path: Path, start_s: float, duration_s: float) -> bytes:
    """A part of the sound as Opus in an Ogg file, mono. It is shorter at the end of the file.

    Args:
        path: a file that browsers play as it is, see ``played_type``.

    Raises:
        SourceError: it cannot be opened, or has no audio.
    """
    samples = _part(path, start_s, duration_s)
    target = io.BytesIO()
    with av.open(target, "w", format="ogg") as container:
        options = {
            "compression_level": "5"
        }  # twice as fast as the best quality, without an audible difference
        stream = container.add_stream("libopus", CLIP_RATE_HZ, options, layout="mono")
        stream.bit_rate = CLIP_BITS_PER_S
        if samples.size:
            frame = AudioFrame.from_ndarray(samples[None], "flt", "mono")
            frame.sample_rate = CLIP_RATE_HZ
            frame.time_base = Fraction(1, CLIP_RATE_HZ)
            frame.pts = 0
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return target.getvalue()


def _part(path: Path, start_s: float, duration_s: float) -> Samples:
    """Samples (n,) at 48 kHz from a time on."""
    resampler = av.AudioResampler("flt", "mono", CLIP_RATE_HZ)
    pieces: list[Samples] = []
    first_s = None  # time of the first piece
    with opened(find(path).media) as (container, stream):
        origin_s = float((stream.start_time or 0) * (stream.time_base or 0))
        before_s = max(0.0, start_s - PREROLL_S)
        container.seek(int((origin_s + before_s) * av.time_base))
        for frame in frames(container, stream, lambda _: None):
            at_s = (frame.time or 0.0) - origin_s
            if at_s >= start_s + duration_s:
                break
            first_s = at_s if first_s is None else first_s
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
    if first_s is None:
        return np.zeros(0, np.float32)
    samples = np.concatenate(pieces)
    shift = round((start_s - first_s) * CLIP_RATE_HZ)
    samples = samples[shift:] if shift >= 0 else np.pad(samples, (-shift, 0))
    return samples[: round(duration_s * CLIP_RATE_HZ)]


def _blocks(path: Path, threads: int) -> Generator[Samples, None, None]:
    return read_blocks(path, block_s=BLOCK_S, threads=threads)


def _peaks(block: Samples) -> bytes:
    padded = np.pad(np.abs(block), (0, -len(block) % PEAK_SAMPLES))
    loudest = padded.reshape(-1, PEAK_SAMPLES).max(axis=1, initial=0.0)
    data: bytes = np.clip(loudest * 127, 0, 127).astype(np.int8).tobytes()
    return data
