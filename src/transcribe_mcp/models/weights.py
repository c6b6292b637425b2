"""Hugging Face Whisper weights -> CTranslate2's ``model.bin``.  [uses ctranslate2's
model specification]

Each tensor is read from the mapped file when it is written. So the peak memory is that of the
largest tensor. Neither torch nor transformers is needed.

CTranslate2 stores query, key and value of a self-attention as one matrix (3 d_model, d_model), and
key and value of a cross-attention as one (2 d_model, d_model). Key projections have no bias; zeros
are stored. The output projection is the token embedding.
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
    """A variable of the specification whose bytes exist only while it is written."""

    def __init__(
        self, shape: tuple[int, ...], dtype: str, make: Callable[[], NDArray[Any]]
    ) -> None:
        self._shape = shape
        self._dtype = dtype
        self._make = make

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
        raise NotImplementedError(f"{dtype}: the precision is set on creation")

    def _equal(self, other: Any) -> bool:
        return self is other


class SpecificationWriter:
    """Fills CTranslate2's Whisper specification from ``tensors`` and saves it.

    Args:
        quantization: ``source`` keeps the precision of the file; ``int8`` stores linear layers and
            the embedding as 8-bit integers with one scale per row, and the rest as in the file.
        report: called with the number of bytes of each variable written.
    """

    def __init__(
        self,
        geometry: Geometry,
        tensors: Tensors,
        quantization: Quantization,
        report: Callable[[int], None],
    ) -> None:
        self._geometry = geometry
        self._tensors = tensors
        self._quantization = quantization
        self._report = report
        # The latest quantized matrix: its weights and its scales are two variables, written in
        # turn.
        self._quantized: tuple[list[StoredTensor], NDArray[np.int8], NDArray[np.float32]] | None
        self._quantized = None
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
        # An alias: the weights are stored once.
        self._spec.decoder.projection.weight = "decoder/embeddings/weight"
        self._spec.save(str(directory))

    def _fill(self) -> None:
        g = self._geometry
        spec = self._spec
        for number, channels in ((1, g.num_mel_bins), (2, g.d_model)):
            conv = getattr(spec.encoder, f"conv{number}")
            name = f"encoder.conv{number}"
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
        # ``save`` replaces it with an alias, after the validation.
        spec.decoder.projection.weight = spec.decoder.embeddings.weight

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
        norm.gamma = self._one(f"{name}.weight", shape)
        norm.beta = self._one(f"{name}.bias", shape)

    def _linear(
        self, linear: common_spec.LinearSpec, names: list[str], shape: tuple[int, int]
    ) -> None:
        """Stack one or more linear layers of ``shape`` (outputs, inputs) along the outputs."""
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
            if self._quantized is None or self._quantized[0] is not parts:
                matrix = np.concatenate([part.read_float32() for part in parts])
                self._require_finite(matrix, "float32")
                self._quantized = (parts, *_quantize(matrix))
            return self._quantized[1:]

        spec.weight = self._variable((rows, shape[1]), "int8", lambda: quantized()[0])
        spec.weight_scale = self._variable((rows,), "float32", lambda: quantized()[1])

    def _one(self, name: str, shape: tuple[int, ...]) -> _Deferred:
        return self._stack([self._tensors.get(name, shape)], shape)

    def _stack(self, parts: Sequence[StoredTensor | None], shape: tuple[int, ...]) -> _Deferred:
        """Concatenate parts of ``shape``; ``None`` stands for zeros. Mixed precisions become
        float32.
        """
        dtypes = {part.dtype for part in parts if part is not None}
        dtype = dtypes.pop() if len(dtypes) == 1 else None
        zeros = np.zeros(shape, np.float32 if dtype is None else NUMPY_OF[dtype])

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
            raise ModelFormatError(
                f"{self._tensors.where}: the weights have infinite or NaN values",
                hint="download or export the model again",
            )


def _quantize(matrix: NDArray[np.float32]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Quantize (rows, columns) to int8; the (rows,) scales are 127 / max |row|."""
    largest = np.abs(matrix).max(axis=1)
    scales = np.float32(127) / np.where(
        largest == 0, np.float32(127), np.maximum(largest, np.float32(1e-36))
    )
    return np.rint(matrix * scales[:, None]).astype(np.int8), scales.astype(np.float32)
