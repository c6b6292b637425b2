"""Find the parts of files that hold more audio than FFmpeg reads; each part is opened separately.

* WAV: an interrupted recorder, or more than 4 GiB, leaves a header with too small a
size. There may be several ``data`` chunks, or several files in a row. Metadata after the audio is
skipped.
* Ogg: a chain of links, each with its own headers. FFmpeg reads on with the first link's rate.
* FLAC: several files in a row. FFmpeg loses those with another format.
* AIFF, ASF, CAF, RF64, W64, MP4, Matroska: several files in a row; see ``joins``.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

from ..domain.transcript import Notice
from . import joins
from .container import TAGS, Media
from .headers import SCAN_BYTES, is_blank

# Size of the end of the file that is searched for metadata missing from the header.
TAIL_BYTES = 1 << 22
UNKNOWN_SIZES = (0, 0xFFFF_FFFF)  # placeholders for an unknown size
MIN_EXTRA_S = 0.1  # less than this after the promised end is padding
OGG_FIRST_PAGE = b"OggS\0\x02"
OGG_PAGE_HEAD = 27  # bytes; the last one counts the segments, whose lengths follow
MAX_OGG_PAGE = OGG_PAGE_HEAD + 255 + 255 * 255
FLAC_HEADS = (b"fLaC\0\0\0\x22", b"fLaC\x80\0\0\x22")
WAVE_FORMAT_EXTENSIBLE = 0xFFFE
# FFmpeg's demuxers of headerless audio, by format tag and bits.
RAW_DEMUXERS = {
    (1, 8): "u8", (1, 16): "s16le", (1, 24): "s24le", (1, 32): "s32le",
    (3, 32): "f32le", (3, 64): "f64le", (6, 8): "alaw", (7, 8): "mulaw",
}  # fmt: skip
# Chunks after the audio. An unknown name could be samples.
TAIL_CHUNKS = (
    b"LIST", b"id3 ", b"ID3 ", b"bext", b"cue ", b"smpl", b"inst", b"iXML", b"_PMX", b"JUNK",
    b"junk", b"PAD ", b"FLLR", b"afsp", b"acid", b"PEAK", b"fact", b"axml", b"cart", b"plst",
    b"labl", b"note", b"DISP", b"LGWV", b"levl", b"umid", b"minf", b"elm1", b"regn", b"strc",
    b"AFAn", b"ResU", b"chna",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts in order, their duration in seconds if known, and a notice or ``None``."""

    media: tuple[Media, ...]
    notice: Notice | None = None
    duration_s: float | None = None


def parts(media: Media, container: str) -> Parts:
    """All parts of a file that FFmpeg identifies as ``container``; usually the file itself."""
    begins = joins.starts(media.path)
    if len(begins) > 1:
        return _chain(media, begins, "recordings")
    if container == "wav":
        return _wav_parts(media)
    if container == "ogg":
        return _chain(media, _ogg_links(media.path), "recordings")
    return Parts((media,))


def is_flac(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == FLAC_HEADS[0][:4]


def flac_parts(media: Media) -> list[Media]:
    """The FLAC files in one file. Reads all of it."""
    with media.path.open("rb") as file:
        return list(_chain(media, _positions(file, FLAC_HEADS), "files").media)


def _chain(media: Media, begins: Sequence[int], what: str) -> Parts:
    """One part for every start offset."""
    if len(begins) < 2:
        return Parts((media,))
    ends = [*begins[1:], None]
    found = tuple(
        replace(media, begin=begin, end=end) for begin, end in zip(begins, ends, strict=True)
    )
    return Parts(found, _several(len(found), what))


def _several(n: int, what: str) -> Notice:
    return Notice("several_parts", f"The file holds {n} {what} in a row; all were read.")


# --- WAV ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Format:
    """The fields of a ``fmt `` chunk that describe headerless audio."""

    tag: int
    n_channels: int
    rate_hz: int
    bytes_per_s: int
    bits: int
    mask: int

    @classmethod
    def read(cls, chunk: bytes) -> _Format | None:
        if len(chunk) < 16:
            return None
        tag, n_channels, rate_hz, bytes_per_s, _, bits = struct.unpack_from("<HHIIHH", chunk)
        mask = 0
        if tag == WAVE_FORMAT_EXTENSIBLE and len(chunk) >= 26:
            mask, tag = struct.unpack_from("<IH", chunk, 20)
        return cls(tag, n_channels, rate_hz, bytes_per_s, bits, mask)

    @property
    def demuxer(self) -> str:
        return RAW_DEMUXERS.get((self.tag, self.bits), "")

    @property
    def options(self) -> dict[str, str]:
        layout = f"0x{self.mask:x}" if self.mask else f"{self.n_channels}C"
        return {"sample_rate": f"{self.rate_hz}", "ch_layout": layout}


@dataclass(frozen=True, slots=True)
class _Sound:
    """A ``data`` chunk as byte offsets: begin, end, and FFmpeg's end."""

    begin: int
    end: int
    read_to: int


@dataclass(slots=True)
class _Wav:
    """One WAV file inside the file."""

    begin: int
    form: _Format | None = None
    sounds: list[_Sound] = field(default_factory=list)


def _wav_parts(media: Media) -> Parts:
    size = media.path.stat().st_size
    with media.path.open("rb") as file:
        wavs = _walk(file, size)
    found = tuple(part for wav in wavs for part in _parts_of(media, wav))
    sounds = [(wav, sound) for wav in wavs for sound in wav.sounds]
    if not found or (len(sounds) == 1 and sounds[0][1].read_to == sounds[0][1].end):
        return Parts((media,))
    seconds = sum(_seconds(wav, sound.end - sound.begin) for wav, sound in sounds)
    more_s = sum(_seconds(wav, max(0, sound.end - sound.read_to)) for wav, sound in sounds)
    notice = None
    if any(sound.end > sound.read_to for _, sound in sounds):
        figures = f" ({seconds - more_s:.1f} s of {seconds:.1f} s)" if more_s else ""
        message = f"The file has more audio than its header says{figures}; all of it was read."
        notice = Notice("header_corrected", message)
    elif len(sounds) > 1:
        notice = _several(len(sounds), "WAV files" if len(wavs) > 1 else "chunks of sound")
    return Parts(found, notice, seconds or None)


def _seconds(wav: _Wav, n_bytes: int) -> float:
    return n_bytes / wav.form.bytes_per_s if wav.form and wav.form.bytes_per_s else 0.0


def _parts_of(media: Media, wav: _Wav) -> Iterator[Media]:
    for number, sound in enumerate(wav.sounds):
        if number == 0:  # With its header for every codec, but ignoring the size in it.
            options = media.options | {"ignore_length": "1"}
            yield replace(media, begin=wav.begin, end=sound.end, demuxer="wav", options=options)
        elif wav.form is not None and wav.form.demuxer and sound.end > sound.begin:
            options = media.options | wav.form.options
            yield replace(
                media, begin=sound.begin, end=sound.end, demuxer=wav.form.demuxer, options=options
            )


def _walk(file: BinaryIO, size: int) -> list[_Wav]:
    """The WAV files in a file, with their data chunks."""
    wavs: list[_Wav] = []
    riff_end = at = 0
    while at + 8 <= size:
        name, length = _chunk_head(file, at)
        if name == b"RIFF":
            wavs.append(_Wav(at))
            riff_end = at + 8 + length
            at += 12
            continue
        if not wavs:  # RF64 and similar: FFmpeg handles them
            return []
        if name == b"fmt ":
            file.seek(at + 8)
            wavs[-1].form = _Format.read(file.read(min(length, 64)))
        elif name == b"data":
            wav = wavs[-1]
            begin = at + 8
            end = _sound_end(file, begin, length, (riff_end, size))
            read_to = size if length in UNKNOWN_SIZES else min(size, begin + length)
            if read_to < end <= read_to + MIN_EXTRA_S * (wav.form.bytes_per_s if wav.form else 0):
                end = read_to
            wav.sounds.append(_Sound(begin, end, read_to))
            at = end + end % 2
            continue
        at += 8 + length + length % 2
    return wavs


def _sound_end(file: BinaryIO, begin: int, length: int, ends: tuple[int, int]) -> int:
    """End offset of the audio at ``begin``; ``ends`` are those of the RIFF chunk and the file.

    The header's end counts if a chain of chunks follows it to an end. Otherwise a chain of metadata
    chunks, or the end of the file, ends the audio.
    """
    end = begin + length
    size = ends[1]
    if length != UNKNOWN_SIZES[1] and end <= size and _chunks_follow(file, end, ends):
        return end
    tail_from = max(begin, size - TAIL_BYTES)
    file.seek(tail_from)
    tail = file.read(size - tail_from)
    for at in sorted(_found(tail, TAIL_CHUNKS)):
        if tail_from + at > begin and _chunks_follow(file, tail_from + at, ends):
            return tail_from + at
    return begin + length if 0 < end <= size and length and is_blank(file, end) else size


def _chunks_follow(file: BinaryIO, at: int, ends: tuple[int, int]) -> bool:
    """Whether chunks follow up to the end of the RIFF chunk or the file, or nothing follows.

    Chunks should be padded to even sizes; some programs omit that.
    """
    size = ends[1]
    if size - at <= 1:
        return True
    while at < size:
        name, length = _chunk_head(file, at)
        if at % 2 and not _is_name(name):
            at += 1
            name, length = _chunk_head(file, at)
        if not _is_name(name):
            return name[:3] in TAGS
        if name == b"RIFF":
            return True  # another WAV file
        if name == b"data" and (length in UNKNOWN_SIZES or at + 8 + length <= size):
            return True  # its own end is checked later
        at += 8 + length
        if any(at <= end <= at + 1 for end in ends):
            return True
    return False


def _is_name(name: bytes) -> bool:
    return len(name) == 4 and all(0x20 <= byte < 0x7F for byte in name) and name[:3] not in TAGS


def _chunk_head(file: BinaryIO, at: int) -> tuple[bytes, int]:
    file.seek(at)
    head = file.read(8)
    return head[:4], int.from_bytes(head[4:], "little")


def _found(data: bytes, names: Sequence[bytes]) -> Iterator[int]:
    for name in names:
        at = data.find(name)
        while at >= 0:
            yield at
            at = data.find(name, at + 1)


# --- Ogg and FLAC ---------------------------------------------------------------------------------


def _ogg_links(path: Path) -> list[int]:
    """Offsets of links: first pages of a stream that do not follow another first page."""
    begins: list[int] = []
    page_end = -1
    with path.open("rb") as file:
        for at in _positions(file, (OGG_FIRST_PAGE,)):
            file.seek(at)
            page = file.read(OGG_PAGE_HEAD + 255)
            # On a first page, position and page number are 0; otherwise the bytes are audio.
            if any(page[6:14]) or any(page[18:22]) or len(page) <= OGG_PAGE_HEAD:
                continue
            if at != page_end:
                begins.append(at)
            n_segments = page[OGG_PAGE_HEAD - 1]
            lengths = page[OGG_PAGE_HEAD : OGG_PAGE_HEAD + n_segments]
            page_end = at + OGG_PAGE_HEAD + n_segments + sum(lengths)
    return begins


def is_cut_off_ogg(path: Path) -> bool:
    """Whether the file ends within a page. FFmpeg reads the pages before and reports nothing."""
    with path.open("rb") as file:
        if file.read(4) != OGG_FIRST_PAGE[:4]:
            return False
        size = path.stat().st_size
        file.seek(max(0, size - MAX_OGG_PAGE))
        tail = file.read(MAX_OGG_PAGE)
    page = tail[max(0, tail.rfind(OGG_FIRST_PAGE[:5])) :]
    n_segments = page[OGG_PAGE_HEAD - 1] if len(page) >= OGG_PAGE_HEAD else 0
    lengths = page[OGG_PAGE_HEAD : OGG_PAGE_HEAD + n_segments]
    n_bytes = OGG_PAGE_HEAD + n_segments + sum(lengths)
    return page.startswith(OGG_FIRST_PAGE[:5]) and len(page) < n_bytes


def _positions(file: BinaryIO, names: Sequence[bytes]) -> list[int]:
    """All offsets of ``names`` (of equal length), in order."""
    found: list[int] = []
    base = 0
    data = b""
    overlap = len(names[0]) - 1
    while more := file.read(SCAN_BYTES):
        data = data[-overlap:] + more
        found += sorted(base + len(more) - len(data) + at for at in _found(data, names))
        base += len(more)
    return found
