"""A Triton kernel for the LSTM of ``silero_gpu``: all lanes in one launch.

Library LSTMs launch two kernels per step, and next to a running model each launch waits for part of
a matrix product. Here one program takes 16 lanes through all steps. It keeps the weights in shared
memory where they fit (server GPUs) and reads them at every step elsewhere.
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

LANES = 16  # the minimum number of rows of a matrix unit
WARPS = 8
KEPT_BYTES = 143_360  # shared memory of the kernel if it keeps the weights; 45,056 otherwise
MIN_CAPABILITY = (8, 0)  # Triton uses matrix units from this compute capability on
# Launch errors besides torch's RuntimeError: Triton runs a C compiler and loads the result.
TRITON_ERRORS = (TritonError, SubprocessError, ImportError)


def problem(device: torch.device) -> str:
    """Why the kernel cannot run on a device; empty if it can.

    Raises:
        RuntimeError: out of memory.
    """
    if torch.cuda.get_device_capability(device) < MIN_CAPABILITY:
        major, minor = MIN_CAPABILITY
        return f"it needs compute capability {major}.{minor} or newer"
    state = torch.zeros((2, 1, 1, 128), device=device)
    gates = torch.zeros((1, 512), device=device)
    weight = torch.zeros((512, 128), dtype=torch.float16, device=device)
    return launch_problem(lambda: run_lanes(gates, weight, (state[0], state[1]), 1, 0))


def launch_problem(launch: Callable[[], object]) -> str:
    """Why a launch fails; empty if it does not.

    Raises:
        RuntimeError: out of memory.
    """
    try:
        launch()
    except (RuntimeError, OSError, *TRITON_ERRORS) as error:  # OSError: no cache directory
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
    lane = tl.program_id(0) * LANES + tl.arange(0, LANES)
    channel = tl.arange(0, SIZE)
    begin = lane * steps
    end = tl.minimum((lane + 1) * steps, n_frames)
    warm_up_from = tl.maximum(0, (lane - before) * steps)
    from_the_start = (lane <= before)[:, None]
    row = channel[None] + 0 * lane[:, None]
    h = tl.load(hidden + row, from_the_start, 0.0)
    c = tl.load(cell + row, from_the_start, 0.0)
    transposed = weight + channel[:, None] + channel[None] * SIZE  # (inputs, outputs) for tl.dot
    if KEPT:
        weight_i = tl.load(transposed)
        weight_f = tl.load(transposed + SIZE * SIZE)
        weight_g = tl.load(transposed + 2 * SIZE * SIZE)
        weight_o = tl.load(transposed + 3 * SIZE * SIZE)
    for step in range((1 + before) * steps):
        frame = warm_up_from + step
        inside = (frame < end)[:, None]
        own = ((frame < end) & (frame >= begin))[:, None]
        gate = gates + frame[:, None] * (4 * SIZE) + channel[None]
        input_i = tl.load(gate, inside, 0.0)
        input_f = tl.load(gate + SIZE, inside, 0.0)
        input_g = tl.load(gate + 2 * SIZE, inside, 0.0)
        input_o = tl.load(gate + 3 * SIZE, inside, 0.0)
        state = h.to(weight.dtype.element_ty)
        if KEPT:
            i = input_i + tl.dot(state, weight_i)
            f = input_f + tl.dot(state, weight_f)
            g = input_g + tl.dot(state, weight_g)
            o = input_o + tl.dot(state, weight_o)
        else:
            i = input_i + tl.dot(state, tl.load(transposed))
            f = input_f + tl.dot(state, tl.load(transposed + SIZE * SIZE))
            g = input_g + tl.dot(state, tl.load(transposed + 2 * SIZE * SIZE))
            o = input_o + tl.dot(state, tl.load(transposed + 3 * SIZE * SIZE))
        c = tl.where(inside, tl.sigmoid(f) * c + tl.sigmoid(i) * _tanh(g), c)
        h = tl.where(inside, tl.sigmoid(o) * _tanh(c), h)
        tl.store(states + frame[:, None] * SIZE + channel[None], h, own)
    last = ((begin < n_frames) & (end == n_frames))[:, None]
    tl.store(hidden_after + row, h, last)
    tl.store(cell_after + row, c, last)


def run_lanes(
    gates: Tensor, weight: Tensor, state: State, steps: int, before: int
) -> tuple[Tensor, State]:
    """Run the LSTM over all lanes.

    Args:
        gates: (n_frames, 4 · 128) contribution of the inputs to the gates i, f, g, o, with biases.
            The last lane may be shorter.
        weight: (4 · 128, 128) float16 recurrent weights; as exact as the tf32 of a library.
        state: hidden and cell before the first frame, 128 numbers each; the initial state of lanes
            that begin there.
        steps: frames per lane.
        before: lanes of warm-up before each lane.

    Returns:
        (n_frames, 128) hidden states; the state after the last frame.
    """
    n_frames = len(gates)
    hidden, cell = state
    kept = _keeps_weights(gates.device)
    states = torch.empty((n_frames, weight.shape[1]), dtype=torch.float32, device=gates.device)
    hidden_after = torch.empty_like(hidden)
    cell_after = torch.empty_like(cell)
    _lanes_kernel[(triton.cdiv(triton.cdiv(n_frames, steps), LANES),)](
        gates, weight, hidden, cell, states, hidden_after, cell_after, n_frames, steps, before,
        weight.shape[1], LANES, kept, num_warps=WARPS, num_stages=3 if kept else 1,
    )  # fmt: skip
    return states, (hidden_after, cell_after)
