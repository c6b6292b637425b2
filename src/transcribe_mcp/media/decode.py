"""Decode any media to mono float32 at 16 kHz, in blocks and bounded memory.

    find ── tracks, parts                    track, channels and byte ranges of the file
      │
    read_blocks ── decode_serial ───┬── container  open, check, frames
               ├── decode_parallel ─┴── resampler  frames -> samples by channel
               └── channels -> level            mix to mono, amplify quiet audio

``decode_serial`` reads everything. ``decode_parallel`` is faster for long files, and used only
where its samples are provably equal.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..domain.transcript import Notice
from ..errors import NoAudioError, SourceError, UsageError
from .channels import INVALID, LOUDEST, Downmix
from .container import AudioInfo, Media, info, opened, plays_on_after
from .decode_parallel import Inexact, RangeLayout, range_layout, ranges
from .decode_serial import Findings, serial
from .headers import corrected
from .level import SILENCE_DB, Levels
from .openat import Patches
from .parts import Parts, is_cut_off_ogg, parts
from .resampler import SAMPLE_RATE_HZ, Samples
from .tracks import Track, chosen_channels, chosen_tracks, excerpts, tracks_of

__all__ = [
    "SAMPLE_RATE_HZ",
    "SILENCE_DB",
    "AudioInfo",
    "Levels",
    "Samples",
    "Sound",
    "Track",
    "chosen_channels",
    "chosen_tracks",
    "decoded_blocks",
    "excerpts",
    "find",
    "probe",
    "read",
    "read_blocks",
]

PARALLEL_FROM_S = 240.0
MAX_PARTS_PROBED = 64  # with more, the duration stays unknown until decoding


@dataclass(frozen=True, slots=True)
class Sound:
    """One track of a file, all its channels or one of them, in one or several parts.

    Attributes:
        parts: see ``parts.Parts``.
        info: the container's metadata.
        tracks: all tracks of the file.
    """

    parts: Parts
    info: AudioInfo
    tracks: tuple[Track, ...]

    @property
    def media(self) -> Media:
        """The first part, which usually is the whole file."""
        return self.parts.media[0]

    def of_channel(self, channel: str) -> Sound:
        media = tuple(replace(part, channel=channel) for part in self.parts.media)
        return replace(self, parts=replace(self.parts, media=media))


def find(path: Path, stream: int | None = None) -> Sound:
    """Find a track of ``path`` by its index in the container, or the default track. Decodes
    nothing.

    Raises:
        SourceError: a subclass: missing, unreadable, not media, or no audio track.
    """
    patches, notice = _corrected(path)
    whole = Media(path, stream, patches=patches)
    with opened(whole) as (container, track):
        found = info(container, track)
        tracks = tracks_of(container)
    all_parts = parts(whole, found.container) if not patches else Parts((whole,), notice)
    if all_parts.media == (whole,):
        return Sound(all_parts, found, tracks)
    duration_s = all_parts.duration_s
    if duration_s is None and len(all_parts.media) <= MAX_PARTS_PROBED:
        seconds = [_claim_s(part) for part in all_parts.media]
        duration_s = sum(filter(None, seconds)) if all(seconds) else None
    return Sound(all_parts, replace(found, duration=duration_s), tracks)


def _corrected(path: Path) -> tuple[Patches, Notice | None]:
    try:
        return corrected(path) if path.is_file() else ({}, None)  # a pipe would block
    except (OSError, ValueError):  # opening it says why
        return {}, None


def _claim_s(media: Media) -> float | None:
    with opened(media) as (container, stream):
        return info(container, stream).duration


def probe(path: Path) -> AudioInfo:
    """The container's metadata about the audio. Decodes nothing. Errors as ``find``."""
    return find(path).info


def read(path: Path) -> Samples:
    """Decode a whole short recording: (n,) float32, mono, 16 kHz. Errors as ``read_blocks``."""
    blocks = list(read_blocks(path))
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks)


def read_blocks(
    sound: Path | Sound,
    *,
    block_s: float = 600.0,
    threads: int = 1,
    notices: list[Notice] | None = None,
    levels: Levels | None = None,
) -> Generator[Samples, None, None]:
    """Decode a recording in order, in blocks of exactly ``block_s`` seconds except the last.

    Args:
        sound: from ``find``, or a path for the default track of a file.
        block_s: seconds per block. Memory: about one block, and per thread 1.5 ranges of 50 s (3.2
            MB, twice that in stereo; 80 s for Opus). With ``levels``, whole minutes.
        threads: above 1, decode ranges of long files in parallel where that is sample-exact.
        notices: receives the degradations after the last block.
        levels: measures levels and amplifies very quiet minutes.

    Yields:
        (n,) float32, mono, 16 kHz. Damaged parts are dropped, or silent if timestamps show their
            length.

    Raises:
        SourceNotFoundError, SourceUnreadableError: the file cannot be opened.
        NotMediaError: nothing can be decoded.
        NoAudioError: no audio track, or one without samples.
    """
    sound = sound if isinstance(sound, Sound) else find(sound)
    findings = Findings()
    downmix = Downmix()
    pieces = _pieces(sound, threads, findings)
    done_samples = 0
    try:
        for block in _blocks(downmix.mono(pieces), round(block_s * SAMPLE_RATE_HZ), findings):
            done_samples += len(block)
            yield levels.leveled(block) if levels else block
    finally:
        pieces.close()
    if done_samples == 0:
        path = sound.media.path
        raise NoAudioError(
            f"{path}: the audio track has no samples",
            hint="the recorder may have been interrupted",
        )
    _note_missing_end(sound, done_samples / SAMPLE_RATE_HZ, findings)
    if notices is not None:
        notices += [sound.parts.notice] if sound.parts.notice else []
        notices += [*findings.notices(), *downmix.notices(), *(levels or Levels()).notices()]


def _pieces(sound: Sound, threads: int, findings: Findings) -> Generator[Samples]:
    """Yield the whole track as (n,) or (channels, n)."""
    media = sound.media
    is_long = (sound.info.duration or 0) >= PARALLEL_FROM_S
    if threads > 1 and len(sound.parts.media) == 1 and is_long:
        with opened(media) as (container, stream):
            layout = range_layout(container, stream, media.channel)
        if layout:
            return _parallel(media, layout, threads, findings)
    return serial(sound.parts.media, findings)


def decoded_blocks(
    samples: Samples,
    *,
    channel: str = "auto",
    block_s: float = 600.0,
    notices: list[Notice] | None = None,
    levels: Levels | None = None,
) -> Generator[Samples, None, None]:
    """Split decoded samples, (n,) or (n, channels) at 16 kHz, into blocks as ``read_blocks`` does.

    Blocks of (n,) are views, and copies only where samples change. ``channel`` as in
    ``Media.channel``.

    Raises:
        UsageError: another shape, or not floating point.
        NoAudioError: no samples.
    """
    is_shaped = samples.ndim == 1 or (samples.ndim == 2 and 0 < samples.shape[1] <= len(samples))
    if not is_shaped or samples.dtype.kind != "f":
        raise UsageError(
            f"samples have the shape {samples.shape} and the type {samples.dtype}",
            hint="give floating-point samples within ±1, 16,000 a second, "
            "of shape (n,) or (n, channels)",
        )
    if not len(samples):
        raise NoAudioError("there are no samples", hint="the recorder may have been interrupted")
    findings = Findings()
    downmix = Downmix()
    size = round(block_s * SAMPLE_RATE_HZ)
    for first in range(0, len(samples), size):
        planes = _planes(samples[first : first + size], channel)
        for piece in downmix.mono([planes]):
            block = _sound(
                np.ascontiguousarray(piece, np.float32), first / SAMPLE_RATE_HZ, findings
            )
            yield levels.leveled(block) if levels else block
    if notices is not None:
        notices += [*findings.notices(), *downmix.notices(), *(levels or Levels()).notices()]


def _planes(samples: Samples, channel: str) -> Samples:
    """Convert (n,) or (n, channels) to (n,) or (channels, n) for ``channel``."""
    if samples.ndim == 1:
        return samples
    if channel.isdecimal():
        return samples[:, int(channel) - 1]
    if channel == "mix" or samples.shape[1] == 1:
        return np.asarray(samples.mean(axis=1, dtype=np.float32))
    return np.ascontiguousarray(samples.T, np.float32)


def _sound(block: Samples, at_s: float, findings: Findings) -> Samples:
    """Replace invalid samples by silence, in a copy."""
    if block.max() <= LOUDEST and block.min() >= -LOUDEST:  # false for NaN
        return block
    findings.add("invalid_samples", at_s, INVALID)
    return np.where(np.abs(block) <= LOUDEST, block, np.float32(0))


def _note_missing_end(sound: Sound, done_s: float, findings: Findings) -> None:
    """Report a missing end: truncated files often decode without an error.

    Durations are estimates, so only a large missing part counts. Ignores durations from broken
    timestamps, and those that belong to the video.
    """
    claim_s = sound.info.duration
    margin_s = max(1.0, 0.02 * (claim_s or 0.0))
    is_short = (
        claim_s is not None
        and done_s < claim_s - margin_s
        and "timestamps_ignored" not in findings.counts
        and _is_promised(sound.media, claim_s)
        and not plays_on_after(sound.media, done_s, margin_s)
    )
    if is_short or (sound.parts.notice is None and _is_cut_off_riff(sound.media.path)):
        findings.add("source_damaged", done_s, "the recording ends earlier than its header says")
    elif "source_damaged" not in findings.counts and is_cut_off_ogg(sound.media.path):
        message = "the file breaks off in the middle of a page and may be incomplete"
        findings.add("source_damaged", done_s, message)


def _is_promised(media: Media, claim_s: float) -> bool:
    """Whether the header tells the duration. FFmpeg estimates it from the size of the file and the
    first frames if not, which is too long for a recording that begins with silence.
    """
    if media.is_part:
        return True
    half = replace(media, end=media.path.stat().st_size // 2)
    try:
        return (_claim_s(half) or claim_s) > 0.75 * claim_s
    except SourceError:
        return True


def _is_cut_off_riff(path: Path) -> bool:
    """FFmpeg trusts the file size, not the header. Streaming recorders write a size of 0 or the
    maximum.
    """
    with path.open("rb") as file:
        head = file.read(12)
    promised_bytes = int.from_bytes(head[4:8], "little")
    is_riff = head[:4] == b"RIFF" and head[8:] in (b"WAVE", b"AVI ")
    return is_riff and promised_bytes < 0xFFFF_0000 and promised_bytes * 0.98 > path.stat().st_size


def _parallel(
    media: Media, layout: RangeLayout, threads: int, findings: Findings
) -> Generator[Samples]:
    """Decode ranges while they are provably exact, then serially."""
    done_samples = 0
    try:
        for piece in ranges(media, layout, threads):
            done_samples += piece.shape[-1]
            yield piece
    except Inexact:
        yield from serial((media,), findings, skip_samples=done_samples)


def _blocks(pieces: Iterator[Samples], block_samples: int, findings: Findings) -> Iterator[Samples]:
    """Regroup ``pieces`` into blocks and replace NaN, infinity and absurd values by silence."""
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
                block = np.empty(0, np.float32)
                filled = 0
                done += block_samples
    if filled:
        yield block[:filled]
