"""A Triton matrix-vector kernel for decoding steps with one row, at memory bandwidth.

Libraries tile for many rows: 3 MB of weights take 5 µs, of which reading takes 1. With more rows
libraries are faster.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from .linear import FusedDense

# Tile of a program; measured on an H100, see docs/performance.md.
OUTPUTS = 2
INPUTS = 1024
WARPS = 4


@triton.jit
def _product_kernel(
    x, weight, bias, out, WIDTH: tl.constexpr, N_OUT: tl.constexpr, GELU: tl.constexpr,
    OUTPUTS: tl.constexpr, INPUTS: tl.constexpr,
):  # fmt: skip
    at_out = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    lane = tl.arange(0, INPUTS)
    rows = weight + at_out[:, None] * WIDTH
    total = tl.zeros((OUTPUTS, INPUTS), tl.float32)
    for first in tl.static_range(0, WIDTH, INPUTS):
        if first + INPUTS <= WIDTH and N_OUT % OUTPUTS == 0:
            value = tl.load(x + first + lane)
            block = tl.load(rows + first + lane[None])
        else:
            inside = first + lane < WIDTH
            value = tl.load(x + first + lane, inside, 0.0)
            block = tl.load(
                rows + first + lane[None], (at_out < N_OUT)[:, None] & inside[None], 0.0
            )
        total += block.to(tl.float32) * value.to(tl.float32)[None]
    result = tl.sum(total, 1) + tl.load(bias + at_out, at_out < N_OUT, 0.0).to(tl.float32)
    if GELU:  # the approximation of ``FusedDense``
        inner = 0.7978845608028654 * (result + 0.044715 * result * result * result)
        result = result * (1 - 1 / (1 + tl.exp(2 * inner)))
    tl.store(out + at_out, result.to(out.dtype.element_ty), at_out < N_OUT)


def product(x: Tensor, weight: Tensor, bias: Tensor, *, gelu: bool) -> Tensor:
    """(..., inputs) of one row, (outputs, inputs), (outputs,) -> (..., outputs)."""
    n_out, width = weight.shape
    out = x.new_empty((*x.shape[:-1], n_out))
    grid = (triton.cdiv(n_out, OUTPUTS),)
    _product_kernel[grid](
        x.contiguous(), weight, bias, out, width, n_out, gelu, OUTPUTS, INPUTS, num_warps=WARPS
    )
    return out


class SingleRowDense(FusedDense):
    """``FusedDense`` with the kernel for single rows."""

    def __call__(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias, gelu=False) if _is_row(x) else super().__call__(x)

    def gelu(self, x: Tensor) -> Tensor:
        return product(x, self.weight, self.bias, gelu=True) if _is_row(x) else super().gelu(x)


def _is_row(x: Tensor) -> bool:
    return x.numel() == x.shape[-1]
