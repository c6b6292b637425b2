"""Cross-attention on a CPU over the encoder's output in int8, instead of keys and values of every
layer.

A decoding step on a CPU is bound by reading the keys K = X Wk and values V = X Wv. Both can be
factored:

    q K^T = (q Wk^T) X^T        softmax(...) V = (softmax(...) X) Wv

So all layers share one matrix X per window. In int8 it fits the cache of the CPU, and no keys or
values are computed.

The mean over the positions is subtracted before quantization. It adds the same to every score of a
query, so the softmax does not change, and it is added back exactly, since the weights sum to 1.

Shapes: T positions, d channels, H heads of size D, P tokens, R rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .linear import INPUT_STEPS, INPUT_ZERO, WEIGHT_STEPS, Dense, pack, product
from .model import Whisper

SOFTMAX_STEPS = 255  # weights are not negative


@dataclass(frozen=True, slots=True)
class Matrices:
    """Key (H, D, d) and value (H, d, D) projections of one layer, and the value bias (H, 1, D).
    Keys have no bias.
    """

    key: Tensor
    value: Tensor
    value_bias: Tensor

    @classmethod
    def of(cls, linear: Dense, heads: int) -> Matrices:
        width = linear.weight.shape[1]
        key, value = linear.weight.view(2, heads, -1, width)
        return cls(key, value.transpose(1, 2), linear.bias[width:].view(heads, 1, -1))


@dataclass(frozen=True, slots=True)
class WindowStates:
    """One window.

    Attributes:
        states: (T, d) float32, the encoder's output.
        mean: (d,) over the positions; ``scale``: (d,) of the int8 deviations from it.
        by_position, by_channel: packed for products d -> T and T -> d.
    """

    states: Tensor
    mean: Tensor
    scale: Tensor
    by_position: Any
    by_channel: Any

    @classmethod
    def of(cls, states: Tensor) -> WindowStates:
        mean = states.mean(dim=0)
        differing = states - mean
        scale = (differing.abs().amax(dim=0) / WEIGHT_STEPS).clamp_min_(1e-12)
        values = differing.div_(scale).round_().to(torch.int8)
        return cls(states, mean, scale, pack(values), pack(values.t().contiguous(), scale))


@dataclass(frozen=True, slots=True)
class AudioStates:
    """Windows, and the projections of every layer, which belong to the model."""

    windows: tuple[WindowStates, ...]
    layers: tuple[Matrices, ...]

    def __len__(self) -> int:
        return len(self.windows)

    @property
    def shape(self) -> tuple[int, int]:
        """T and D."""
        return len(self.windows[0].states), self.layers[0].key.shape[1]

    @property
    def device(self) -> torch.device:
        return self.windows[0].states.device

    def keys(self, windows: slice, layer: int, heads: Tensor) -> Tensor:
        """Keys of the given heads of a layer: (n, A, T, D)."""
        matrices = self.layers[layer].key.index_select(0, heads).transpose(1, 2)
        return torch.stack(
            [torch.matmul(window.states, matrices) for window in self.windows[windows]]
        )


def audio_states(model: Whisper, states: Tensor) -> AudioStates:
    """``caches.audio_cache`` for models whose ``audio_key_value`` layers are ``Dense``; states are
    (B, T, d).
    """
    linears = [layer.audio_key_value for layer in model.decoder_layers]
    matrices = tuple(
        Matrices.of(linear, model.heads) for linear in linears if isinstance(linear, Dense)
    )
    return AudioStates(tuple(WindowStates.of(window) for window in states), matrices)


class StatesAttention:
    """Cross-attention of rows to their windows."""

    def __init__(self, windows: Sequence[WindowStates], layers: Sequence[Matrices]) -> None:
        self._windows = windows
        self._layers = layers
        self._scale = torch.stack([window.scale for window in windows])
        self._mean = torch.stack([window.mean for window in windows])[:, None]

    def __call__(self, layer: int, query: Tensor) -> Tensor:
        """(R, P, H D) -> the same."""
        n_rows, n_tokens, width = query.shape
        matrices = self._layers[layer]
        heads, size, _ = matrices.key.shape
        by_head = query.view(n_rows * n_tokens, heads, size).transpose(0, 1)
        by_key = (
            torch.bmm(by_head, matrices.key)
            .view(heads, n_rows, n_tokens, width)
            .permute(1, 2, 0, 3)
        )
        asked = query.new_empty((n_rows, n_tokens, heads, width))
        asked = torch.mul(by_key, self._scale[:, None, None], out=asked).view(
            n_rows, n_tokens * heads, width
        )
        largest = asked.abs().amax(dim=2, keepdim=True).clamp_min_(1e-12)
        asked.div_(largest)
        pairs = zip(asked, self._windows, strict=True)
        scores = torch.stack(
            [product(row, 1 / INPUT_STEPS, INPUT_ZERO, window.by_position) for row, window in pairs]
        )
        weights = torch.softmax(scores.mul_(largest * size**-0.5), dim=2)
        largest = weights.amax(dim=2, keepdim=True)
        weights.div_(largest)
        pairs = zip(weights, self._windows, strict=True)
        found = torch.stack(
            [product(row, 1 / SOFTMAX_STEPS, 0, window.by_channel) for row, window in pairs]
        )
        found = found.mul_(largest).add_(self._mean).view(n_rows, n_tokens, heads, width)
        values = torch.bmm(
            found.permute(2, 0, 1, 3).reshape(heads, n_rows * n_tokens, width), matrices.value
        )
        values = values.add_(matrices.value_bias).transpose(0, 1)
        return values.reshape(n_rows, n_tokens, width)
