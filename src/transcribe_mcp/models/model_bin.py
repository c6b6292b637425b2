"""The variables in CTranslate2's model.bin, read without CTranslate2: it ends the process on some damaged models.

The file is a header (binary version, name and revision of the specification), the variables one after another (name,
shape, type, size in bytes, data), and aliases.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFormatError

_AGAIN = "fetch or convert the model again"
_READ_VERSIONS = (5, 6)  # others are left to CTranslate2, which refuses what it does not know
# By CTranslate2's number of the type; bfloat16 as its bits.
_TYPES = {
    "float32": "<f4",
    "int8": "i1",
    "int16": "<i2",
    "int32": "<i4",
    "float16": "<f2",
    "bfloat16": "<u2",
}
_TYPE_NAMES = tuple(_TYPES)
# Unsigned type, mask of all bits but the sign, and from where on the rest is infinite or no number.
_FINITE = {
    "float32": ("<u4", 0x7FFF_FFFF, 0x7F80_0000),
    "float16": ("<u2", 0x7FFF, 0x7C00),
    "bfloat16": ("<u2", 0x7FFF, 0x7F80),
}
_BLOCK = 1 << 19  # values looked at together, which fit the processor's cache


@dataclass(frozen=True, slots=True)
class Variable:
    """``dtype`` is CTranslate2's name of it, ``offset`` the place of the data in bytes."""

    shape: tuple[int, ...]
    dtype: str
    offset: int


def read_variables(file: Path) -> dict[str, Variable] | None:
    """The variables by name; ``None`` where the file's version is not one that is read here.

    Raises:
        ModelFormatError: the file is cut short, damaged, unreadable or holds no Whisper model.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            return _variables(stream, size)
    except (struct.error, ValueError) as error:  # UnicodeDecodeError is one
        message = f"{file} is damaged or cut short: {error}"
        raise ModelFormatError(message, hint=_AGAIN) from error
    except OSError as error:
        raise ModelFormatError(
            f"{file} cannot be read: {error.strerror}", hint="check its permissions"
        ) from error


def _variables(stream: BinaryIO, size: int) -> dict[str, Variable] | None:
    (version,) = _unpack("<I", stream)
    if not 0 < version < 100:
        raise ValueError("it does not begin with the version of a CTranslate2 model")
    if version not in _READ_VERSIONS:
        return None
    name = _text(stream)
    if name != "WhisperSpec":
        raise ValueError(f"it holds a {name[:40]!r} model, not Whisper's")
    _, count = _unpack("<II", stream)
    found: dict[str, Variable] = {}
    for _ in range(count):
        name = _text(stream)
        (rank,) = _unpack("<B", stream)
        shape = _unpack(f"<{rank}I", stream)
        type_id, n_bytes = _unpack("<BI", stream)
        dtype = _TYPE_NAMES[type_id] if type_id < len(_TYPE_NAMES) else ""
        if not dtype or n_bytes != np.dtype(_TYPES[dtype]).itemsize * math.prod(shape):
            raise ValueError(f"the size of {name} does not fit its shape {shape}")
        found[name] = Variable(shape, dtype, stream.tell())
        if stream.seek(n_bytes, 1) > size:
            raise ValueError(f"{name} ends at byte {stream.tell()} of {size}")
    (n_aliases,) = _unpack("<I", stream)
    for _ in range(n_aliases):
        alias, name = _text(stream), _text(stream)
        if name not in found:
            raise ValueError(f"{alias} stands for {name}, which is not there")
        found[alias] = found[name]
    return found


def _unpack(form: str, stream: BinaryIO) -> tuple[int, ...]:
    data = stream.read(struct.calcsize(form))
    if len(data) < struct.calcsize(form):
        raise ValueError(f"it ends at byte {stream.tell()}")
    return struct.unpack(form, data)


def _text(stream: BinaryIO) -> str:
    (length,) = _unpack("<H", stream)
    return "".join(chr(byte) for byte in _unpack(f"<{length}B", stream)).rstrip("\0")


def require_finite(file: Path, variables: dict[str, Variable]) -> None:
    """
    Raises:
        ModelFormatError: a weight is infinite or no number; CTranslate2 would compute nonsense with it.
    """
    for name, variable in variables.items():
        if variable.dtype not in _FINITE or not all(variable.shape):
            continue
        values = np.memmap(
            file,
            np.dtype(_TYPES[variable.dtype]),
            "r",
            variable.offset,
            (math.prod(variable.shape),),
        )
        if not all_finite(values, variable.dtype):
            raise ModelFormatError(f"{file}: {name} holds values that are no numbers", hint=_AGAIN)


def all_finite(values: NDArray[Any], dtype: str) -> bool:
    """Whether all are numbers; by their bits, several times as fast as ``numpy.isfinite`` and for bfloat16 too."""
    if dtype not in _FINITE:
        return True
    unsigned, without_sign, limit = _FINITE[dtype]
    bits = values.reshape(-1).view(unsigned)
    blocks = (bits[first : first + _BLOCK] for first in range(0, len(bits), _BLOCK))
    return all(int((block & without_sign).max()) < limit for block in blocks)


def scalar(file: Path, variable: Variable | None) -> int | None:
    """The value of a variable without dimensions; ``None`` where there is no such variable."""
    if variable is None or variable.shape:
        return None
    values: NDArray[Any] = np.fromfile(file, _TYPES[variable.dtype], 1, offset=variable.offset)
    return int(values[0])
