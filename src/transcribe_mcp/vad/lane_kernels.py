"""A Triton kernel for the LSTM of ``lanes``: all lanes in one launch.

Library LSTMs launch two kernels for every step. Beside a model each of them waits until a part of one of its products
is over, thousands of times. Here a program keeps the weights in its registers and takes 16 lanes through all steps.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

State = tuple[Tensor, Tensor]

LANES, WARPS = 16, 8  # 16 rows are the least that a matrix unit multiplies


@triton.jit
def _tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit(do_not_specialize=["n_frames", "steps"])
def _lanes_kernel(
    gates, weight, hidden, cell, states, hidden_after, cell_after, n_frames, steps, before,
    SIZE: tl.constexpr, LANES: tl.constexpr,
):  # fmt: skip
    lane, channel = tl.program_id(0) * LANES + tl.arange(0, LANES), tl.arange(0, SIZE)
    begin, end = lane * steps, tl.minimum((lane + 1) * steps, n_frames)
    heard_from = tl.maximum(0, (lane - before) * steps)
    from_the_start = (lane <= before)[:, None]
    row = channel[None] + 0 * lane[:, None]
    h, c = tl.load(hidden + row, from_the_start, 0.0), tl.load(cell + row, from_the_start, 0.0)
    turned = weight + channel[:, None] + channel[None] * SIZE  # rows of a product's second matrix are inputs
    weight_i, weight_f = tl.load(turned), tl.load(turned + SIZE * SIZE)
    weight_g, weight_o = tl.load(turned + 2 * SIZE * SIZE), tl.load(turned + 3 * SIZE * SIZE)
    for step in range((1 + before) * steps):
        frame = heard_from + step
        inside, own = (frame < end)[:, None], ((frame < end) & (frame >= begin))[:, None]
        gate = gates + frame[:, None] * (4 * SIZE) + channel[None]
        from_i, from_f = tl.load(gate, inside, 0.0), tl.load(gate + SIZE, inside, 0.0)
        from_g, from_o = tl.load(gate + 2 * SIZE, inside, 0.0), tl.load(gate + 3 * SIZE, inside, 0.0)
        said = h.to(weight_i.dtype)
        i, f = from_i + tl.dot(said, weight_i), from_f + tl.dot(said, weight_f)
        g, o = from_g + tl.dot(said, weight_g), from_o + tl.dot(said, weight_o)
        c = tl.where(inside, tl.sigmoid(f) * c + tl.sigmoid(i) * _tanh(g), c)
        h = tl.where(inside, tl.sigmoid(o) * _tanh(c), h)
        tl.store(states + frame[:, None] * SIZE + channel[None], h, own)
    last = ((begin < n_frames) & (end == n_frames))[:, None]
    tl.store(hidden_after + row, h, last)
    tl.store(cell_after + row, c, last)


def run_lanes(gates: Tensor, weight: Tensor, state: State, steps: int, before: int) -> tuple[Tensor, State]:
    """The LSTM over all lanes.

    Args:
        gates: (n_frames, 4 · 128) what the inputs add to the gates i, f, g, o, biases included; frames of a lane follow
            one another, and the last lane may be shorter.
        weight: (4 · 128, 128) float16 of the state before: as exact as the tf32 that a library would take.
        state: hidden and cell before the first frame, 128 numbers each. Lanes that hear the first frame start from it.
        steps: frames of a lane.
        before: how many lanes before its own a lane hears.

    Returns:
        (n_frames, 128) hidden states; the state behind the last frame.
    """
    n_frames, (hidden, cell) = len(gates), state
    states = torch.empty((n_frames, weight.shape[1]), dtype=torch.float32, device=gates.device)
    hidden_after, cell_after = torch.empty_like(hidden), torch.empty_like(cell)
    _lanes_kernel[(triton.cdiv(triton.cdiv(n_frames, steps), LANES),)](
        gates, weight, hidden, cell, states, hidden_after, cell_after, n_frames, steps, before, weight.shape[1], LANES,
        num_warps=WARPS,
    )  # fmt: skip
    return states, (hidden_after, cell_after)
