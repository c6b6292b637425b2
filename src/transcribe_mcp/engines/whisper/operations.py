"""Operations on CUDA: fused Triton kernels, and the fastest of torch's attention kernels by
measurement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from ... import __version__
from ...compat.gpu_probe import remembered
from ...compat.probes.files import text_of
from ...models.tensors import Geometry
from ...settings import settings
from . import kernels
from .model import Operations

TRIED_WINDOWS = 16
TRIED_RUNS = 3
CALLS_OF_A_RUN = 4
LARGEST_ERROR = 0.02  # bfloat16 has 0.002; a kernel that does not support the type is far off
Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


def cuda_operations(geometry: Geometry, dtype: torch.dtype, device: torch.device) -> Operations:
    return Operations(
        norm=kernels.norm,
        add_norm=kernels.add_norm,
        attention=fastest_attention(geometry, dtype, device),
        scores=_scores if dtype != torch.float32 else _scores_float32,
    )


def fastest_attention(geometry: Geometry, dtype: torch.dtype, device: torch.device) -> Attention:
    """The fastest attention kernel for this encoder on this GPU. Timed once and cached; torch's
    default if memory is too low for the test.
    """
    gpu = torch.cuda.get_device_properties(device)
    driver = text_of("/sys/module/nvidia/version")
    heads = (geometry.encoder_attention_heads, geometry.d_model)
    key = f"attention {gpu.name}; {driver}; {torch.__version__}; {__version__}; {heads}; {dtype}"
    name = remembered(settings().cache_dir, key, lambda: _timed_attention(geometry, dtype, device))
    return ATTENTIONS.get(name, functional.scaled_dot_product_attention)


def _timed_attention(geometry: Geometry, dtype: torch.dtype, device: torch.device) -> str:
    """The name of the fastest; empty if none gives correct results."""
    heads = geometry.encoder_attention_heads
    shape = (TRIED_WINDOWS, geometry.max_source_positions, 3, heads, geometry.d_model // heads)
    try:
        query, key, value = torch.randn(shape, dtype=dtype, device=device).permute(2, 0, 3, 1, 4)
        taken_ms = {
            name: _milliseconds(attention, query, key, value)
            for name, attention in ATTENTIONS.items()
        }
    except torch.OutOfMemoryError as error:
        return str(error).lower()  # not cached
    fastest = min(taken_ms, key=taken_ms.__getitem__)
    return fastest if taken_ms[fastest] < float("inf") else ""


# Called by name: torch's switches are global, so engines in two threads would disturb each other.


def _cudnn(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    attended: Tensor = torch.ops.aten._scaled_dot_product_cudnn_attention(
        query, key, value, None, False
    )[0]
    return attended


def _flash(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    attended: Tensor = torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[0]
    return attended


def _efficient(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    attended: Tensor = torch.ops.aten._scaled_dot_product_efficient_attention(
        query, key, value, None, False
    )[0]
    return attended


ATTENTIONS: Mapping[str, Attention] = {
    "cudnn": _cudnn,
    "flash": _flash,
    "efficient": _efficient,
}


def _milliseconds(attention: Attention, *arguments: Tensor) -> float:
    """Fastest of a few runs; infinity if the kernel fails or is wrong. cuDNN accepts float32 and
    returns NaN.
    """
    try:
        attended = attention(*arguments)
    except RuntimeError:
        return float("inf")
    if not _is_right(attended, *arguments):
        return float("inf")
    return min(_timed(attention, *arguments) for _ in range(TRIED_RUNS))


def _is_right(attended: Tensor, query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Compare one head of one window with the definition of attention."""
    q, k, v = (tensor[0, 0].float() for tensor in (query, key, value))
    expected = torch.softmax(q @ k.t() / q.shape[1] ** 0.5, dim=-1) @ v
    return bool(((attended[0, 0].float() - expected).abs() <= LARGEST_ERROR).all())


def _timed(attention: Attention, *arguments: Tensor) -> float:
    start = torch.cuda.Event(enable_timing=True)
    end = torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(CALLS_OF_A_RUN):  # a single call would end before the next is queued
        attention(*arguments)
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end))


def _scores(states: Tensor, output: Tensor) -> Tensor:
    """float32 output: 16 bits would create ties among the most probable tokens."""
    return torch.mm(states, output.t(), out_dtype=torch.float32)


def _scores_float32(states: Tensor, output: Tensor) -> Tensor:
    return functional.linear(states, output)
