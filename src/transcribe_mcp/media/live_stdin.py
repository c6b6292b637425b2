"""Audio on standard input as it arrives: a WAV file, or raw samples."""

from __future__ import annotations

import sys
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from typing import cast

from ..errors import NoAudioError, NotMediaError
from .stdin import require_pipe

BLOCK_FRAMES = 1024
SAMPLE_BYTES = 2
# Signatures of other file formats, which would decode as noise.
COMPRESSED = (b"fLaC", b"ID3", b"OggS", b"\x1aE\xdf\xa3", b"FORM", b"caff")


@dataclass(frozen=True, slots=True)
class LiveStdin:
    """Samples of 16 bits from standard input, in blocks as they arrive."""

    rate_hz: int
    channels: int
    blocks: Iterator[bytes]


def open_stdin(rate_hz: int) -> LiveStdin:
    """
    Args:
        rate_hz: of samples without a header, which have one channel.

    Raises:
        UsageError: standard input is a terminal or closed.
        NoAudioError: it is empty.
        NotMediaError: a WAV file of another kind, or a file of another format.
    """
    require_pipe()
    source = cast("BufferedReader", sys.stdin.buffer)
    # The format is unknown before the first bytes. A pipe returns what it has.
    head = source.peek(8)[:8]
    if not head:
        raise NoAudioError(
            "no audio arrived on standard input", hint="check the program that sends it"
        )
    if head.startswith(COMPRESSED) or head[4:8] == b"ftyp":
        raise _unusable("it is neither a WAV file nor samples")
    if not head.startswith(b"RIFF"):
        return LiveStdin(rate_hz, 1, iter(lambda: source.read1(SAMPLE_BYTES * BLOCK_FRAMES), b""))
    try:
        reader = wave.open(source, "rb")  # noqa: SIM115 - standard input stays open
    except (wave.Error, EOFError) as error:
        raise _unusable(str(error)) from error
    channels = reader.getnchannels()
    rate_hz = reader.getframerate()
    if reader.getsampwidth() != SAMPLE_BYTES or channels > 2:
        raise _unusable(f"it has {8 * reader.getsampwidth()} bits and {channels} channels")
    return LiveStdin(rate_hz, channels, iter(lambda: reader.readframes(BLOCK_FRAMES), b""))


def _unusable(reason: str) -> NotMediaError:
    return NotMediaError(
        f"the audio on standard input cannot be used: {reason}",
        hint="convert it first: ffmpeg -i SOURCE -f wav -ac 1 -ar 16000 - | "
        "transcribe-mcp listen -",
    )
