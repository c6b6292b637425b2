"""Whisper's encoder and decoder as functions of a record of weights (Radford et al. 2022, figure
1).

Devices differ in three parts, which are passed to the model: linear layers (``linear``),
normalisation (``Operations``) and attention (``attention``). Caches are arguments.

Shapes: B windows, R rows of text, P tokens of each, T = 1500 positions of audio, H heads of D, d =
H · D.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from ...models.tensors import Geometry
from .linear import Linear

NORM_EPSILON = 1e-5


@dataclass(frozen=True, slots=True)
class Norm:
    weight: Tensor  # (d,)
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, NORM_EPSILON)


@dataclass(frozen=True, slots=True)
class EncoderLayer:
    attention_norm: Norm
    query_key_value: Linear  # d -> 3 d
    attention_out: Linear
    mlp_norm: Norm
    up: Linear
    down: Linear


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    text_norm: Norm
    text_query_key_value: Linear  # d -> 3 d
    text_out: Linear
    audio_norm: Norm
    audio_query: Linear
    audio_key_value: Linear  # d -> 2 d, applied once to the encoder's output
    audio_out: Linear
    mlp_norm: Norm
    up: Linear
    down: Linear


def _norm(x: Tensor, norm: Norm) -> Tensor:
    return norm(x)


def _add_norm(x: Tensor, change: Tensor, norm: Norm) -> tuple[Tensor, Tensor]:
    x = x + change
    return x, norm(x)


def _full_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, value)


def _scores(states: Tensor, output: Tensor) -> Tensor:
    return functional.linear(states, output).float()


@dataclass(frozen=True, slots=True)
class Operations:
    """Operations that some devices fuse.

    Attributes:
        norm: layer norm, (..., d) -> (..., d).
        add_norm: residual, update -> their sum, and its layer norm.
        attention: query, key, value (B, H, T, D) -> (B, H, T, D), without a mask.
        scores: states (R, d), output weights (V, d) -> (R, V) float32.
    """

    norm: Callable[[Tensor, Norm], Tensor] = _norm
    add_norm: Callable[[Tensor, Tensor, Norm], tuple[Tensor, Tensor]] = _add_norm
    attention: Callable[[Tensor, Tensor, Tensor], Tensor] = _full_attention
    scores: Callable[[Tensor, Tensor], Tensor] = _scores


@dataclass(frozen=True, slots=True)
class Whisper:
    """All weights of a model, on one device."""

    geometry: Geometry
    convolutions: tuple[
        tuple[Tensor, Tensor], tuple[Tensor, Tensor]
    ]  # weight (d, channels, 3), bias
    audio_positions: Tensor  # (T, d)
    encoder_layers: tuple[EncoderLayer, ...]
    encoder_norm: Norm
    embedding: Tensor  # (V, d)
    # (V or a few more, d): the embedding, padded with zeros where a GPU multiplies faster
    output: Tensor
    text_positions: Tensor  # (448, d)
    decoder_layers: tuple[DecoderLayer, ...]
    decoder_norm: Norm
    operations: Operations = Operations()

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def device(self) -> torch.device:
        return self.embedding.device

    @property
    def heads(self) -> int:
        return self.geometry.decoder_attention_heads

    @property
    def head_size(self) -> int:
        return self.geometry.d_model // self.geometry.decoder_attention_heads


class Attention(Protocol):
    """Self-attention and cross-attention of a decoder pass, with their caches."""

    def text(self, layer: int, query_key_value: Tensor) -> Tensor:
        """Causal self-attention, (R, P, 3 d) -> (R, P, d). Adds keys and values to the cache."""

    def audio(self, layer: int, query: Tensor) -> Tensor:
        """Cross-attention to the window's audio, (R, P, d) -> (R, P, d)."""


def encode(model: Whisper, mel: Tensor) -> Tensor:
    """Log-mel spectrograms (B, n_mels, 3000) -> (B, T, d)."""
    operations = model.operations
    layers = model.encoder_layers
    (weight1, bias1), (weight2, bias2) = model.convolutions
    x = functional.gelu(functional.conv1d(mel.to(weight1.dtype), weight1, bias1, padding=1))
    x = functional.gelu(functional.conv1d(x, weight2, bias2, stride=2, padding=1))
    # Channels contiguous from here on, as the following layers read them.
    in_order = torch.empty(
        (len(x), *model.audio_positions.shape), dtype=model.dtype, device=x.device
    )
    x = torch.add(x.transpose(1, 2), model.audio_positions, out=in_order)
    normed = operations.norm(x, layers[0].attention_norm)
    for number, layer in enumerate(layers):
        x, normed = operations.add_norm(x, _attention(model, layer, normed), layer.mlp_norm)
        following = (
            layers[number + 1].attention_norm if number + 1 < len(layers) else model.encoder_norm
        )
        x, normed = operations.add_norm(x, layer.down(layer.up.gelu(normed)), following)
    return normed


def _attention(model: Whisper, layer: EncoderLayer, normed: Tensor) -> Tensor:
    """(B, T, d) -> the same. Its tensors are freed before the MLP runs."""
    shape = (*normed.shape[:2], 3, model.geometry.encoder_attention_heads, -1)
    query, key, value = layer.query_key_value(normed).view(shape).permute(2, 0, 3, 1, 4)
    attended = model.operations.attention(query, key, value)
    return layer.attention_out(attended.transpose(1, 2).reshape(normed.shape))


def decode(model: Whisper, tokens: Tensor, positions: Tensor, attention: Attention) -> Tensor:
    """Tokens (R, P) at positions (R, P) -> states (R, P, d); see ``logits_of``."""
    operations = model.operations
    layers = model.decoder_layers
    x = functional.embedding(tokens, model.embedding) + functional.embedding(
        positions, model.text_positions
    )
    normed = operations.norm(x, layers[0].text_norm)
    for number, layer in enumerate(layers):
        text = attention.text(number, layer.text_query_key_value(normed))
        x, normed = operations.add_norm(x, layer.text_out(text), layer.audio_norm)
        audio = attention.audio(number, layer.audio_query(normed))
        x, normed = operations.add_norm(x, layer.audio_out(audio), layer.mlp_norm)
        following = layers[number + 1].text_norm if number + 1 < len(layers) else model.decoder_norm
        x, normed = operations.add_norm(x, layer.down(layer.up.gelu(normed)), following)
    return normed


def logits_of(model: Whisper, states: Tensor) -> Tensor:
    """States (R, d) -> (R, V) float32."""
    return model.operations.scores(states, model.output)[:, : model.geometry.vocab_size]
