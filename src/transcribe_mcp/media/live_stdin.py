"""Sound on standard input as it comes: a WAV file, or samples without a header."""

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
# How files of other formats begin, which would be heard as noise.
COMPRESSED = (b"fLaC", b"ID3", b"OggS", b"\x1aE\xdf\xa3", b"FORM", b"caff")


@dataclass(frozen=True, slots=True)
class LiveStdin:
    """What standard input holds: 16 bits, in blocks as they come."""

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
    # Before the first bytes come, nothing is known. A pipe gives what it has.
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
        f"the sound on standard input cannot be used: {reason}",
        hint="convert it on the way: ffmpeg -i SOURCE -f wav -ac 1 -ar 16000 - | "
        "transcribe-mcp listen -",
    )
