"""A Triton kernel for the LSTM of ``lanes``: a whole round in one launch.

Library LSTMs launch two kernels for every step. Beside a model each of them waits until a part of one of its products
is over, thousands of times. Here a program keeps the weights in its registers and takes 16 lanes through all steps.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LANES, WARPS = 16, 8  # 16 rows are the least that a matrix unit multiplies


@triton.jit
def _tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _round_kernel(
    gates, weight, hidden, cell, states, hidden_after, cell_after, n_lanes, n_frames, steps,
    SIZE: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    lane, channel = tl.program_id(0) * LANES + tl.arange(0, LANES), tl.arange(0, SIZE)
    at = lane[:, None] * SIZE + channel[None]
    there = (lane < n_lanes)[:, None]
    h, c = tl.load(hidden + at, there, 0.0), tl.load(cell + at, there, 0.0)
    turned = weight + channel[:, None] + channel[None] * SIZE  # rows of a product's second matrix are inputs
    weight_i, weight_f = tl.load(turned), tl.load(turned + SIZE * SIZE)
    weight_g, weight_o = tl.load(turned + 2 * SIZE * SIZE), tl.load(turned + 3 * SIZE * SIZE)
    for step in range(steps):
        frame = lane * steps + step
        inside = ((frame < n_frames) & (lane < n_lanes))[:, None]
        row = gates + frame[:, None] * (4 * SIZE) + channel[None]
        from_i, from_f = tl.load(row, inside, 0.0), tl.load(row + SIZE, inside, 0.0)
        from_g, from_o = tl.load(row + 2 * SIZE, inside, 0.0), tl.load(row + 3 * SIZE, inside, 0.0)
        before = h.to(weight_i.dtype)
        i, f = from_i + tl.dot(before, weight_i), from_f + tl.dot(before, weight_f)
        g, o = from_g + tl.dot(before, weight_g), from_o + tl.dot(before, weight_o)
        c = tl.where(inside, tl.sigmoid(f) * c + tl.sigmoid(i) * _tanh(g), c)
        h = tl.where(inside, tl.sigmoid(o) * _tanh(c), h)
        tl.store(states + frame[:, None] * SIZE + channel[None], h, inside)
    tl.store(hidden_after + at, h, there)
    tl.store(cell_after + at, c, there)


def run_lanes(gates: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """One round over all lanes.

    Args:
        gates: (n_frames, 4 · 128) what the inputs add to the gates i, f, g, o, biases included; frames of a lane follow
            one another, and the last lane may be shorter.
        weight: (4 · 128, 128) float16 of the state before: as exact as the tf32 that a library would take.
        hidden, cell: (n_lanes, 128) what each lane starts from.
        steps: frames of a lane.

    Returns:
        (n_frames, 128) hidden states; (n_lanes, 128) hidden and cell behind each lane.
    """
    n_frames, (n_lanes, size) = len(gates), hidden.shape
    states = torch.empty((n_frames, size), dtype=torch.float32, device=gates.device)
    hidden_after, cell_after = torch.empty_like(hidden), torch.empty_like(cell)
    _round_kernel[(triton.cdiv(n_lanes, LANES),)](
        gates, weight, hidden, cell, states, hidden_after, cell_after, n_lanes, n_frames, steps, size, LANES,
        num_warps=WARPS,
    )  # fmt: skip
    return states, hidden_after, cell_after
