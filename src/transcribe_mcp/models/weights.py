"""Hugging Face Whisper weights -> CTranslate2's ``model.bin``.  [door: ctranslate2's model specification]

Tensors are read from the mapped files one at a time, when they are written: the memory needed is that of the largest
tensor, whatever the model's size. Neither torch nor transformers takes part.

CTranslate2 wants query, key and value of a self-attention as one matrix (3 d_model, d_model), and key and value of a
cross-attention as one (2 d_model, d_model); key projections have no bias, so zeros stand in. The output projection is
the token embedding again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from ctranslate2.specs import common_spec, model_spec, whisper_spec
from numpy.typing import NDArray

from ..errors import ModelFormatError
from .model_bin import all_finite
from .tensors import NUMPY_OF, Geometry, StoredTensor, Tensors

Quantization = Literal["source", "int8"]
_CT2_OF = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class _Deferred(model_spec.Variable):  # type: ignore[misc]  # ctranslate2 has no types
    """A variable of the specification whose bytes are made when it is written, and forgotten after."""

    def __init__(
        self, shape: tuple[int, ...], dtype: str, make: Callable[[], NDArray[Any]]
    ) -> None:
        self._shape, self._dtype, self._make = shape, dtype, make

    @property
    def shape(self) -> list[int]:
        return list(self._shape)

    @property
    def dtype(self) -> str:
        return self._dtype

    def num_bytes(self) -> int:
        width = {"float32": 4, "float16": 2, "bfloat16": 2, "int8": 1}[self._dtype]
        return width * math.prod(self._shape)

    def numpy(self) -> NDArray[Any]:
        return self._make()

    def to_bytes(self) -> bytes:
        return self._make().tobytes()

    def _to(self, dtype: str) -> model_spec.Variable:
        raise NotImplementedError(f"{dtype}: precision is chosen when the variable is made")

    def _equal(self, other: Any) -> bool:
        return self is other


class SpecificationWriter:
    """Fills CTranslate2's Whisper specification from ``tensors`` and saves it.

    Args:
        quantization: ``source`` keeps the precision of the file; ``int8`` stores linear layers and the embedding as
            8-bit integers with one scale a row, and all else as in the file.
        report: told the bytes written after each variable.
    """

    def __init__(
        self,
        geometry: Geometry,
        tensors: Tensors,
        quantization: Quantization,
        report: Callable[[int], None],
    ) -> None:
        self._geometry, self._tensors, self._quantization, self._report = (
            geometry,
            tensors,
            quantization,
            report,
        )
        self._quantized: tuple[list[StoredTensor], NDArray[np.int8], NDArray[np.float32]] | None = (
            None
        )
        g = geometry
        self._spec = whisper_spec.WhisperSpec(
            g.encoder_layers, g.encoder_attention_heads, g.decoder_layers, g.decoder_attention_heads
        )
        self._fill()

    def save(self, directory: Path, vocabulary: list[str], config: dict[str, Any]) -> None:
        """Write model.bin, config.json and vocabulary.json into ``directory``."""
        self._spec.register_vocabulary(vocabulary)
        for name, value in config.items():
            setattr(self._spec.config, name, value)
        self._spec.validate()
        self._spec.decoder.projection.weight = (
            "decoder/embeddings/weight"  # a name: the weights are stored once
        )
        self._spec.save(str(directory))

    def _fill(self) -> None:
        g, spec = self._geometry, self._spec
        for number, channels in ((1, g.num_mel_bins), (2, g.d_model)):
            conv, name = getattr(spec.encoder, f"conv{number}"), f"encoder.conv{number}"
            conv.weight = self._one(f"{name}.weight", (g.d_model, channels, 3))
            conv.bias = self._one(f"{name}.bias", (g.d_model,))
        sides = (
            (spec.encoder, "encoder", g.max_source_positions, g.encoder_ffn_dim),
            (spec.decoder, "decoder", g.max_target_positions, g.decoder_ffn_dim),
        )
        for side, name, positions, ffn_dim in sides:
            side.position_encodings.encodings = self._one(
                f"{name}.embed_positions.weight", (positions, g.d_model)
            )
            self._norm(side.layer_norm, f"{name}.layer_norm")
            for number, layer in enumerate(side.layer):
                self._layer(layer, f"{name}.layers.{number}", ffn_dim, cross=name == "decoder")
        spec.decoder.scale_embeddings = False
        self._matrix(spec.decoder.embeddings, ["decoder.embed_tokens"], (g.vocab_size, g.d_model))
        spec.decoder.projection.weight = (
            spec.decoder.embeddings.weight
        )  # until validated, then its name

    def _layer(self, layer: Any, name: str, ffn_dim: int, *, cross: bool) -> None:
        d_model = self._geometry.d_model
        square = (d_model, d_model)
        self._norm(layer.self_attention.layer_norm, f"{name}.self_attn_layer_norm")
        queries_keys_values = [f"{name}.self_attn.{part}_proj" for part in "qkv"]
        self._linear(layer.self_attention.linear[0], queries_keys_values, square)
        self._linear(layer.self_attention.linear[1], [f"{name}.self_attn.out_proj"], square)
        if cross:
            self._norm(layer.attention.layer_norm, f"{name}.encoder_attn_layer_norm")
            parts = (["q_proj"], ["k_proj", "v_proj"], ["out_proj"])
            for linear, names in zip(layer.attention.linear, parts, strict=True):
                self._linear(linear, [f"{name}.encoder_attn.{part}" for part in names], square)
        self._norm(layer.ffn.layer_norm, f"{name}.final_layer_norm")
        self._linear(layer.ffn.linear_0, [f"{name}.fc1"], (ffn_dim, d_model))
        self._linear(layer.ffn.linear_1, [f"{name}.fc2"], (d_model, ffn_dim))

    def _norm(self, norm: Any, name: str) -> None:
        shape = (self._geometry.d_model,)
        norm.gamma, norm.beta = self._one(f"{name}.weight", shape), self._one(f"{name}.bias", shape)

    def _linear(
        self, linear: common_spec.LinearSpec, names: list[str], shape: tuple[int, int]
    ) -> None:
        """One linear layer out of one or several of ``shape`` (outputs, inputs), stacked along the outputs."""
        self._matrix(linear, names, shape)
        biases = [self._tensors.find(f"{name}.bias", shape[:1]) for name in names]
        if any(bias is not None for bias in biases):
            linear.bias = self._stack(biases, shape[:1])

    def _matrix(self, spec: Any, names: list[str], shape: tuple[int, int]) -> None:
        parts = [self._tensors.get(f"{name}.weight", shape) for name in names]
        if self._quantization == "source":
            spec.weight = self._stack(parts, shape)
            return
        rows = len(parts) * shape[0]

        def quantized() -> tuple[NDArray[np.int8], NDArray[np.float32]]:
            if (
                self._quantized is None or self._quantized[0] is not parts
            ):  # its scales are asked for next
                matrix = np.concatenate([part.read_float32() for part in parts])
                self._require_finite(matrix, "float32")
                self._quantized = (parts, *_quantize(matrix))
            return self._quantized[1:]

        spec.weight = self._variable((rows, shape[1]), "int8", lambda: quantized()[0])
        spec.weight_scale = self._variable((rows,), "float32", lambda: quantized()[1])

    def _one(self, name: str, shape: tuple[int, ...]) -> _Deferred:
        return self._stack([self._tensors.get(name, shape)], shape)

    def _stack(self, parts: Sequence[StoredTensor | None], shape: tuple[int, ...]) -> _Deferred:
        """The parts, each of ``shape``, one after the other; ``None`` is zeros. Mixed precisions become float32."""
        dtypes = {part.dtype for part in parts if part is not None}
        dtype = dtypes.pop() if len(dtypes) == 1 else None
        zeros = np.zeros(
            shape, np.float32 if dtype is None else NUMPY_OF[dtype]
        )  # of bfloat16 too: no bit is set

        def read(part: StoredTensor | None) -> NDArray[Any]:
            if part is None:
                return zeros
            return part.read_float32() if dtype is None else part.read()

        whole = (len(parts) * shape[0], *shape[1:])
        stored = "float32" if dtype is None else _CT2_OF[dtype]
        return self._variable(whole, stored, lambda: np.concatenate([read(part) for part in parts]))

    def _variable(
        self, shape: tuple[int, ...], dtype: str, make: Callable[[], NDArray[Any]]
    ) -> _Deferred:
        def made() -> NDArray[Any]:
            values = make()
            self._require_finite(values, dtype)
            self._report(values.nbytes)
            return values

        return _Deferred(shape, dtype, made)

    def _require_finite(self, values: NDArray[Any], dtype: str) -> None:
        if not all_finite(values, dtype):
            message = f"{self._tensors.where}: the weights hold values that are no numbers"
            raise ModelFormatError(message, hint="fetch or export the model again")


def _quantize(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """(rows, columns) float32 -> the same in int8 and the (rows,) scales that it was multiplied with, 127 / max."""
    largest = np.abs(matrix).max(axis=1)
    scales = np.float32(127) / np.where(
        largest == 0, np.float32(127), np.maximum(largest, np.float32(1e-36))
    )
    return np.rint(matrix * scales[:, None]).astype(np.int8), scales.astype(np.float32)
