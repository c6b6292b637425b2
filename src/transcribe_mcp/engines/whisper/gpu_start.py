"""Prepare a GPU before the first kernel, in threads beside the rest of loading a model."""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import Any

import torch

TRIED_BYTES = 64 << 20  # several of PyTorch's large segments


def begin() -> None:
    """Hash Triton's files in a thread. Its first launch would wait for that."""
    threading.Thread(target=_hash_triton, name="triton", daemon=True).start()


def _hash_triton() -> None:
    with suppress(ImportError, AttributeError, OSError):  # the first launch reports errors
        from triton.runtime.cache import triton_key

        triton_key()


def use_expandable_segments(device: torch.device, *, alone: bool) -> None:
    """Enable PyTorch's expandable segments if the driver supports them: then freed memory fits
    other sizes.

    Otherwise each recording that is longer than all before adds segments. Some virtual GPUs
    cannot map memory this way. A program that already uses the GPU, or has its own settings,
    keeps them.

    Not with several GPUs in one process: a capture on one empties the cache of all. PyTorch then
    synchronizes with the wrong GPU and unmaps memory that another one still uses:
    https://github.com/pytorch/pytorch/issues/196258

    Args:
        alone: the process uses no other GPU.
    """
    own = "PYTORCH_CUDA_ALLOC_CONF" in os.environ or "PYTORCH_ALLOC_CONF" in os.environ
    build: Any = torch._C  # the older name until torch 2.9
    change = getattr(build, "_accelerator_setAllocatorSettings", None) or getattr(
        build, "_cuda_cudaCachingAllocator_set_allocator_settings", None
    )
    if own or change is None:
        return
    if not alone:
        change("expandable_segments:False")  # an earlier model may have enabled them
        return
    if torch.cuda.memory_reserved(device):
        return
    change("expandable_segments:True")
    try:
        torch.empty(TRIED_BYTES, dtype=torch.uint8, device=device).zero_()
        torch.cuda.synchronize(device)
    except RuntimeError:
        change("expandable_segments:False")
    torch.cuda.empty_cache()
