"""What a Hugging Face Whisper checkpoint holds: its sizes from config.json, its tensors from the safetensors files.

Tensors are read from the mapped files one at a time, when they are asked for: no more memory is needed than for the
largest. Only NumPy takes part.
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
_AGAIN = "fetch or export the model again"


@dataclass(frozen=True, slots=True)
class Geometry:
    """The sizes of a Whisper model, under the names of its config.json."""

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
        """Read it from the contents of ``file``, a config.json.

        Raises:
            ModelFormatError: another architecture, or a size is missing or no positive integer.
        """
        if config.get("model_type") != "whisper":
            message = f"{file} describes a {config.get('model_type')!r} model, not Whisper"
            raise ModelFormatError(message, hint="give a Whisper checkpoint")
        sizes = {}
        for name in cls.__slots__:
            value = config.get(name)
            if type(value) is not int or value <= 0:
                raise ModelFormatError(
                    f"{file}: {name} is {value!r}, not a positive integer", hint=_AGAIN
                )
            sizes[name] = value
        geometry = cls(**sizes)
        for side, heads in (
            ("encoder", geometry.encoder_attention_heads),
            ("decoder", geometry.decoder_attention_heads),
        ):
            if geometry.d_model % heads:
                raise ModelFormatError(
                    f"{file}: d_model {geometry.d_model} is no multiple of {heads} {side} heads"
                )
        return geometry


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor in a safetensors file. ``dtype`` is the file's name of it."""

    file: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    offset_bytes: int

    def read(self) -> NDArray[Any]:
        """A view of the mapped file; bfloat16 as its 16 bits in an unsigned integer."""
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
    """All tensors of a checkpoint, by name, over one or several safetensors files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._tensors = {tensor.name: tensor for file in files for tensor in _read_header(file)}
        # Checkpoints saved from the bare encoder-decoder lack the prefix.
        self._prefix = "model." if any(name.startswith("model.") for name in self._tensors) else ""

    @property
    def where(self) -> Path:
        """The file, or the directory of several."""
        return self._files[0] if len(self._files) == 1 else self._files[0].parent

    def find(self, name: str, shape: tuple[int, ...]) -> StoredTensor | None:
        """The tensor if there is one.

        Raises:
            ModelFormatError: it has another shape or a precision that is not read.
        """
        tensor = self._tensors.get(self._prefix + name)
        if tensor is None:
            return None
        if tensor.shape != shape:
            raise ModelFormatError(
                f"{tensor.file}: {tensor.name} has shape {tensor.shape}, not {shape}", hint=_AGAIN
            )
        if tensor.dtype not in NUMPY_OF:
            message = f"{tensor.file}: {tensor.name} is stored as {tensor.dtype}; read are {', '.join(NUMPY_OF)}"
            raise ModelFormatError(message, hint="take an unquantized version of the model")
        return tensor

    def get(self, name: str, shape: tuple[int, ...]) -> StoredTensor:
        """The tensor. Raises ModelFormatError as ``find``, and if there is none."""
        tensor = self.find(name, shape)
        if tensor is None:
            raise ModelFormatError(f"{self.where} has no tensor {self._prefix}{name}", hint=_AGAIN)
        return tensor


def _read_header(file: Path) -> list[StoredTensor]:
    """The tensors of a safetensors file: 8 bytes of header length, the header as JSON, the data."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > size - 8:
                raise ModelFormatError(
                    f"{file} is cut short: its header does not fit into {size} bytes", hint=_AGAIN
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
            f"{file} is no safetensors file: its header is damaged", hint=_AGAIN
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
            f"{file}: the place of {name} does not fit its shape {shape}", hint=_AGAIN
        )
    if data_start + end > size:
        raise ModelFormatError(
            f"{file} is cut short: {name} ends at byte {data_start + end} of {size}", hint=_AGAIN
        )
    return StoredTensor(file, name, dtype, shape, data_start + begin)
