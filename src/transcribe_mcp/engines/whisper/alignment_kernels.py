"""Triton kernels for ``alignment``: one pass for the median filter, one launch for a whole path."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from .alignment import SMOOTHED_POSITIONS

HALF = SMOOTHED_POSITIONS // 2
assert HALF == 3  # the kernel's sorting network is for seven numbers


@triton.jit
def _ordered(a, b):
    return tl.minimum(a, b), tl.maximum(a, b)


@triton.jit
def _heard(row, at, width):
    """Load the number at a position, mirrored at both ends."""
    at = tl.abs(at)
    at = tl.where(at >= width, 2 * width - 2 - at, at)
    return tl.load(row + at, (at >= 0) & (at < width), 0.0)


@triton.jit
def _smooth_kernel(weights, out, heads, n_tokens, width, BLOCK: tl.constexpr):
    window = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1)
    at = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for head in range(heads):
        row = weights + ((window * heads + head) * n_tokens + token) * width
        p0 = _heard(row, at - 3, width)
        p1 = _heard(row, at - 2, width)
        p2 = _heard(row, at - 1, width)
        p3 = _heard(row, at, width)
        p4 = _heard(row, at + 1, width)
        p5 = _heard(row, at + 2, width)
        p6 = _heard(row, at + 3, width)
        p0, p5 = _ordered(p0, p5)
        p0, p3 = _ordered(p0, p3)
        p1, p6 = _ordered(p1, p6)
        p2, p4 = _ordered(p2, p4)
        p0, p1 = _ordered(p0, p1)
        p3, p5 = _ordered(p3, p5)
        p2, p6 = _ordered(p2, p6)
        p2, p3 = _ordered(p2, p3)
        p3, p6 = _ordered(p3, p6)
        p4, p5 = _ordered(p4, p5)
        p1, p4 = _ordered(p1, p4)
        p1, p3 = _ordered(p1, p3)
        p3, p4 = _ordered(p3, p4)
        total += p3
    tl.store(out + (window * n_tokens + token) * width + at, total / heads, at < width)


def smoothed(weights: Tensor) -> Tensor:
    """``alignment.smoothed``."""
    n, heads, n_tokens, width = weights.shape
    if width <= HALF:
        return weights.mean(dim=1)
    out = torch.empty((n, n_tokens, width), dtype=torch.float32, device=weights.device)
    block = 512
    _smooth_kernel[(n, n_tokens, triton.cdiv(width, block))](
        weights.contiguous(), out, heads, n_tokens, width, block, num_warps=4
    )
    return out


@triton.jit
def _cheaper(cost_a, code_a, cost_b, code_b):
    takes_b = cost_b <= cost_a
    return tl.where(takes_b, cost_b, cost_a), tl.where(takes_b, code_b, code_a)


@triton.jit
def _path_kernel(
    cost, totals, entered, starts, n_tokens, n_positions, longest, width, BLOCK: tl.constexpr
):
    """One window. ``entered`` = 2 * (column where the path enters the row) + (1 if it came
    diagonally).
    """
    window = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < width
    cost += window * longest * width
    entered += window * longest * width
    totals += window * BLOCK
    starts += window * longest
    count = tl.load(n_tokens + window)
    total = tl.cumsum(tl.load(cost + column, inside, 0.0).to(tl.float64), 0)
    for token in range(1, count):
        tl.store(totals + column, total)
        tl.debug_barrier()
        left = tl.load(totals + column - 1, column > 0, float("inf"))
        tl.debug_barrier()
        here = tl.load(cost + token * width + column, inside, 0.0).to(tl.float64)
        sums = tl.cumsum(here, 0)
        entering = tl.minimum(left, total) - (sums - here)
        code = column * 2 + (left < total).to(tl.int32)
        cheapest, code = tl.associative_scan((entering, code), 0, _cheaper)
        tl.store(entered + token * width + column, code, inside)
        total = sums + cheapest
    tl.debug_barrier()
    at = tl.load(n_positions + window) - 1
    for back in range(1, count):
        token = count - back
        code = tl.load(entered + token * width + at)
        tl.store(starts + token, code // 2)
        at = code // 2 - code % 2


def path_starts(
    cost: Tensor, n_tokens: Sequence[int], n_positions: Sequence[int]
) -> list[list[int]]:
    """``alignment.path_starts``."""
    n, longest, width = cost.shape
    block = triton.next_power_of_2(width)
    totals = torch.empty((n, block), dtype=torch.float64, device=cost.device)
    entered = torch.empty((n, longest, width), dtype=torch.int32, device=cost.device)
    starts = torch.zeros((n, longest), dtype=torch.int32, device=cost.device)
    lengths = torch.tensor([n_tokens, n_positions], dtype=torch.int32, device=cost.device)
    _path_kernel[(n,)](
        cost.contiguous(),
        totals,
        entered,
        starts,
        lengths[0],
        lengths[1],
        longest,
        width,
        block,
        num_warps=8,
    )
    found: list[list[int]] = starts.tolist()
    return [row[:count] for row, count in zip(found, n_tokens, strict=True)]
