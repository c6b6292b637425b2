"""GPUs, cores, memory and driver of a machine, read from its facts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .facts import Facts
from .versions import compare


@dataclass(frozen=True, slots=True)
class Gpu:
    name: str
    capability: str
    total_bytes: int
    free_bytes: int | None
    mig: bool

    def __str__(self) -> str:
        return f"{self.name} ({self.capability})" if self.capability else self.name

    def at_least(self, capability: str) -> bool:
        return (compare(self.capability, capability) or 0) >= 0 if self.capability else False


def gpus_of(facts: Facts) -> list[Gpu]:
    """The GPUs that the driver reports; an unknown capability is empty."""
    return [
        Gpu(
            str(item.get("name", "GPU")),
            str(item.get("compute_capability", "")),
            _whole(item.get("memory_total_bytes")) or 0,
            _whole(item.get("memory_free_bytes")),
            item.get("mig") is True,
        )
        for item in facts.value("nvidia.gpus", [])
    ]


def gpu_name(index: int) -> str:
    """``cuda`` for the first GPU, ``cuda:N`` for others."""
    return f"cuda:{index}" if index else "cuda"


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def usable_cores(facts: Facts) -> int | None:
    """Physical cores, limited by CPU affinity and by the quota (rounded up)."""
    counts = [facts.value("cpu.physical"), facts.value("cpu.usable")]
    quota = facts.value("cpu.quota")
    counts.append(max(1, -int(-quota // 1)) if quota else None)
    known = [count for count in counts if count]
    return min(known) if known else None


def usable_memory_bytes(facts: Facts) -> int | None:
    sizes = [facts.value(name) for name in ("memory.total_bytes", "memory.limit_bytes")]
    known = [size for size in sizes if size]
    return min(known) if known else None


def effective_driver(facts: Facts) -> str:
    """The driver that programs use: the user-mode one if it is newer and works."""
    kernel = str(facts.value("nvidia.kernel_driver") or facts.value("nvidia.nvml_driver") or "")
    user = str(facts.value("nvidia.user_driver", ""))
    newer = (compare(user, kernel) or 0) > 0
    return user if newer and facts.value("nvidia.cuinit") == 0 else kernel
