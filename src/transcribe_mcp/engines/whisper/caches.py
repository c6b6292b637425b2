"""Key-value caches: of the audio, computed once per window; of the text, written token by token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .model import Whisper
from .quantized_states import AudioStates

Heads = tuple[tuple[int, int], ...]  # (layer, head), sorted
INT8_LARGEST = 127
TOGETHER = 4  # adjacent positions of a channel of int8 values: one GPU instruction multiplies four
UNIT_BYTES = 16


@dataclass(frozen=True, slots=True)
class AudioCache:
    """Keys and values of windows for every decoder layer, contiguous per window.

    Attributes:
        values: (windows, layers, 2, H, T, D): keys, then values, in the model's precision or 8
            bits. In 8 bits the values' last two dimensions are (T / 4, D, 4): see ``TOGETHER``.
        scales: (windows, layers, 2, H, D) float32 for int8 caches, else ``None``. Per-channel
            scales cost nothing while decoding: those of the keys multiply the query, those of the
            values the result.
    """

    values: Tensor
    scales: Tensor | None

    def __len__(self) -> int:
        return len(self.values)

    @property
    def shape(self) -> tuple[int, int]:
        """T and D."""
        return self.values.shape[4], self.values.shape[5]

    @property
    def device(self) -> torch.device:
        return self.values.device

    def keys(self, windows: slice, layer: int, heads: Tensor) -> Tensor:
        """Keys of the given heads of a layer: (n, A, T, D), float32 for int8 caches."""
        keys = self.values[windows, layer, 0].index_select(1, heads)
        if self.scales is None:
            return keys
        return keys * self.scales[windows, layer, 0].index_select(1, heads)[:, :, None]


def audio_cache(model: Whisper, states: Tensor, *, int8: bool) -> AudioCache:
    """Compute the cross-attention cache from the encoder's output (B, T, d)."""
    n, n_positions, _ = states.shape
    layers = len(model.decoder_layers)
    heads = model.heads
    size = model.head_size
    shape = (n, layers, 2, heads, n_positions, size)
    values = torch.empty(shape, dtype=torch.int8 if int8 else model.dtype, device=model.device)
    scales = (
        torch.empty((n, layers, 2, heads, size), dtype=torch.float32, device=model.device)
        if int8
        else None
    )
    for number, layer in enumerate(model.decoder_layers):
        both = layer.audio_key_value(states).view(n, n_positions, 2, heads, size)
        if scales is None:
            values[:, number].copy_(both.permute(0, 2, 3, 1, 4))
        else:
            scale = both.abs().amax(dim=1).float().clamp_min(1e-6) / INT8_LARGEST  # (B, 2, H, D)
            scales[:, number] = scale
            rounded = torch.round(both / scale[:, None]).permute(2, 0, 3, 1, 4)  # (2, B, H, T, D)
            values[:, number, 0] = rounded[0]
            four = rounded[1].unflatten(2, (n_positions // TOGETHER, TOGETHER))
            values[:, number, 1] = four.transpose(3, 4).reshape(rounded[1].shape)
    return AudioCache(values, scales)


@dataclass(frozen=True, slots=True)
class AudioRow:
    """The audio of one row: a window in a cache."""

    cache: AudioCache | AudioStates
    index: int


@dataclass(frozen=True, slots=True)
class AlignedBase:
    """Base tensors for address arithmetic: kernels get caches as offsets in units of 16 bytes.

    A plain address would work, but the compiler could not assume its alignment and would load
    single bytes.
    """

    values: Tensor  # 16 bytes, viewed as the type that a cache is read in
    scales: Tensor

    @classmethod
    def on(cls, device: torch.device) -> AlignedBase:
        values = torch.zeros(UNIT_BYTES // 4, dtype=torch.int32, device=device)
        return cls(values, torch.zeros(UNIT_BYTES // 4, dtype=torch.float32, device=device))

    def places(self, row: AudioRow) -> tuple[int, int]:
        """Offsets of a window's keys and values and of their scales (0 without scales)."""
        if isinstance(row.cache, AudioStates):
            return 0, 0  # no kernel reads these
        values = row.cache.values[row.index]
        scales = row.cache.scales
        at = (values.data_ptr() - self.values.data_ptr()) // UNIT_BYTES
        return at, 0 if scales is None else (
            scales[row.index].data_ptr() - self.scales.data_ptr()
        ) // UNIT_BYTES


def runs(rows: Sequence[AudioRow]) -> Iterator[tuple[slice, AudioCache | AudioStates, slice]]:
    """Group rows that are adjacent in a cache: slice of ``rows``, the cache, slice of the cache."""
    first = 0
    for i in range(1, len(rows) + 1):
        before = rows[i - 1]
        if i < len(rows) and rows[i].cache is before.cache and rows[i].index == before.index + 1:
            continue
        start = rows[first].index
        yield slice(first, i), before.cache, slice(start, start + i - first)
        first = i


def layer_values(
    cache: AudioCache, windows: slice, layer: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Keys and values (n, H, T, D) of one layer; views unless the cache is int8."""
    keys, values = cache.values[windows, layer].unbind(1)
    if cache.scales is None:
        return keys, values
    four = values.flatten(2).unflatten(2, (values.shape[2] // TOGETHER, values.shape[3], TOGETHER))
    values = four.transpose(3, 4).reshape(values.shape)
    key_scales, value_scales = cache.scales[windows, layer].to(dtype).unsqueeze(-2).unbind(1)
    return keys.to(dtype) * key_scales, values.to(dtype) * value_scales


def text_cache(model: Whisper, n_rows: int, n_positions: int) -> Tensor:
    """Allocate the self-attention cache: (layers, 2, rows, H, positions, D)."""
    shape = (len(model.decoder_layers), 2, n_rows, model.heads, n_positions, model.head_size)
    return torch.zeros(shape, dtype=model.dtype, device=model.device)


@dataclass(frozen=True, slots=True)
class KeptQueries:
    """Cross-attention queries of the alignment heads, kept while decoding.

    With the cached keys they give the attention of every token, in a hundredth of its
    memory.

    Attributes:
        values: (rows, len(heads), positions, D).
        heads: (layer, head), sorted.
    """

    values: Tensor
    heads: Heads

    def of_layer(self, layer: int) -> tuple[slice, list[int]]:
        """Slice of ``values`` and head numbers of a layer."""
        at = [i for i, (number, _) in enumerate(self.heads) if number == layer]
        return (slice(at[0], at[-1] + 1) if at else slice(0)), [self.heads[i][1] for i in at]


def kept_queries(model: Whisper, heads: Heads, n_rows: int, n_positions: int) -> KeptQueries:
    shape = (n_rows, len(heads), n_positions, model.head_size)
    return KeptQueries(torch.zeros(shape, dtype=model.dtype, device=model.device), heads)
