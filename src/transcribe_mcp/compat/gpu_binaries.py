"""Read a compiled library: GPU code by architecture, PTX version, libraries that it opens.

Sources: the ELF-64 layout (``man 5 elf``), the PE section table (Microsoft's PE format page), and
the fat-binary headers (``cuobjdump --list-elf --list-ptx``,
https://docs.nvidia.com/cuda/cuda-binary-utilities/). Only headers are read: 80 MB take about 5 ms.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_FATBIN_MAGIC = 0xBA55ED50
_FATBIN_HEADER = struct.Struct("<IHHQ")  # magic, version, header bytes, payload bytes
_FATBIN_ENTRY = struct.Struct(
    "<HHIQIIHHI"
)  # kind, version, header bytes, payload bytes, -, -, minor, major, arch
_ALIGNMENT_BYTES = 8
_KIND_PTX = 1
_KIND_ELF = 2
_ELF_SECTION = struct.Struct("<IIQQQQIIQQ")
_PE_SECTION = struct.Struct("<8sIIII16x")
MAX_SECTIONS = 200
_NAMES = (b"libcublas", b"libcudnn", b"cublas64_", b"cudnn64_")
_MAJOR = re.compile(
    rb"lib(?:cublas|cudnn)[A-Za-z_]*(?:-[0-9a-f]{8})?\.so\.(\d+)|(?:cublas|cudnn)64_(\d+)\.dll"
)


@dataclass(frozen=True, slots=True)
class GpuCode:
    """The GPU code of a library and the CUDA libraries that it opens.

    Attributes:
        sass: architectures with machine code, as 86 for 8.6.
        ptx: architectures with portable code, which the driver compiles at first use.
        ptx_isa: newest PTX version, e.g. ``8.7``; empty without PTX.
        cublas_major, cudnn_major: versions that it opens at run time; 0 for none.
    """

    sass: tuple[int, ...]
    ptx: tuple[int, ...]
    ptx_isa: str
    cublas_major: int
    cudnn_major: int


def read_gpu_code(path: Path) -> GpuCode:
    """Read one ELF or PE library.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is neither ELF nor PE, or its headers point outside the file.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            sections = _sections(data)
            entries = list(_fatbin_entries(data, sections))
            names = _opened_libraries(data, sections)
    except (
        struct.error,
        OverflowError,
    ) as error:  # offsets outside the file, or larger than any file
        raise ValueError(f"{path.name} is damaged") from error
    isa = max(
        ((major, minor) for kind, _, major, minor in entries if kind == _KIND_PTX), default=None
    )
    return GpuCode(
        tuple(sorted({arch for kind, arch, _, _ in entries if kind == _KIND_ELF})),
        tuple(sorted({arch for kind, arch, _, _ in entries if kind == _KIND_PTX})),
        f"{isa[0]}.{isa[1]}" if isa else "",
        names.get("cublas", 0),
        names.get("cudnn", 0),
    )


def _sections(data: mmap.mmap) -> dict[str, tuple[int, int]]:
    """Section name -> (offset, bytes)."""
    if data[:4] == b"\x7fELF":
        return _elf_sections(data)
    if data[:2] == b"MZ":
        return _pe_sections(data)
    raise ValueError("neither ELF nor PE")


def _elf_sections(data: mmap.mmap) -> dict[str, tuple[int, int]]:
    if data[4] != 2:
        raise ValueError("no 64-bit library")
    (table,) = struct.unpack_from("<Q", data, 0x28)
    size, count, names_index = struct.unpack_from("<HHH", data, 0x3A)
    rows = [
        _ELF_SECTION.unpack_from(data, table + i * size) for i in range(min(count, MAX_SECTIONS))
    ]
    if names_index >= len(rows):
        raise ValueError("no section names")
    names_at = rows[names_index][4]
    found = {}
    for row in rows:
        start = names_at + row[0]
        found[data[start : data.find(b"\0", start)].decode("ascii", "replace")] = (row[4], row[5])
    return found


def _pe_sections(data: mmap.mmap) -> dict[str, tuple[int, int]]:
    (at,) = struct.unpack_from("<I", data, 0x3C)
    (count,) = struct.unpack_from("<H", data, at + 6)
    (optional_bytes,) = struct.unpack_from("<H", data, at + 20)
    table = at + 24 + optional_bytes
    rows = [
        _PE_SECTION.unpack_from(data, table + i * _PE_SECTION.size)
        for i in range(min(count, MAX_SECTIONS))
    ]
    return {row[0].rstrip(b"\0").decode("ascii", "replace"): (row[4], row[3]) for row in rows}


def _fatbin_entries(
    data: mmap.mmap, sections: dict[str, tuple[int, int]]
) -> Iterator[tuple[int, int, int, int]]:
    """(kind, architecture, major, minor) of every piece of GPU code."""
    at, size = sections.get(".nv_fatbin") or sections.get(".nv_fatb") or (0, 0)
    end = min(at + size, len(data))
    while at + _FATBIN_HEADER.size <= end:
        magic, _, header_bytes, payload_bytes = _FATBIN_HEADER.unpack_from(data, at)
        if magic != _FATBIN_MAGIC:
            at += _ALIGNMENT_BYTES
            continue
        entry = at + header_bytes
        stop = min(entry + payload_bytes, end)
        while entry + _FATBIN_ENTRY.size <= stop:
            kind, _, inner_bytes, inner_payload, _, _, minor, major, arch = (
                _FATBIN_ENTRY.unpack_from(data, entry)
            )
            yield kind, arch, major, minor
            entry += max(inner_bytes + inner_payload, _ALIGNMENT_BYTES)
        at += max(header_bytes + payload_bytes, _ALIGNMENT_BYTES)


def _opened_libraries(data: mmap.mmap, sections: dict[str, tuple[int, int]]) -> dict[str, int]:
    """``cublas`` and ``cudnn`` -> major version, from the names among the library's strings."""
    found: dict[str, int] = {}
    for section in (".rodata", ".rdata", ".dynstr"):
        start, size = sections.get(section, (0, 0))
        for name in (
            _NAMES
        ):  # find() is twenty times quicker over the whole section than a regular expression
            at = data.find(name, start, start + size)
            while at >= 0:
                match = _MAJOR.match(data, at)
                if match:
                    found.setdefault(
                        "cublas" if b"cublas" in name else "cudnn", int(match[1] or match[2])
                    )
                    break
                at = data.find(name, at + 1, start + size)
    return found
