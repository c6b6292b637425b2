"""The encoder's output in 8 bits, in the place of keys and values of every layer: how a CPU attends to the audio.

A decoding step on a CPU takes as long as reading the keys and values of the audio does. They are products of the
encoder's output and two matrices of the layer, and those can be taken to the other side: a query is asked of the
output through the key's matrix, and what is found goes through the value's matrix. So a window has one matrix for all
layers, small enough for 8 bits to stay in the processor's cache, and no keys and values are made at all.

What all positions have in common is taken out before: it adds the same to every score, which changes no weight of the
softmax, and comes back exactly in the result, since the weights sum to 1. The 8 bits are left to what differs.

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

SOFTMAX_STEPS = 255  # weights have one side only


@dataclass(frozen=True, slots=True)
class Matrices:
    """What makes keys (H, D, d) and values (H, d, D) of one layer, and the values' bias (H, 1, D). Keys have none."""

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
        states: (T, d) float32, what the encoder gave.
        mean: (d,) over the positions; ``scale``: (d,) of the 8-bit numbers, which are of what differs from the mean.
        by_position: packed, d -> T; by_channel: packed, T -> d.
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
    """Some windows, and every layer's matrices, which are the model's."""

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
        """Those of some heads of a layer: (n, A, T, D)."""
        matrices = self.layers[layer].key.index_select(0, heads).transpose(1, 2)
        return torch.stack(
            [torch.matmul(window.states, matrices) for window in self.windows[windows]]
        )


def audio_states(model: Whisper, states: Tensor) -> AudioStates:
    """``caches.audio_cache`` for a model whose ``audio_key_value`` layers are ``Dense``: of states (B, T, d)."""
    linears = [layer.audio_key_value for layer in model.decoder_layers]
    matrices = tuple(
        Matrices.of(linear, model.heads) for linear in linears if isinstance(linear, Dense)
    )
    return AudioStates(tuple(WindowStates.of(window) for window in states), matrices)


class StatesAttention:
    """Attention of rows to their windows."""

    def __init__(self, windows: Sequence[WindowStates], layers: Sequence[Matrices]) -> None:
        self._windows, self._layers = windows, layers
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
