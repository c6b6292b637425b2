"""Whisper in PyTorch, for CUDA GPUs and CPUs, in one CUDA stack: torch's own.

``model`` is the network; ``attention`` and ``kernels`` are two ways to compute it step by step; ``slots``, ``runner``
and ``graphs`` run a batch in which windows come and go; ``rules``, ``sampling`` and ``beam`` decide what is said;
``alignment`` finds when.
"""

from __future__ import annotations

from .. import Engine, EngineRequest


def load(request: EngineRequest) -> Engine:
    """Load the requested model. A GPU that nobody asked for has the CPU behind it."""
    from .loading import load_engine

    return load_engine(request)
