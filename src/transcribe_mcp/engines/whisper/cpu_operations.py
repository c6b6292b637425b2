"""Encoder operations on a CPU in several precisions; the fastest is found by measurement.

The fastest precision depends on the instruction set (VNNI for int8, AMX and BF16 for both) and on
torch. Loading a model times a small piece of each, with the thread count of a worker. That takes
some tens of milliseconds.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from ...models.tensors import Geometry
from .linear import Bfloat16Dense, Int8DenseAtOnce, MakeLinear

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]
Way = TypeVar("Way")

TRIED_RUNS = 3  # the first is a warm-up
TRIED_POSITIONS = 256  # a few positions of audio are representative
ATTENTION_STEPS = 127
QUERIES_AT_ONCE = 300  # number whose scores fit a core's cache
LARGEST_SUM = (
    2.0**100
)  # sum of a row's weights; its product with any value is finite in float32 and bfloat16
LOG2_E = math.log2(math.e)

ENCODER_LINEAR: Mapping[str, MakeLinear] = {"int8": Int8DenseAtOnce, "bfloat16": Bfloat16Dense}


def has_bfloat16_products() -> bool:
    """Whether oneDNN has bfloat16 products. On x86 they need AVX-512; otherwise torch uses a slow
    loop.
    """
    return bool(
        torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def float32_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, value)


def bfloat16_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    query, key, value = (tensor.to(torch.bfloat16) for tensor in (query, key, value))
    return functional.scaled_dot_product_attention(query, key, value).float()


def int8_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attention with int8 queries and keys, bfloat16 weights and values: (B, H, T, D) float32 ->
    the same.

    Keys have one scale per channel, which multiplies the queries; queries have one scale per
    position. The mean of the keys is subtracted first: it adds the same to all scores of a query,
    so the softmax does not change. Scores are then near 0, so 2 ** score needs no subtraction of
    the maximum, except for extreme scores.
    """
    batch, heads, n_positions, size = query.shape
    differing = key - key.mean(dim=2, keepdim=True)
    key_steps = differing.abs().amax(dim=2, keepdim=True).clamp_min_(1e-12) / ATTENTION_STEPS
    keys = differing.div_(key_steps).round_().to(torch.int8)
    asked = query * key_steps
    steps = (
        asked.abs().amax(dim=3, keepdim=True).clamp_min_(1e-30) / ATTENTION_STEPS
    )  # (B, H, T, 1)
    queries = asked.div_(steps).round_().to(torch.int8)
    steps = steps.mul_(size**-0.5 * LOG2_E)
    values = value.to(torch.bfloat16)
    attended = query.new_empty((batch, n_positions, heads, size))
    whole = torch.empty((QUERIES_AT_ONCE, n_positions), dtype=torch.int32)
    exact = torch.empty_like(whole, dtype=torch.float32)
    narrow = torch.empty_like(whole, dtype=torch.bfloat16)
    for window in range(batch):
        for head in range(heads):
            columns = keys[window, head].t()
            for first in range(0, n_positions, QUERIES_AT_ONCE):
                rows = slice(first, min(first + QUERIES_AT_ONCE, n_positions))
                used = slice(rows.stop - first)
                products = torch._int_mm(queries[window, head, rows], columns, out=whole[used])
                weights = torch.mul(products, steps[window, head, rows], out=exact[used]).exp2_()
                sums = weights.sum(dim=1, keepdim=True)
                if not bool(sums.max() < LARGEST_SUM):
                    torch.mul(products, steps[window, head, rows] / LOG2_E, out=weights)
                    torch.softmax(weights, dim=1, out=weights)
                    sums = sums.fill_(1.0)
                found = narrow[used].copy_(weights) @ values[window, head]
                torch.div(found, sums, out=attended[window, rows, head])
    return attended.transpose(1, 2)


def fastest(ways: Mapping[str, Callable[[], object]], threads: int) -> str:
    """Name of the fastest candidate when torch uses this many threads."""

    def measure() -> str:
        torch.set_num_threads(threads)  # applies to the calling thread
        with torch.inference_mode():
            runs = [{name: _seconds(way) for name, way in ways.items()} for _ in range(TRIED_RUNS)]
        return min(ways, key=lambda name: min(taken_s[name] for taken_s in runs))

    if len(ways) == 1:
        return next(iter(ways))
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(measure).result()


def _seconds(way: Callable[[], object]) -> float:
    """Seconds of one call; infinity if this torch does not support it."""
    start = time.perf_counter()
    try:
        way()
    except RuntimeError:
        return math.inf
    return time.perf_counter() - start


def encoder_precision(geometry: Geometry, threads: int) -> str:
    """The key of ``ENCODER_LINEAR`` in which this CPU computes the MLP layers fastest."""
    if not has_bfloat16_products():
        return "int8"
    narrow = geometry.d_model
    wide = geometry.encoder_ffn_dim
    x = torch.randn((TRIED_POSITIONS, narrow))
    weight = torch.randn((wide, narrow))

    def way(make: MakeLinear) -> Callable[[], Tensor]:
        up = make(weight, torch.zeros(wide))
        down = make(weight.t().contiguous(), torch.zeros(narrow))
        return lambda: down(up.gelu(x))

    return fastest({name: way(make) for name, make in ENCODER_LINEAR.items()}, threads)


def encoder_attention(geometry: Geometry, threads: int) -> Attention:
    """The fastest attention for this many positions."""
    ways = {"float32": float32_attention}
    if has_bfloat16_products():
        ways |= {"bfloat16": bfloat16_attention, "int8": int8_attention}
    heads = geometry.encoder_attention_heads
    shape = (1, geometry.max_source_positions, 3, threads, geometry.d_model // heads)
    query, key, value = torch.randn(shape).permute(2, 0, 3, 1, 4)
    return ways[
        fastest({name: partial(way, query, key, value) for name, way in ways.items()}, threads)
    ]


def convolution_dtype(geometry: Geometry, threads: int) -> torch.dtype:
    """Precision of the encoder's convolutions."""
    kinds = [torch.float32, torch.bfloat16] if has_bfloat16_products() else [torch.float32]
    width = geometry.d_model

    def way(dtype: torch.dtype) -> Callable[[], Tensor]:
        x = torch.randn((1, width, 2 * TRIED_POSITIONS), dtype=dtype)
        weight = torch.randn((width, width, 3), dtype=dtype)
        return lambda: functional.conv1d(x, weight, stride=2, padding=1)

    return {str(kind): kind for kind in kinds}[
        fastest({str(kind): way(kind) for kind in kinds}, threads)
    ]
