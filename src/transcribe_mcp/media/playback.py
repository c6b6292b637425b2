"""What a browser needs to play a recording: a copy that it can seek, and the peaks of the wave.

Both are on the clock of the transcript, because they come from the samples that engines hear.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.audio.frame import AudioFrame

from ..domain.audio import SAMPLE_RATE_HZ
from .container import opened
from .decode import Samples, find, read_blocks

PEAKS_PER_S = 20
BLOCK_S = 60.0
COPY_BITS_PER_S = 64_000
MAX_SHIFT_S = 0.03  # between the clock of the file and that of the transcript
PEAK_SAMPLES = SAMPLE_RATE_HZ // PEAKS_PER_S

# Format and codec of files that browsers play and seek exactly -> media type. MP3 is not among
# them: browsers guess positions in files of a variable bit rate.
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
        SourceError: it cannot be opened, or has no sound.
    """
    sound = find(path)
    if len(sound.parts.media) > 1:
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


def _blocks(path: Path, threads: int) -> Generator[Samples, None, None]:
    return read_blocks(path, block_s=BLOCK_S, threads=threads)


def _peaks(block: Samples) -> bytes:
    padded = np.pad(np.abs(block), (0, -len(block) % PEAK_SAMPLES))
    loudest = padded.reshape(-1, PEAK_SAMPLES).max(axis=1, initial=0.0)
    data: bytes = np.clip(loudest * 127, 0, 127).astype(np.int8).tobytes()
    return data
