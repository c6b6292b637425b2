"""Load a checkpoint in Hugging Face layout: the model on a device, and its generation config."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ...errors import ModelFormatError
from ...models import Checkpoint
from ...models.conversion import alignment_heads, token_ids, write_tokenizer
from ...models.layouts import read_json, weight_files
from ...models.tensors import Geometry, StoredTensor, Tensors
from ..tokenizer import Vocabulary
from .linear import Linear, MakeLinear
from .model import DecoderLayer, EncoderLayer, Norm, Operations, Whisper
from .pinned_upload import PinnedUpload

_TORCH_OF = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@dataclass(frozen=True, slots=True)
class Placement:
    """Device, precision and layer types of a model.

    Attributes:
        dtype: of activations, norms, positions, embedding.
        vocabulary_multiple: the output layer is padded with zeros to a multiple of this.
        encoder_linear, decoder_linear: build a layer from float32 weights and bias on ``device``.
        audio_linear: the same for keys and values of the audio.
    """

    device: torch.device
    dtype: torch.dtype
    encoder_linear: MakeLinear
    decoder_linear: MakeLinear
    audio_linear: MakeLinear
    operations: Operations
    vocabulary_multiple: int = 1


@dataclass(frozen=True, slots=True)
class GenerationConfig:
    """Decoding settings of a checkpoint, as its own token IDs.

    Attributes:
        suppressed: tokens that are never sampled; ``suppressed_first``: not as the first token.
        alignment_heads: (layer, head) of the decoder, sorted; the upper half of the layers if the
            files name none.
        names_heads: whether the files name alignment heads.
        first_timestamp_index: maximum initial timestamp, in steps of 0.02 s.
    """

    suppressed: tuple[int, ...]
    suppressed_first: tuple[int, ...]
    alignment_heads: tuple[tuple[int, int], ...]
    names_heads: bool
    first_timestamp_index: int | None


def geometry_of(checkpoint: Checkpoint) -> Geometry:
    """Raises ModelFormatError: not in Hugging Face layout, not a Whisper model, or a size is
    missing.
    """
    if checkpoint.layout != "huggingface":
        message = (
            f"{checkpoint.directory} is a CTranslate2 model, which the whisper engine cannot read"
        )
        raise ModelFormatError(
            message, hint="use --engine ctranslate2, or a model with model.safetensors"
        )
    file = checkpoint.directory / "config.json"
    return Geometry.of(read_json(file), file)


def generation_config(checkpoint: Checkpoint, geometry: Geometry) -> GenerationConfig:
    config = read_json(checkpoint.directory / "config.json")
    generation = read_json(checkpoint.directory / "generation_config.json")
    heads = alignment_heads(generation, geometry.decoder_layers, geometry.decoder_attention_heads)
    latest = generation.get("max_initial_timestamp_index")
    return GenerationConfig(
        suppressed=tuple(token_ids("suppress_tokens", generation, config, geometry.vocab_size)),
        suppressed_first=tuple(
            token_ids("begin_suppress_tokens", generation, config, geometry.vocab_size)
        ),
        alignment_heads=tuple(sorted({(layer, head) for layer, head in heads})),
        names_heads=any(head in heads for head in generation.get("alignment_heads") or []),
        first_timestamp_index=latest if isinstance(latest, int) else None,
    )


def vocabulary_of(checkpoint: Checkpoint) -> Vocabulary:
    """The tokenizer; built from older files if there is no tokenizer.json."""
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(checkpoint.directory, Path(folder))
        return Vocabulary(Path(folder), multilingual=not checkpoint.english_only)


def load_model(
    checkpoint: Checkpoint, placement: Placement, report: Callable[[int], None] = lambda _: None
) -> Whisper:
    """Load the model to its device. Host memory use is that of the largest layer.

    Args:
        report: called with the size in bytes of each tensor after reading it.

    Raises:
        ModelFormatError: a tensor is missing, truncated, not finite, or its shape differs from
            config.json.
    """
    return _Loader(checkpoint, placement, report).load()


class _Loader:
    def __init__(
        self, checkpoint: Checkpoint, placement: Placement, report: Callable[[int], None]
    ) -> None:
        self._geometry = geometry_of(checkpoint)
        self._tensors = Tensors(weight_files(checkpoint.directory))
        self._placement = placement
        self._report = report
        self._finite: list[
            tuple[StoredTensor, Tensor]
        ] = []  # checked at the end, with one synchronization
        self._upload = PinnedUpload(placement.device) if placement.device.type == "cuda" else None

    def load(self) -> Whisper:
        model = self._model()
        good = torch.stack([finite for _, finite in self._finite]).tolist()
        for (stored, _), is_finite in zip(self._finite, good, strict=True):
            if not is_finite:
                raise ModelFormatError(
                    f"{stored.file}: {stored.name} contains NaN or infinite values",
                    hint="download or export the model again",
                )
        return model

    def _model(self) -> Whisper:
        g = self._geometry
        d = self._geometry.d_model
        encoder = range(g.encoder_layers)
        decoder = range(g.decoder_layers)
        embedding = self._own("decoder.embed_tokens.weight", (g.vocab_size, d))
        output = functional.pad(
            embedding, (0, 0, 0, -g.vocab_size % self._placement.vocabulary_multiple)
        )
        return Whisper(
            geometry=g,
            convolutions=(
                (
                    self._own("encoder.conv1.weight", (d, g.num_mel_bins, 3)),
                    self._own("encoder.conv1.bias", (d,)),
                ),
                (
                    self._own("encoder.conv2.weight", (d, d, 3)),
                    self._own("encoder.conv2.bias", (d,)),
                ),
            ),
            audio_positions=self._own(
                "encoder.embed_positions.weight", (g.max_source_positions, d)
            ),
            encoder_layers=tuple(self._encoder_layer(f"encoder.layers.{i}") for i in encoder),
            encoder_norm=self._norm("encoder.layer_norm"),
            embedding=output[: g.vocab_size],
            output=output,
            text_positions=self._own("decoder.embed_positions.weight", (g.max_target_positions, d)),
            decoder_layers=tuple(self._decoder_layer(f"decoder.layers.{i}") for i in decoder),
            decoder_norm=self._norm("decoder.layer_norm"),
            operations=self._placement.operations,
        )

    def _encoder_layer(self, name: str) -> EncoderLayer:
        d = self._geometry.d_model
        wide = self._geometry.encoder_ffn_dim
        make = self._placement.encoder_linear
        return EncoderLayer(
            attention_norm=self._norm(f"{name}.self_attn_layer_norm"),
            query_key_value=self._linear(
                [f"{name}.self_attn.{p}_proj" for p in "qkv"], (d, d), make
            ),
            attention_out=self._linear([f"{name}.self_attn.out_proj"], (d, d), make),
            mlp_norm=self._norm(f"{name}.final_layer_norm"),
            up=self._linear([f"{name}.fc1"], (wide, d), make),
            down=self._linear([f"{name}.fc2"], (d, wide), make),
        )

    def _decoder_layer(self, name: str) -> DecoderLayer:
        d = self._geometry.d_model
        wide = self._geometry.decoder_ffn_dim
        make = self._placement.decoder_linear
        return DecoderLayer(
            text_norm=self._norm(f"{name}.self_attn_layer_norm"),
            text_query_key_value=self._linear(
                [f"{name}.self_attn.{p}_proj" for p in "qkv"], (d, d), make
            ),
            text_out=self._linear([f"{name}.self_attn.out_proj"], (d, d), make),
            audio_norm=self._norm(f"{name}.encoder_attn_layer_norm"),
            audio_query=self._linear([f"{name}.encoder_attn.q_proj"], (d, d), make),
            audio_key_value=self._linear(
                [f"{name}.encoder_attn.{p}_proj" for p in "kv"],
                (d, d),
                self._placement.audio_linear,
            ),
            audio_out=self._linear([f"{name}.encoder_attn.out_proj"], (d, d), make),
            mlp_norm=self._norm(f"{name}.final_layer_norm"),
            up=self._linear([f"{name}.fc1"], (wide, d), make),
            down=self._linear([f"{name}.fc2"], (d, wide), make),
        )

    def _norm(self, name: str) -> Norm:
        shape = (self._geometry.d_model,)
        return Norm(self._own(f"{name}.weight", shape), self._own(f"{name}.bias", shape))

    def _linear(self, names: Sequence[str], shape: tuple[int, int], make: MakeLinear) -> Linear:
        """Concatenate layers of ``shape`` (outputs, inputs) into one; missing biases are zeros."""
        weights = [self._read(self._tensors.get(f"{name}.weight", shape)) for name in names]
        found = [self._tensors.find(f"{name}.bias", shape[:1]) for name in names]
        zeros = torch.zeros(shape[0], device=self._placement.device)
        return make(
            torch.cat(weights),
            torch.cat([zeros if bias is None else self._read(bias) for bias in found]),
        )

    def _own(self, name: str, shape: tuple[int, ...]) -> Tensor:
        return self._read(self._tensors.get(name, shape)).to(self._placement.dtype)

    def _read(self, stored: StoredTensor) -> Tensor:
        """A tensor as float32 on the device."""
        if self._upload is not None:
            tensor = self._upload.read(stored)
        else:
            values: Any = stored.read().copy()
            tensor = torch.from_numpy(values.view("<i2") if stored.dtype == "BF16" else values)
        tensor = tensor.view(_TORCH_OF[stored.dtype]).view(stored.shape).float()
        self._finite.append((stored, torch.isfinite(tensor).all()))
        self._report(stored.n_bytes)
        return tensor
