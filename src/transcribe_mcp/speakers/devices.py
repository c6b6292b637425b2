"""Run the networks on the device of the model, or on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from .networks import CpuNetworks
from .protocol import Array, Rows, SpeakerNetworks


class GuardedNetworks:
    """The networks of a GPU, and those of the CPU once a call on the GPU failed."""

    def __init__(self, on_gpu: SpeakerNetworks, threads: int) -> None:
        self._networks = on_gpu
        self._threads = threads
        self.segmentation_batch = on_gpu.segmentation_batch
        self.embedding_batch = on_gpu.embedding_batch

    def on_device(self, samples: Array) -> Any:
        return self._call("on_device", samples)

    def joined(self, parts: Sequence[Any]) -> Any:
        return self._call("joined", parts)

    def segment(self, samples: Any) -> Array:
        facts: Array = self._call("segment", samples)
        return facts

    def log_mel(self, samples: Any) -> Any:
        return self._call("log_mel", samples)

    def embed(self, features: Any, firsts: Rows, lengths: Rows) -> Array:
        vectors: Array = self._call("embed", features, firsts, lengths)
        return vectors

    def close(self) -> None:
        self._networks.close()

    def _call(self, name: str, *values: Any) -> Any:
        if not isinstance(self._networks, CpuNetworks):
            try:
                return getattr(self._networks, name)(*values)
            except (RuntimeError, MemoryError):
                self._networks = CpuNetworks(self._threads)
        return getattr(self._networks, name)(*map(_on_cpu, values))


def networks_on(device: str, threads: int) -> SpeakerNetworks:
    """The networks on a device such as ``cuda:0`` or ``cpu``.

    They run on the CPU if PyTorch is missing or cannot use the GPU, even if CTranslate2 uses it.

    Raises:
        EngineUnavailableError: a library or a model file is missing or damaged.
    """
    if not device.startswith("cuda"):
        return CpuNetworks(threads)
    try:
        return GuardedNetworks(_on_gpu(device.partition(",")[0]), threads)
    except (ImportError, RuntimeError, MemoryError, AssertionError):  # the last: built without CUDA
        return CpuNetworks(threads)


@cache
def _on_gpu(device: str) -> SpeakerNetworks:
    """Cached, because loading takes longer than diarizing ten minutes."""
    import torch

    from .networks_torch import GpuNetworks

    return GpuNetworks(torch.device(device))


def _on_cpu(value: Any) -> Any:
    if isinstance(value, list):
        return [_on_cpu(each) for each in value]
    return value.cpu().numpy() if hasattr(value, "cpu") else value
