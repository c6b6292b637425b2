"""Caches of beam search: keys and values of the hypotheses, and the queries of the alignment heads.

Cross-attention treats the beams of a window as tokens of one row, so it reads the window's audio
once for all of them. A beam that continues another one's hypothesis copies only the positions after
their common prefix.

Shapes: W windows, K beams, C positions, H heads of D, d = H · D, A alignment heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from .attention import AudioAttention, TorchAttention
from .caches import AudioRow, Heads, KeptQueries, kept_queries, text_cache
from .model import Whisper, decode

POSITIONS_AT_ONCE = 64  # growth of the caches


class BeamCache:
    """Caches for up to ``n_windows`` windows; the first ``len(audio)`` are in use.

    Attributes:
        audio: of each window.
        text: (layers, 2, W, K, C, d): keys, then values.
        queries: (W, K, C, A, D), see ``caches.KeptQueries``.
    """

    def __init__(self, model: Whisper, heads: Heads, n_windows: int, n_beams: int) -> None:
        self._model = model
        self._heads = heads
        layers = len(model.decoder_layers)
        width = model.geometry.d_model
        size = model.head_size
        self.audio: list[AudioRow] = []
        self.text = torch.zeros(
            (layers, 2, n_windows, n_beams, 0, width), dtype=model.dtype, device=model.device
        )
        shape = (n_windows, n_beams, 0, len(heads), size)
        self.queries = torch.zeros(shape, dtype=model.dtype, device=model.device)
        self._hearing: AudioAttention | None = None

    def add(self, audio: AudioRow, prompt: Sequence[int]) -> Tensor:
        """Prefill a window's prompt for all of its beams. Returns the states (P, d)."""
        model = self._model
        n = len(prompt)
        window = len(self.audio)
        self._make_room(n)
        tokens = torch.tensor([prompt], device=model.device)
        positions = torch.arange(n, device=model.device)[None]
        text = text_cache(model, 1, n)
        queries = kept_queries(model, self._heads, 1, n)
        states = decode(
            model, tokens, positions, TorchAttention(positions, text, [audio], n, queries)
        )
        self.text[:, :, window, :, :n] = text.transpose(3, 4).flatten(4)
        self.queries[window, :, :n] = queries.values.transpose(1, 2)
        self.audio.append(audio)
        self._hearing = None
        return states[0]

    def remove(self, window: int) -> None:
        """Remove a window; the last one in use takes its place."""
        last = len(self.audio) - 1
        if window != last:
            self.text[:, :, window] = self.text[:, :, last]
            self.queries[window] = self.queries[last]
            self.audio[window] = self.audio[last]
        self.audio.pop()
        self._hearing = None

    def step(self, tokens: Tensor, positions: Tensor, longest: int) -> Tensor:
        """Decode one token of each beam (W, K) at its window's position (W,); ``longest`` is the
        largest.

        Returns:
            States (W, K, d).
        """
        self._make_room(longest + 1)
        if self._hearing is None:
            self._hearing = AudioAttention(tuple(self.audio), self._model.heads)
        kept = KeptQueries(self.queries, self._heads)
        attention = BeamAttention(self.text, kept, self._hearing, positions, longest + 1)
        return decode(self._model, tokens, positions[:, None].expand_as(tokens), attention)

    def copy(self, windows: Tensor, sources: Tensor, targets: Tensor, positions: Tensor) -> None:
        """Copy cache entries between beams of a window; each argument is (n,)."""
        n_beams, n_positions = self.text.shape[3:5]
        from_at = (windows * n_beams + sources) * n_positions + positions
        to_at = (windows * n_beams + targets) * n_positions + positions
        for entries in (*self.text.flatten(2, 4).flatten(0, 1), self.queries.flatten(0, 2)):
            entries.index_copy_(0, to_at, entries.index_select(0, from_at))

    def asked(self, window: int, beam: int, positions: slice) -> Tensor:
        """Queries (A, n, D) at the given positions."""
        return self.queries[window, beam, positions].transpose(0, 1).clone()

    def _make_room(self, n_positions: int) -> None:
        more = -(-n_positions // POSITIONS_AT_ONCE) * POSITIONS_AT_ONCE - self.text.shape[4]
        if more > 0:
            self.text = functional.pad(self.text, (0, 0, 0, more))
            self.queries = functional.pad(self.queries, (0, 0, 0, 0, 0, more))


class BeamAttention:
    """See ``model.Attention``. Rows are windows; the tokens of a row are its beams, which do not
    see each other.

    Args:
        text: see ``BeamCache``.
        positions: (W,) of the tokens.
        seen: upper bound of the positions.
    """

    def __init__(
        self,
        text: Tensor,
        queries: KeptQueries,
        hearing: AudioAttention,
        positions: Tensor,
        seen: int,
    ) -> None:
        self._text = text
        self._queries = queries
        self._hearing = hearing
        self._positions = positions
        self._seen = seen
        self._windows = torch.arange(len(positions), device=positions.device)
        mask = torch.arange(seen, device=positions.device) <= positions[:, None]
        self._mask = mask.repeat_interleave(text.shape[3], dim=0)[
            :, None, None
        ]  # (W K, 1, 1, seen)

    def text(self, layer: int, query_key_value: Tensor) -> Tensor:
        n_windows, n_beams, width = query_key_value.shape
        heads, size = self._queries_shape()
        query, key, value = query_key_value.view(n_windows, n_beams, 3, width // 3).unbind(2)
        both = []
        for cache, new in zip(self._text[layer, :, :n_windows], (key, value), strict=True):
            cache[self._windows, :, self._positions] = new
            both.append(
                cache[:, :, : self._seen].unflatten(3, (heads, size)).flatten(0, 1).transpose(1, 2)
            )
        asked = query.reshape(n_windows * n_beams, heads, 1, size)
        attended = functional.scaled_dot_product_attention(
            asked, both[0], both[1], attn_mask=self._mask
        )
        return attended.reshape(n_windows, n_beams, width // 3)

    def audio(self, layer: int, query: Tensor) -> Tensor:
        kept, heads = self._queries.of_layer(layer)
        if heads:
            n_windows, n_beams, _ = query.shape
            by_head = query.view(n_windows, n_beams, *self._queries_shape())
            self._queries.values[:n_windows, :, :, kept][self._windows, :, self._positions] = (
                by_head[:, :, heads]
            )
        return self._hearing(layer, query)

    def _queries_shape(self) -> tuple[int, int]:
        """H and D."""
        size = self._queries.values.shape[-1]
        return self._text.shape[-1] // size, size
