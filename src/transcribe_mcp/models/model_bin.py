"""Reads the variables in CTranslate2's model.bin without CTranslate2, which aborts on some damaged
models.

The file holds a header (binary version, name and revision of the specification), the variables
(name, shape, type, size in bytes, data), and aliases.
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

_AGAIN = "download or convert the model again"
_SUPPORTED_VERSIONS = (5, 6)  # CTranslate2 itself checks other versions
# In the order of CTranslate2's type numbers; bfloat16 as its bits.
_TYPES = {
    "float32": "<f4",
    "int8": "i1",
    "int16": "<i2",
    "int32": "<i4",
    "float16": "<f2",
    "bfloat16": "<u2",
}
_TYPE_NAMES = tuple(_TYPES)
# Unsigned type, mask without the sign bit, and the smallest masked value that is infinite or NaN.
_FINITE = {
    "float32": ("<u4", 0x7FFF_FFFF, 0x7F80_0000),
    "float16": ("<u2", 0x7FFF, 0x7C00),
    "bfloat16": ("<u2", 0x7FFF, 0x7F80),
}
_BLOCK = 1 << 19  # values per step, to fit the CPU cache


@dataclass(frozen=True, slots=True)
class Variable:
    """``dtype`` is a name of CTranslate2, ``offset`` the position of the data in bytes."""

    shape: tuple[int, ...]
    dtype: str
    offset: int


def read_variables(file: Path) -> dict[str, Variable] | None:
    """The variables by name; ``None`` if the version of the file is not supported here.

    Raises:
        ModelFormatError: the file is cut short, damaged, unreadable or not a Whisper model.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            return _variables(stream, size)
    except (struct.error, ValueError) as error:  # UnicodeDecodeError is one
        raise ModelFormatError(f"{file} is damaged or cut short: {error}", hint=_AGAIN) from error
    except OSError as error:
        raise ModelFormatError(
            f"{file} cannot be read: {error.strerror}", hint="check its permissions"
        ) from error


def _variables(stream: BinaryIO, size: int) -> dict[str, Variable] | None:
    (version,) = _unpack("<I", stream)
    if not 0 < version < 100:
        raise ValueError("it does not begin with the version of a CTranslate2 model")
    if version not in _SUPPORTED_VERSIONS:
        return None
    specification = _text(stream)
    if specification != "WhisperSpec":
        raise ValueError(f"it holds a {specification[:40]!r} model, not Whisper's")
    _, count = _unpack("<II", stream)
    found = dict(_variable(stream, size) for _ in range(count))
    (n_aliases,) = _unpack("<I", stream)
    for _ in range(n_aliases):
        alias = _text(stream)
        name = _text(stream)
        if name not in found:
            raise ValueError(f"{alias} is an alias of {name}, which is missing")
        found[alias] = found[name]
    return found


def _variable(stream: BinaryIO, size: int) -> tuple[str, Variable]:
    name = _text(stream)
    (rank,) = _unpack("<B", stream)
    shape = _unpack(f"<{rank}I", stream)
    type_id, n_bytes = _unpack("<BI", stream)
    dtype = _TYPE_NAMES[type_id] if type_id < len(_TYPE_NAMES) else ""
    if not dtype or n_bytes != np.dtype(_TYPES[dtype]).itemsize * math.prod(shape):
        raise ValueError(f"the size of {name} does not match its shape {shape}")
    offset = stream.tell()
    if stream.seek(n_bytes, 1) > size:
        raise ValueError(f"{name} ends at byte {stream.tell()} of {size}")
    return name, Variable(shape, dtype, offset)


def _unpack(form: str, stream: BinaryIO) -> tuple[int, ...]:
    data = stream.read(struct.calcsize(form))
    if len(data) < struct.calcsize(form):
        raise ValueError(f"it ends at byte {stream.tell()}")
    return struct.unpack(form, data)


def _text(stream: BinaryIO) -> str:
    (length,) = _unpack("<H", stream)
    return "".join(chr(byte) for byte in _unpack(f"<{length}B", stream)).rstrip("\0")


def require_finite(file: Path, variables: dict[str, Variable]) -> None:
    """Refuse weights that are infinite or NaN: CTranslate2 would use them without an error.

    Raises:
        ModelFormatError: the file has such a weight.
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
            raise ModelFormatError(f"{file}: {name} has infinite or NaN values", hint=_AGAIN)


def all_finite(values: NDArray[Any], dtype: str) -> bool:
    """Whether all values are finite. Works on bits: several times faster than
    ``numpy.isfinite``.
    """
    if dtype not in _FINITE:
        return True
    unsigned, without_sign, limit = _FINITE[dtype]
    bits = values.reshape(-1).view(unsigned)
    blocks = (bits[first : first + _BLOCK] for first in range(0, len(bits), _BLOCK))
    return all(int((block & without_sign).max()) < limit for block in blocks)


def scalar(file: Path, variable: Variable | None) -> int | None:
    """The value of a scalar variable; ``None`` if there is no such variable."""
    if variable is None or variable.shape:
        return None
    values: NDArray[Any] = np.fromfile(file, _TYPES[variable.dtype], 1, offset=variable.offset)
    return int(values[0])
