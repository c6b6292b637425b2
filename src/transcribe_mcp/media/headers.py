"""Correct the sizes in the headers of AIFF, CAF, RF64 and W64 files.

A program that writes to a pipe, or is interrupted, cannot return to the header, which then says
zero, a placeholder, or the size at some earlier moment. FFmpeg refuses such a file or reads only so
much. The correction is a few bytes that replace those of the header when the file is read. WAV has
more ways to be wrong; see ``parts``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..domain.transcript import Notice
from .openat import Patches

MIN_EXTRA_BYTES = 4096  # after the promised end; less is padding
SCAN_BYTES = 1 << 20
MAX_CHUNKS = 10_000
PLACEHOLDER = 0x7F00_0000  # from this size on, unless the file is about as large
W64_HEAD = b"riff\x2e\x91\xcf\x11\xa5\xd6\x28\xdb\x04\xc1\0\0"
AIFF_PCM = (b"NONE", b"sowt", b"twos", b"fl32", b"FL32", b"fl64", b"FL64", b"in24", b"in32")
PROMISES_LESS = "The file has more audio than its header says; all of it was read."


@dataclass(frozen=True, slots=True)
class Container:
    """How a format lays out its chunks.

    Attributes:
        magic: the first bytes of a file.
        first: offset of the first chunk.
        head_bytes: size of the head of a chunk: its name and the size of its content.
        align: chunks start at multiples of this.
        sound: name of the chunk with the samples.
        read: name and content size from a head.
        patches: the corrected bytes by offset.
    """

    magic: tuple[bytes, ...]
    first: int
    head_bytes: int
    align: int
    sound: bytes
    read: Callable[[bytes], tuple[bytes, int]]
    patches: Callable[[_Found], Patches]


@dataclass(frozen=True, slots=True)
class _Found:
    """A file's chunks before the samples by name, and the chunk of the samples, as offsets of their
    contents. ``length`` is the promised size.
    """

    file: BinaryIO
    chunks: dict[bytes, int]
    begin: int
    length: int
    size: int


def corrected(path: Path) -> tuple[Patches, Notice | None]:
    """The corrections of a file's header, and the notice if it promised less; empty if it is right.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(16)
        kind = container_of(head)
        if kind is None:
            return {}, None
        found = _find_sound(file, kind, path.stat().st_size)
        if found is None or _is_right(found, kind):
            return {}, None
        is_promise = 0 < found.length < PLACEHOLDER
        return kind.patches(found), Notice(
            "header_corrected", PROMISES_LESS
        ) if is_promise else None


def container_of(head: bytes) -> Container | None:
    if head[:4] == b"FORM" and head[8:12] in (b"AIFF", b"AIFC"):
        return AIFF
    if head[:4] in (b"RF64", b"BW64") and head[8:12] == b"WAVE":
        return RF64
    if head[:4] == b"caff":
        return CAF
    return W64 if head == W64_HEAD else None


def chunks(file: BinaryIO, kind: Container, at: int, size: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, offset and size of the contents of the chunks from ``at`` on."""
    of_sound: int | None = None  # in RF64, where the chunk itself has no room for it
    begin = at
    for _ in range(MAX_CHUNKS):
        file.seek(at)
        head = file.read(kind.head_bytes)
        if len(head) < kind.head_bytes:
            return
        name, length = kind.read(head)
        if name == b"ds64" and kind is RF64:
            file.seek(at + kind.head_bytes + 8)
            of_sound = int.from_bytes(file.read(8), "little")
        elif name == kind.sound and of_sound is not None:
            length = of_sound
        at += kind.head_bytes
        yield name, at, length
        at += max(0, length)
        at += -(at - begin) % kind.align
        if at >= size:
            return


def _find_sound(file: BinaryIO, kind: Container, size: int) -> _Found | None:
    before: dict[bytes, int] = {}
    for name, begin, length in chunks(file, kind, kind.first, size):
        if name == kind.sound:
            return _Found(file, before, begin, length, size)
        before[name] = begin
    return None


def _is_right(found: _Found, kind: Container) -> bool:
    """Whether the samples end where the header says: at the end of the file, or before other chunks
    or zeros. A file that is shorter than its header says was cut off, and needs no correction.
    """
    end = found.begin + found.length
    if found.begin >= found.size or (kind is CAF and found.length == -1):
        return True
    if end > found.size:
        return found.length < max(PLACEHOLDER, 2 * found.size)
    if found.length > 0 and found.size - end < MIN_EXTRA_BYTES:
        return True
    return found.length > 0 and (_chunks_follow(found, kind, end) or is_blank(found.file, end))


def _chunks_follow(found: _Found, kind: Container, end: int) -> bool:
    at = end + -end % kind.align
    for name, begin, length in chunks(found.file, kind, at, found.size):
        if name.startswith(kind.magic):
            return True  # another file
        if length < 0 or not all(0x20 <= byte < 0x7F for byte in name[:4]):
            return False
        if found.size <= begin + length <= found.size + kind.align:
            return True
    return False


def is_blank(file: BinaryIO, at: int) -> bool:
    """Whether only zeros follow, as a recorder's reserved space."""
    file.seek(at)
    while data := file.read(SCAN_BYTES):
        if data.strip(b"\0"):
            return False
    return True


# --- one format each ---


def _aiff_patches(found: _Found) -> Patches:
    if found.size - 8 >= 1 << 32:
        return {}  # not representable
    found.file.seek(8)
    is_plain = found.file.read(4) == b"AIFF"
    patches = {4: struct.pack(">I", found.size - 8)}
    patches[found.begin - 4] = struct.pack(">I", found.size - found.begin)
    if b"COMM" in found.chunks:
        found.file.seek(found.chunks[b"COMM"])
        n_channels, _, bits, _, codec = struct.unpack(">HIH10s4s", found.file.read(22))
        frame_bytes = n_channels * -(-bits // 8) if is_plain or codec in AIFF_PCM else 0
        if frame_bytes:
            n_frames = (found.size - found.begin - 8) // frame_bytes
            patches[found.chunks[b"COMM"] + 2] = struct.pack(">I", n_frames)
    return patches


def _rf64_patches(found: _Found) -> Patches:
    # Of the whole, of the samples, and their number, which follows from it.
    sizes = struct.pack("<QQQ", found.size - 8, found.size - found.begin, 0)
    if b"ds64" in found.chunks:
        return {found.chunks[b"ds64"]: sizes}
    return {found.begin - 4: struct.pack("<I", min(0xFFFF_FFFF, found.size - found.begin))}


def _caf_patches(found: _Found) -> Patches:
    return {found.begin - 8: struct.pack(">q", -1)}  # to the end of the file


def _w64_patches(found: _Found) -> Patches:
    return {
        16: struct.pack("<Q", found.size),
        found.begin - 8: struct.pack("<Q", found.size - found.begin + W64.head_bytes),
    }


AIFF = Container(
    magic=(b"FORM",),
    first=12,
    head_bytes=8,
    align=2,
    sound=b"SSND",
    read=lambda head: (head[:4], int.from_bytes(head[4:], "big")),
    patches=_aiff_patches,
)
RF64 = Container(
    magic=(b"RF64", b"BW64"),
    first=12,
    head_bytes=8,
    align=2,
    sound=b"data",
    read=lambda head: (head[:4], int.from_bytes(head[4:], "little")),
    patches=_rf64_patches,
)
CAF = Container(
    magic=(b"caff",),
    first=8,
    head_bytes=12,
    align=1,
    sound=b"data",
    read=lambda head: (head[:4], int.from_bytes(head[4:], "big", signed=True)),
    patches=_caf_patches,
)
W64 = Container(
    magic=(W64_HEAD,),
    first=40,
    head_bytes=24,
    align=8,
    sound=b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0O\x8e\xdb\x8a",
    read=lambda head: (head[:16], int.from_bytes(head[16:], "little", signed=True) - 24),
    patches=_w64_patches,
)
