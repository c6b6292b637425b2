"""Measure a device's limits: large matrix products, large copies, and memory used."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...engines import EngineInfo

MATRIX = {"cuda": 8192, "cpu": 1024}
COPIED_BYTES = {"cuda": 1 << 30, "cpu": 64 << 20}
RUNS = 5


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Floating-point operations per second, and bytes per second read plus written, over all
    devices.
    """

    flops: float
    bytes_per_s: float


def measure_ceilings(info: EngineInfo) -> Ceilings:
    """Measure with PyTorch in the engine's precision, otherwise with NumPy in float32."""
    if info.engine == "whisper":
        each = [_with_torch(info.compute_type, device) for device in info.device.split(",")]
        return Ceilings(sum(one.flops for one in each), sum(one.bytes_per_s for one in each))
    random = np.random.default_rng(0)
    n = MATRIX["cpu"]
    a, b = (random.standard_normal((n, n), dtype=np.float32) for _ in range(2))
    source = random.integers(0, 255, COPIED_BYTES["cpu"], dtype=np.uint8)
    target = np.empty_like(source)
    return Ceilings(
        2 * n**3 / _best_s(lambda: a @ b),
        2 * len(source) / _best_s(lambda: np.copyto(target, source)),
    )


def _with_torch(compute_type: str, device: str) -> Ceilings:
    import torch

    kind = device.partition(":")[0]
    precision = getattr(torch, compute_type.partition("+")[0], torch.float32)
    dtype = (
        precision
        if isinstance(precision, torch.dtype) and precision.is_floating_point
        else torch.float32
    )
    n = MATRIX[kind]
    a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    source = torch.randint(0, 255, (COPIED_BYTES[kind],), device=device, dtype=torch.uint8)
    target = torch.empty_like(source)
    return Ceilings(
        2 * n**3 / _best_s(lambda: a @ b), 2 * len(source) / _best_s(lambda: target.copy_(source))
    )


def _best_s(work: Callable[[], Any]) -> float:
    """The best of several runs: a ceiling needs to be reached only once."""
    return min(run_times_s(work, RUNS + 1)[1:])


def run_times_s(work: Callable[[], Any], runs: int) -> list[float]:
    taken = []
    for _ in range(runs):
        _synchronize()
        start = time.perf_counter()
        work()
        _synchronize()
        taken.append(time.perf_counter() - start)
    return taken


def _synchronize() -> None:
    """Wait for every GPU on which PyTorch holds memory; others would allocate a context."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return
    for i in range(torch.cuda.device_count()):
        if torch.cuda.memory_reserved(i):
            torch.cuda.synchronize(i)


def gpu_peak_bytes(info: EngineInfo) -> int | None:
    """Peak GPU memory of PyTorch; ``None`` without any."""
    torch = sys.modules.get("torch")
    if torch is None or not info.device.startswith("cuda") or not torch.cuda.is_available():
        return None
    return (
        sum(int(torch.cuda.max_memory_allocated(i)) for i in range(torch.cuda.device_count()))
        or None
    )


def peak_bytes() -> int | None:
    """Peak resident memory of this process; ``None`` if unknown."""
    try:
        import resource
    except ImportError:
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
