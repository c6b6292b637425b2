"""Whisper in PyTorch, for CUDA GPUs and CPUs, in one CUDA stack: torch's own.

``model`` is the network. ``attention`` and ``kernels`` are two implementations of a decoding step.
``decode_slots``, ``continuous_batching`` and ``graphs`` run a batch in which windows come and go.
``logit_filters``, ``sampling`` and ``beam`` choose tokens. ``alignment`` finds their times.
"""

from __future__ import annotations

from .loading import load

__all__ = ["load"]
