"""A Triton kernel for the LSTM of ``silero_gpu``: all lanes in one launch.

Library LSTMs launch two kernels for every step. Beside a model each of them waits until a part of one of its products
is over, thousands of times. Here a program keeps the weights and takes 16 lanes through all steps. Where a
multiprocessor has too little memory to keep them, as on all GPUs but those for servers, they are read at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from subprocess import SubprocessError

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.errors import TritonError

from ..compat.gpu_probe import ran_out_of_memory

State = tuple[Tensor, Tensor]

LANES, WARPS = 16, 8  # 16 rows are the least that a matrix unit multiplies
KEPT_BYTES = (
    143_360  # of shared memory, that the kernel takes if it keeps the weights; otherwise 45,056
)
OLDEST = (8, 0)  # compute capability from which on Triton multiplies them by matrix units
# What launching a kernel fails with, beside torch's RuntimeError: Triton runs a C compiler, and loads what that made.
TRITON_ERRORS = (TritonError, SubprocessError, ImportError)


def problem(device: torch.device) -> str:
    """Why the kernel cannot be launched there; empty where it can. Raises: RuntimeError for want of memory."""
    if torch.cuda.get_device_capability(device) < OLDEST:
        return f"it is made for compute capability {OLDEST[0]}.{OLDEST[1]} and newer"
    state = torch.zeros((2, 1, 1, 128), device=device)
    gates, weight = (
        torch.zeros((1, 512), device=device),
        torch.zeros((512, 128), dtype=torch.float16, device=device),
    )
    return launch_problem(lambda: run_lanes(gates, weight, (state[0], state[1]), 1, 0))


def launch_problem(launch: Callable[[], object]) -> str:
    """Why it fails; empty where it does not. Raises: RuntimeError for want of memory."""
    try:
        launch()
    except (
        RuntimeError,
        OSError,
        *TRITON_ERRORS,
    ) as error:  # the second: no place for what was compiled
        if ran_out_of_memory(error):
            raise
        return f"{type(error).__name__}: {error}"
    return ""


@cache
def _keeps_weights(device: torch.device) -> bool:
    room: int = getattr(
        torch.cuda.get_device_properties(device), "shared_memory_per_block_optin", 0
    )
    return room >= KEPT_BYTES


@triton.jit
def _tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit(do_not_specialize=["n_frames", "steps"])
def _lanes_kernel(
    gates, weight, hidden, cell, states, hidden_after, cell_after, n_frames, steps, before,
    SIZE: tl.constexpr, LANES: tl.constexpr, KEPT: tl.constexpr,
):  # fmt: skip
    lane, channel = tl.program_id(0) * LANES + tl.arange(0, LANES), tl.arange(0, SIZE)
    begin, end = lane * steps, tl.minimum((lane + 1) * steps, n_frames)
    heard_from = tl.maximum(0, (lane - before) * steps)
    from_the_start = (lane <= before)[:, None]
    row = channel[None] + 0 * lane[:, None]
    h, c = tl.load(hidden + row, from_the_start, 0.0), tl.load(cell + row, from_the_start, 0.0)
    turned = (
        weight + channel[:, None] + channel[None] * SIZE
    )  # rows of a product's second matrix are inputs
    if KEPT:
        weight_i, weight_f = tl.load(turned), tl.load(turned + SIZE * SIZE)
        weight_g, weight_o = tl.load(turned + 2 * SIZE * SIZE), tl.load(turned + 3 * SIZE * SIZE)
    for step in range((1 + before) * steps):
        frame = heard_from + step
        inside, own = (frame < end)[:, None], ((frame < end) & (frame >= begin))[:, None]
        gate = gates + frame[:, None] * (4 * SIZE) + channel[None]
        from_i, from_f = tl.load(gate, inside, 0.0), tl.load(gate + SIZE, inside, 0.0)
        from_g, from_o = (
            tl.load(gate + 2 * SIZE, inside, 0.0),
            tl.load(gate + 3 * SIZE, inside, 0.0),
        )
        said = h.to(weight.dtype.element_ty)
        if KEPT:
            i, f = from_i + tl.dot(said, weight_i), from_f + tl.dot(said, weight_f)
            g, o = from_g + tl.dot(said, weight_g), from_o + tl.dot(said, weight_o)
        else:
            i = from_i + tl.dot(said, tl.load(turned))
            f = from_f + tl.dot(said, tl.load(turned + SIZE * SIZE))
            g = from_g + tl.dot(said, tl.load(turned + 2 * SIZE * SIZE))
            o = from_o + tl.dot(said, tl.load(turned + 3 * SIZE * SIZE))
        c = tl.where(inside, tl.sigmoid(f) * c + tl.sigmoid(i) * _tanh(g), c)
        h = tl.where(inside, tl.sigmoid(o) * _tanh(c), h)
        tl.store(states + frame[:, None] * SIZE + channel[None], h, own)
    last = ((begin < n_frames) & (end == n_frames))[:, None]
    tl.store(hidden_after + row, h, last)
    tl.store(cell_after + row, c, last)


def run_lanes(
    gates: Tensor, weight: Tensor, state: State, steps: int, before: int
) -> tuple[Tensor, State]:
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
    n_frames, (hidden, cell), kept = len(gates), state, _keeps_weights(gates.device)
    states = torch.empty((n_frames, weight.shape[1]), dtype=torch.float32, device=gates.device)
    hidden_after, cell_after = torch.empty_like(hidden), torch.empty_like(cell)
    _lanes_kernel[(triton.cdiv(triton.cdiv(n_frames, steps), LANES),)](
        gates, weight, hidden, cell, states, hidden_after, cell_after, n_frames, steps, before, weight.shape[1], LANES,
        kept, num_warps=WARPS, num_stages=3 if kept else 1,
    )  # fmt: skip
    return states, (hidden_after, cell_after)
