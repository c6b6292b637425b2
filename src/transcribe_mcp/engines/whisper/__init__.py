"""Whisper in PyTorch, for CUDA GPUs and CPUs, in one CUDA stack: torch's own.

``model`` is the network; ``attention`` and ``kernels`` are two ways to compute it step by step; ``slots``, ``runner``
and ``graphs`` run a batch in which windows come and go; ``rules``, ``sampling`` and ``beam`` decide what is said;
``alignment`` finds when.
"""

from __future__ import annotations

from .loading import load

__all__ = ["load"]
