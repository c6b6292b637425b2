"""Any media -> mono float32 at 16 kHz, in blocks, in bounded memory. The only folder that knows PyAV (``av``).

    read_blocks ── serial.py ─────┬── media.py       opening, refusing, frames
               └── ranges.py ─────┴── resampler.py   frames -> samples

``serial`` reads everything; ``ranges`` reads long files faster where it can show that the samples are the same.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import numpy as np

from ..errors import NoAudioError, UsageError
from ..transcript import Notice
from .media import AudioInfo, info, opened
from .ranges import Inexact, RangeLayout, range_layout, ranges
from .resampler import SAMPLE_RATE_HZ, Samples
from .serial import Findings, serial

__all__ = ["SAMPLE_RATE_HZ", "AudioInfo", "Samples", "decoded_blocks", "probe", "read", "read_blocks"]

LOUDEST = 32_768.0  # float files written with the scale of 16-bit ones are real; beyond that it is no sound
PARALLEL_FROM_S = 240.0


def probe(path: Path) -> AudioInfo:
    """What the container of ``path`` says about its sound; nothing is decoded.

    Raises:
        SourceError: one of its subclasses: missing, unreadable, no media, no sound track.
    """
    with opened(path) as (container, stream):
        return info(container, stream)


def read(path: Path) -> Samples:
    """The whole of a short recording: (n,) float32, mono, 16 kHz. Errors as ``read_blocks``."""
    blocks = list(read_blocks(path))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def read_blocks(
    path: Path, *, block_s: float = 600.0, threads: int = 1, notices: list[Notice] | None = None
) -> Generator[Samples, None, None]:
    """Decode ``path`` in order, in blocks of exactly ``block_s`` seconds but for the last.

    Args:
        block_s: seconds a block; the decode holds about one block and, for every thread, one and a half ranges of 50 s
            (3.2 MB), of Opus 80 s, at most.
        threads: above 1, long files are decoded by time range where that is sample-exact.
        notices: gets what was degraded, once the last block is out.

    Yields:
        (n,) float32, mono, 16 kHz. Damaged stretches are left out or, where the timestamps tell, silent.

    Raises:
        SourceNotFoundError, SourceUnreadableError: the file cannot be opened.
        NotMediaError: nothing in it can be decoded.
        NoAudioError: it has no sound track, or one without samples.
    """
    findings = Findings()
    with opened(path) as (container, stream):
        claim = info(container, stream).duration
        long = threads > 1 and (claim or 0) >= PARALLEL_FROM_S
        layout = range_layout(container, stream) if long else None
    pieces = _parallel(path, layout, threads, findings) if layout else serial(path, findings)
    done_samples = 0
    try:
        for block in _blocks(pieces, round(block_s * SAMPLE_RATE_HZ), findings):
            done_samples += len(block)
            yield block
    finally:
        pieces.close()
    if done_samples == 0:
        raise NoAudioError(f"{path}: the sound track has no samples", hint="The recording may not have been finished.")
    _note_missing_end(path, done_samples / SAMPLE_RATE_HZ, claim, findings)
    if notices is not None:
        notices.extend(findings.notices())


def decoded_blocks(
    samples: Samples, *, block_s: float = 600.0, notices: list[Notice] | None = None
) -> Generator[Samples, None, None]:
    """Samples that lie decoded in memory, (n,) mono at 16 kHz, as ``read_blocks`` gives those of a file.

    Blocks are views; only what is no sound is replaced, in a copy.

    Raises:
        UsageError: not one channel, or not floating point.
        NoAudioError: there are none.
    """
    if samples.ndim != 1 or samples.dtype.kind != "f":
        message = f"samples have the shape {samples.shape} and the type {samples.dtype}"
        raise UsageError(message, hint="give one channel of floating-point numbers within ±1, 16,000 a second")
    if not len(samples):
        raise NoAudioError("there are no samples", hint="The recording may not have been finished.")
    findings = Findings()
    size = round(block_s * SAMPLE_RATE_HZ)
    for first in range(0, len(samples), size):
        block = np.ascontiguousarray(samples[first : first + size], np.float32)
        yield _sound(block, first / SAMPLE_RATE_HZ, findings)
    if notices is not None:
        notices.extend(findings.notices())


def _sound(block: Samples, at_s: float, findings: Findings) -> Samples:
    """The block itself, or a copy with silence instead of what is no sound."""
    if block.max() <= LOUDEST and block.min() >= -LOUDEST:  # nor is anything not a number
        return block
    findings.add("invalid_samples", at_s, "samples are not numbers; now silence")
    return np.where(np.abs(block) <= LOUDEST, block, np.float32(0))


def _note_missing_end(path: Path, done_s: float, claim_s: float | None, findings: Findings) -> None:
    """Truncated files often decode without an error. Claims are estimates, so only a large part missing counts."""
    if (claim_s and done_s < claim_s - max(1.0, 0.02 * claim_s)) or _is_cut_off_wav(path):
        findings.add("source_damaged", done_s, "the recording ends, and its header promised more")


def _is_cut_off_wav(path: Path) -> bool:
    """FFmpeg trusts the size of the file over that in a WAV header. Recorders that stream leave 0 or the maximum."""
    with path.open("rb") as file:
        head = file.read(12)
    promised_bytes = int.from_bytes(head[4:8], "little")
    is_wav = head[:4] == b"RIFF" and head[8:] == b"WAVE"
    return is_wav and promised_bytes < 0xFFFF_0000 and promised_bytes * 0.98 > path.stat().st_size


def _parallel(path: Path, layout: RangeLayout, threads: int, findings: Findings) -> Generator[Samples]:
    """The ranges, as long as each can be shown to be exact; from there on the serial decode."""
    done_samples = 0
    try:
        for piece in ranges(path, layout, threads):
            done_samples += len(piece)
            yield piece
    except Inexact:
        yield from serial(path, findings, skip_samples=done_samples)


def _blocks(pieces: Iterator[Samples], block_samples: int, findings: Findings) -> Iterator[Samples]:
    """Cut ``pieces`` anew; replace what is no sound (NaN, infinity, absurd floats) by silence."""
    block = np.empty(0, np.float32)
    filled = done = 0
    for piece in pieces:
        while len(piece):
            if not len(block):
                block = np.empty(block_samples, np.float32)
            part = block[filled : filled + len(piece)]
            part[:] = piece[: len(part)]
            sound = _sound(part, (done + filled) / SAMPLE_RATE_HZ, findings)
            if sound is not part:
                part[:] = sound
            piece = piece[len(part) :]
            filled += len(part)
            if filled == block_samples:
                yield block
                block, filled, done = np.empty(0, np.float32), 0, done + block_samples
    if filled:
        yield block[:filled]
