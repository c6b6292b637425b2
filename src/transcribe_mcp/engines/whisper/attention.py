"""Decoder attention in plain torch, for any number of tokens and any device. The reference for
``kernels``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .caches import AudioCache, AudioRow, KeptQueries, layer_values, runs
from .quantized_states import AudioStates, StatesAttention


class AudioAttention:
    """Cross-attention of rows to their windows' audio. One object serves many passes."""

    def __init__(self, audio: Sequence[AudioRow], heads: int) -> None:
        self._audio = audio
        self._heads = heads
        states = [(row.cache, row.index) for row in audio if isinstance(row.cache, AudioStates)]
        self._states = (
            StatesAttention([cache.windows[index] for cache, index in states], states[0][0].layers)
            if states
            else None
        )

    def __call__(self, layer: int, query: Tensor) -> Tensor:
        """(R, P, d) -> the same."""
        if self._states is not None:
            return self._states(layer, query)
        n_rows, n_tokens, width = query.shape
        by_head = query.view(n_rows, n_tokens, self._heads, -1).transpose(1, 2)
        parts = []
        for rows, cache, windows in runs(self._audio):
            assert isinstance(cache, AudioCache)
            keys, values = layer_values(cache, windows, layer, query.dtype)
            parts.append(functional.scaled_dot_product_attention(by_head[rows], keys, values))
        attended = parts[0] if len(parts) == 1 else torch.cat(parts)
        return attended.transpose(1, 2).reshape(n_rows, n_tokens, width)


class TorchAttention:
    """See ``model.Attention``.

    Args:
        positions: (R, P) of the tokens.
        text: (layers, 2, rows, H, positions, D), of which the first R rows are used and written.
        audio: the window of each row.
        longest: upper bound of the positions, known without a device synchronisation.
        queries: stores the queries of the alignment heads, if given.
    """

    def __init__(
        self,
        positions: Tensor,
        text: Tensor,
        audio: Sequence[AudioRow],
        longest: int,
        queries: KeptQueries | None = None,
    ) -> None:
        self._positions = positions
        self._text = text
        self._longest = longest
        self._queries = queries
        self._audio = AudioAttention(audio, text.shape[3])
        self._rows = torch.arange(len(positions), device=positions.device)[:, None]
        seen = torch.arange(longest, device=positions.device)
        self._mask = (seen <= positions[..., None])[:, None]  # (R, 1, P, longest)

    def text(self, layer: int, query_key_value: Tensor) -> Tensor:
        n_rows, n_tokens, width = query_key_value.shape
        heads = self._text.shape[3]
        query, key, value = query_key_value.view(n_rows, n_tokens, 3, heads, -1).unbind(2)
        keys = self._text[layer, 0, :n_rows]
        values = self._text[layer, 1, :n_rows]
        keys[self._rows, :, self._positions] = key
        values[self._rows, :, self._positions] = value
        seen = slice(self._longest)
        attended = functional.scaled_dot_product_attention(
            query.transpose(1, 2), keys[:, :, seen], values[:, :, seen], attn_mask=self._mask
        )
        return attended.transpose(1, 2).reshape(n_rows, n_tokens, width // 3)

    def audio(self, layer: int, query: Tensor) -> Tensor:
        if self._queries is not None:
            kept, heads = self._queries.of_layer(layer)
            if heads:
                n_rows, n_tokens, _ = query.shape
                by_head = query.view(n_rows, n_tokens, self._text.shape[3], -1)
                self._queries.values[:n_rows, kept][self._rows, :, self._positions] = by_head[
                    :, :, heads
                ]
        return self._audio(layer, query)
