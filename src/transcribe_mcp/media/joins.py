"""Find where another file begins in AIFF, ASF, CAF, RF64, W64, MP4 and Matroska files.

Such files come from ``cat`` and from recorders that start anew. FFmpeg reads the first one only, or
misses a change of format. The sizes in the files lead from one to the next, without reading them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from .headers import chunks, container_of

MAX_BOXES = 1_000_000
MAX_SCAN_BYTES = 1 << 20
ASF = b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\x00\xaa\x00\x62\xce\x6c"
EBML = b"\x1a\x45\xdf\xa3"
SEGMENT = b"\x18\x53\x80\x67"
# Contents of a segment: seek head, info, tracks, cluster, cues, tags, chapters, attachments.
MATROSKA_PARTS = {
    EBML, SEGMENT, b"\x11\x4d\x9b\x74", b"\x15\x49\xa9\x66", b"\x16\x54\xae\x6b",
    b"\x1f\x43\xb6\x75", b"\x1c\x53\xbb\x6b", b"\x12\x54\xc3\x67", b"\x10\x43\xa7\x70",
    b"\x19\x41\xa4\x69",
}  # fmt: skip
MATROSKA_BETWEEN = (0xEC, 0xBF)  # Void, CRC-32
MATROSKA_KINDS = (b"matroska", b"webm")
MAX_EBML_BYTES = 4096  # of the header of a file


def starts(path: Path) -> list[int]:
    """The offsets at which files begin; usually 0 alone, and nothing for other formats.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(16)
        size = path.stat().st_size
        walk: Callable[[BinaryIO, int], Iterator[int]] | None = None
        if container_of(head) is not None:
            walk = _chunk_files
        elif head[4:8] == b"ftyp":
            walk = _box_files
        elif head == ASF:
            walk = _asf_files
        elif head.startswith(EBML):
            walk = _matroska_files
        return list(walk(file, size)) if walk else []


def _chunk_files(file: BinaryIO, size: int) -> Iterator[int]:
    begin = 0
    while begin < size:
        file.seek(begin)
        kind = container_of(file.read(16))
        if kind is None:
            return
        yield begin
        found = chunks(file, kind, begin + kind.first, size)
        nexts = (at - kind.head_bytes for name, at, _ in found if name.startswith(kind.magic))
        begin = next(nexts, size)


def _box_files(file: BinaryIO, size: int) -> Iterator[int]:
    """MP4: the size and the name of a box, or 1 and a longer size after the name."""
    for at, head in _boxes(file, size, _box_bytes):
        if head[4:8] == b"ftyp":
            yield at


def _asf_files(file: BinaryIO, size: int) -> Iterator[int]:
    for at, head in _boxes(file, size, lambda head: int.from_bytes(head[16:24], "little")):
        if head.startswith(ASF):
            yield at


def _boxes(
    file: BinaryIO, size: int, length_of: Callable[[bytes], int]
) -> Iterator[tuple[int, bytes]]:
    """The offsets and the heads of boxes that follow each other, each as long as its head says."""
    at = 0
    for _ in range(MAX_BOXES):
        file.seek(at)
        head = file.read(24)
        yield at, head
        length = length_of(head)
        if length < 8 or at + length >= size:  # 0: to the end
            return
        at += length


def _box_bytes(head: bytes) -> int:
    short = int.from_bytes(head[:4], "big")
    return int.from_bytes(head[8:16], "big") if short == 1 else short


def _matroska_files(file: BinaryIO, size: int) -> Iterator[int]:
    """A segment without a size, as of a live recording, is entered. A cluster without one is
    searched for the next file.
    """
    at = 0
    while at < size:
        file.seek(at)
        name = file.read(4)
        head_bytes = 1 if name[:1] and name[0] in MATROSKA_BETWEEN else 4
        if head_bytes == 4 and name not in MATROSKA_PARTS:
            return
        file.seek(at + head_bytes)
        begin, length = _element(file)
        if name == EBML:
            yield at
        if length is not None:
            at = begin + length
        elif name == SEGMENT:
            at = begin
        elif (at := _next_matroska(file, begin)) < 0:
            return


def _element(file: BinaryIO) -> tuple[int, int | None]:
    """Where an element's content begins, and its size; ``None`` if unknown."""
    first = file.read(1)
    n_bytes = 9 - first[0].bit_length() if first else 9
    if n_bytes > 8:
        return file.tell(), None
    value = int.from_bytes(first + file.read(n_bytes - 1), "big") & ~(1 << (7 * n_bytes))
    is_unknown = value == (1 << (7 * n_bytes)) - 1
    return file.tell(), None if is_unknown else value


def _next_matroska(file: BinaryIO, begin: int) -> int:
    """The offset of the next file's header, or -1."""
    file.seek(begin)
    at = begin
    data = b""
    while more := file.read(MAX_SCAN_BYTES):
        data = data[-MAX_EBML_BYTES:] + more
        found = data.find(EBML)
        while found >= 0:
            header = data[found : found + MAX_EBML_BYTES // 8]
            if any(kind in header for kind in MATROSKA_KINDS):
                return at + len(more) - len(data) + found
            found = data.find(EBML, found + 1)
        at += len(more)
    return -1
