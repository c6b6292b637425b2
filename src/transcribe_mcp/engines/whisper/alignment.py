"""Token start times from cross-attention, for a batch of windows at once.

The method is that of openai-whisper's ``timing.py``: take the attention of the alignment heads,
standardise it over the tokens, smooth it along the audio, average the heads, and find the cheapest
monotonic path (dynamic time warping). openai-whisper computes the table cell by cell. Here one step
computes a whole row, because a path only moves right along a row:

    cost[j] = cumsum[j] + min over k <= j of (enter[k] - cumsum[k - 1])

Backtracking goes token by token, for all windows together.

Shapes: N windows, A alignment heads, L tokens, T positions of audio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from .attention import TorchAttention
from .caches import AudioRow, Heads, kept_queries, runs, text_cache
from .model import Whisper, decode, logits_of

SMOOTHED_POSITIONS = 7
# Elements of attention per part; a few copies exist: 32 MB on a GPU, 4 MB in each worker of a CPU.
PART_ELEMENTS_CUDA = 1 << 23
PART_ELEMENTS_CPU = 1 << 20
CACHED_ELEMENTS = 1 << 14  # 64 KB: fits a core's cache together with its copies
# A sorting network for the median of seven: compare and exchange these pairs.
_EXCHANGES = (
    (0, 5),
    (0, 3),
    (1, 6),
    (2, 4),
    (0, 1),
    (3, 5),
    (2, 6),
    (2, 3),
    (3, 6),
    (4, 5),
    (1, 4),
    (1, 3),
    (3, 4),
)


@dataclass(frozen=True, slots=True)
class Search:
    """The two steps that have GPU kernels; see the functions of the same names."""

    smoothed: Callable[[Tensor], Tensor]
    path_starts: Callable[[Tensor, Sequence[int], Sequence[int]], list[list[int]]]


def token_starts(
    heads: Heads,
    rows: Sequence[AudioRow],
    queries: Sequence[Tensor],
    n_positions: Sequence[int],
    search: Search,
    n_known: Sequence[int] = (),
) -> list[list[int]]:
    """Return the audio position at which each token starts.

    Args:
        heads: (layer, head), sorted.
        rows: the audio of each window.
        queries: (A, L_i, D) of each window, see ``DecodedTokens``.
        n_positions: length of each window's audio; the rest is padding.
        n_known: of them, those at the beginning that other tokens have.

    Returns:
        For each window, for each of its tokens, a position.
    """
    lengths = [query.shape[1] for query in queries]
    longest = max(lengths)
    widest = max(n_positions)
    cost = torch.zeros((len(rows), longest, widest), dtype=torch.float32, device=queries[0].device)
    most = PART_ELEMENTS_CPU if cost.device.type == "cpu" else PART_ELEMENTS_CUDA
    size = max(1, most // (longest * widest * len(heads)))
    for first in range(0, len(rows), size):
        part = slice(first, first + size)
        weights = attention(heads, rows[part], queries[part], n_positions[part], n_known[part])
        found = search.smoothed(weights)
        torch.neg(found, out=cost[part, : found.shape[1], : found.shape[2]])
    return search.path_starts(cost, lengths, n_positions)


def attention(
    heads: Heads,
    rows: Sequence[AudioRow],
    queries: Sequence[Tensor],
    n_positions: Sequence[int],
    n_known: Sequence[int] = (),
) -> Tensor:
    """Attention standardised over each window's tokens: (N, A, L, T) float32, 0 where audio is
    known or padding.
    """
    device = queries[0].device
    longest = max(query.shape[1] for query in queries)
    widest = max(n_positions)
    size = queries[0].shape[2]
    asked = torch.zeros((len(rows), len(heads), longest, size), dtype=torch.float32, device=device)
    for row, query in zip(asked, queries, strict=True):
        row[:, : query.shape[1]] = query
    # float32: bfloat16 rounds a score of 16 by up to 0.06, which moves one word start in 100.
    scores = torch.matmul(asked, _keys(heads, rows)[:, :, :widest].transpose(2, 3))
    scores.mul_(size**-0.5)
    n_tokens = torch.tensor([query.shape[1] for query in queries], device=device)
    at = torch.arange(widest, device=device)
    heard = at < torch.tensor(n_positions, device=device)[:, None]
    if any(n_known):
        heard &= at >= torch.tensor(n_known, device=device)[:, None]
    is_token = (torch.arange(longest, device=device) < n_tokens[:, None])[:, None, :, None]
    weights = (
        scores.masked_fill_(~heard[:, None, None], float("-inf")).softmax(dim=-1).mul_(is_token)
    )
    count = n_tokens[:, None, None, None]
    mean = weights.sum(dim=2, keepdim=True) / count
    weights.sub_(mean).mul_(is_token)
    deviation = (weights.square().sum(dim=2, keepdim=True) / count).sqrt_()
    return torch.div(weights, deviation.clamp_min_(1e-9), out=weights)


def _keys(heads: Heads, rows: Sequence[AudioRow]) -> Tensor:
    """Keys of the alignment heads: (N, A, T, D) float32."""
    first = rows[0].cache
    n_positions, size = first.shape
    keys = torch.empty(
        (len(rows), len(heads), n_positions, size), dtype=torch.float32, device=first.device
    )
    for layer in sorted({layer for layer, _ in heads}):
        at = [i for i, (number, _) in enumerate(heads) if number == layer]
        own = torch.tensor([heads[i][1] for i in at], device=first.device)
        for part, cache, windows in runs(rows):
            keys[part, at[0] : at[-1] + 1] = cache.keys(windows, layer, own)
    return keys


def smoothed(weights: Tensor) -> Tensor:
    """Median filter of width 7 along the audio, then the mean of the heads: (N, A, L, T) -> (N, L,
    T).
    """
    width = weights.shape[-1]
    if width <= SMOOTHED_POSITIONS // 2:
        return weights.mean(dim=1)
    rows = weights.flatten(0, 2)
    size = max(1, CACHED_ELEMENTS // width) if weights.device.type == "cpu" else len(rows)
    parts = [_medians(rows[first : first + size]) for first in range(0, len(rows), size)]
    return torch.cat(parts).view(weights.shape).mean(dim=1)


def _medians(rows: Tensor) -> Tensor:
    """Median filter of width 7 with mirrored ends: (n, T) -> (n, T)."""
    half = SMOOTHED_POSITIONS // 2
    width = rows.shape[1]
    padded = functional.pad(rows, (half, half), mode="reflect")
    seven = [padded[:, shift : shift + width] for shift in range(SMOOTHED_POSITIONS)]
    for low, high in _EXCHANGES:
        smaller = torch.minimum(seven[low], seven[high])
        seven[high] = torch.maximum(seven[low], seven[high])
        seven[low] = smaller
    return seven[half]


def path_starts(
    cost: Tensor, n_tokens: Sequence[int], n_positions: Sequence[int]
) -> list[list[int]]:
    """Return each token's first position on the cheapest path, for each window.

    Args:
        cost: (N, L, T), of each token at each position.
        n_tokens, n_positions: lengths of each window.
    """
    longest = cost.shape[1]
    sums = cost.double().cumsum(dim=2)
    before = functional.pad(sums, (1, 0))[:, :, :-1]  # of the columns left of each
    total = sums[:, 0]
    entered = []
    came_down_left = []
    for token in range(1, longest):
        diagonal = functional.pad(total, (1, 0), value=float("inf"))[:, :-1]
        cheapest, entry = (torch.minimum(diagonal, total) - before[:, token]).cummin(dim=1)
        entered.append(entry)
        came_down_left.append(diagonal < total)
        total = sums[:, token] + cheapest
    at = torch.tensor(n_positions, device=cost.device)[:, None] - 1
    last = torch.tensor(n_tokens, device=cost.device)[:, None] - 1
    starts = [torch.zeros_like(at)] * longest
    for token in range(longest - 1, 0, -1):
        entry = entered[token - 1].gather(1, at)
        left = came_down_left[token - 1].gather(1, entry).long()
        at = torch.where(last >= token, entry - left, at)
        starts[token] = entry
    found: list[list[int]] = torch.cat(starts, dim=1).tolist()
    return [row[:count] for row, count in zip(found, n_tokens, strict=True)]


def teacher_forced_queries(
    model: Whisper, heads: Heads, row: AudioRow, given: Sequence[int], said: Sequence[int]
) -> tuple[Tensor, Tensor]:
    """Queries (A, L, D) and logits (L, V) of a given text, by one teacher-forced pass.

    Args:
        given: the start sequence.
        said: the L tokens of the text, including its end token.
    """
    tokens = [*given, *said]
    n_given = len(given)
    n = len(tokens)
    positions = torch.arange(n, device=model.device)[None]
    queries = kept_queries(model, heads, 1, n)
    pass_over = TorchAttention(positions, text_cache(model, 1, n), [row], n, queries)
    states = decode(model, torch.tensor([tokens], device=model.device), positions, pass_over)
    return queries.values[0, :, n_given - 1 : -1], logits_of(model, states[0, n_given - 1 : -1])


TORCH = Search(smoothed, path_starts)
