"""A Whisper checkpoint in Hugging Face's layout: sizes from config.json, tensors from safetensors
files.

Tensors are views of memory-mapped files, so reading one at a time needs the memory of the largest.
The files are parsed here because the safetensors package reads bfloat16 only together with torch or
ml_dtypes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFormatError

NUMPY_OF: dict[str, np.dtype[Any]] = {
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype("<u2"),
}
_AGAIN = "download or export the model again"


@dataclass(frozen=True, slots=True)
class Geometry:
    """Sizes of a Whisper model, named as in its config.json."""

    d_model: int
    encoder_layers: int
    encoder_attention_heads: int
    encoder_ffn_dim: int
    decoder_layers: int
    decoder_attention_heads: int
    decoder_ffn_dim: int
    max_source_positions: int
    max_target_positions: int
    num_mel_bins: int
    vocab_size: int

    @classmethod
    def of(cls, config: dict[str, Any], file: Path) -> Geometry:
        """Read the sizes from the contents of ``file``, a config.json.

        Raises:
            ModelFormatError: another architecture, or a size that is missing or not positive.
        """
        if config.get("model_type") != "whisper":
            raise ModelFormatError(
                f"{file} describes a {config.get('model_type')!r} model, not Whisper",
                hint="give a Whisper checkpoint",
            )
        sizes = {}
        for name in cls.__slots__:
            value = config.get(name)
            if type(value) is not int or value <= 0:
                raise ModelFormatError(
                    f"{file}: {name} is {value!r}, not a positive integer", hint=_AGAIN
                )
            sizes[name] = value
        geometry = cls(**sizes)
        for side in ("encoder", "decoder"):
            heads = sizes[f"{side}_attention_heads"]
            if geometry.d_model % heads:
                raise ModelFormatError(
                    f"{file}: d_model {geometry.d_model} is not a multiple of {heads} {side} heads",
                    hint=_AGAIN,
                )
        return geometry


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a safetensors file. ``dtype`` is a name of that format, such as ``BF16``."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * NUMPY_OF[self.dtype].itemsize

    def read(self) -> NDArray[Any]:
        """A view of the mapped file; bfloat16 as uint16 with the same bits."""
        values: NDArray[Any] = np.memmap(
            self.file, NUMPY_OF[self.dtype], "r", self.offset_bytes, self.shape
        )
        return values

    def read_float32(self) -> NDArray[np.float32]:
        values = self.read()
        if self.dtype == "BF16":  # bfloat16 is the upper half of a float32
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values.astype(np.float32)


class Tensors:
    """All tensors of a checkpoint by name, from one or more safetensors files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._tensors = {tensor.name: tensor for file in files for tensor in _read_header(file)}
        # Checkpoints saved from the bare encoder-decoder lack the prefix.
        self._prefix = "model." if any(name.startswith("model.") for name in self._tensors) else ""

    @property
    def where(self) -> Path:
        """The file, or the directory if there are several files."""
        return self._files[0] if len(self._files) == 1 else self._files[0].parent

    def find(self, name: str, shape: tuple[int, ...]) -> StoredTensor | None:
        """The tensor, or ``None``.

        Raises:
            ModelFormatError: another shape, or a precision that is not supported.
        """
        tensor = self._tensors.get(self._prefix + name)
        if tensor is None:
            return None
        if tensor.shape != shape:
            raise ModelFormatError(
                f"{tensor.file}: {tensor.name} has shape {tensor.shape}, not {shape}", hint=_AGAIN
            )
        if tensor.dtype not in NUMPY_OF:
            supported = ", ".join(NUMPY_OF)
            raise ModelFormatError(
                f"{tensor.file}: {tensor.name} is {tensor.dtype}; supported are {supported}",
                hint="use an unquantized version of the model",
            )
        return tensor

    def get(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        """The tensor.

        Raises:
            ModelFormatError: as for ``find``, or there is no such tensor.
        """
        tensor = self.find(name, shape)
        if tensor is None:
            raise ModelFormatError(f"{self.where} has no tensor {self._prefix}{name}", hint=_AGAIN)
        return tensor


def read_tensors(file: Path) -> dict[str, StoredTensor]:
    """All tensors of a safetensors file by name.

    Raises:
        ModelFormatError: the file is missing or damaged.
    """
    return {tensor.name: tensor for tensor in _read_header(file)}


def _read_header(file: Path) -> list[StoredTensor]:
    """Read the index of a safetensors file: 8 bytes of header length, the header as JSON, the
    data.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > size - 8:
                raise ModelFormatError(
                    f"{file} is cut short: its header needs more than {size} bytes", hint=_AGAIN
                )
            header = json.loads(stream.read(length))
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        return [_stored(file, name, entry, 8 + length, size) for name, entry in entries.items()]
    except FileNotFoundError as error:
        raise ModelFormatError(f"{file} is missing", hint=_AGAIN) from error
    except OSError as error:
        raise ModelFormatError(
            f"{file} cannot be read: {error.strerror}", hint="check its permissions"
        ) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ModelFormatError(
            f"{file} is not a safetensors file: its header is damaged", hint=_AGAIN
        ) from error


def _stored(
    file: Path, name: str, entry: dict[str, Any], data_start: int, size: int
) -> StoredTensor:
    begin, end = entry["data_offsets"]
    shape = tuple(int(n) for n in entry["shape"])
    dtype = str(entry["dtype"])
    width = NUMPY_OF[dtype].itemsize if dtype in NUMPY_OF else None
    if not 0 <= begin <= end or (width and end - begin != width * math.prod(shape)):
        raise ModelFormatError(
            f"{file}: the offsets of {name} do not match its shape {shape}", hint=_AGAIN
        )
    if data_start + end > size:
        raise ModelFormatError(
            f"{file} is cut short: {name} ends at byte {data_start + end} of {size}", hint=_AGAIN
        )
    return StoredTensor(file, name, dtype, shape, data_start + begin)
