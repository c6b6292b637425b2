"""Device, precision and batch size of a model.

The engines, ``models`` and ``doctor`` use it, so their answers agree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from .memory import (
    AUDIO_POSITIONS,
    BATCHES,
    USABLE_SHARE,
    WEIGHT_BYTES,
    WHISPER,
    Geometry,
    memory_need,
)
from .versions import compare

CPU = "cpu"
CTRANSLATE2 = "ctranslate2"
AUTO = "auto"
INT8_AUDIO = "+int8"  # 8-bit keys and values of the audio; on a CPU also 8-bit decoder products

# Audio, queued windows and spectra beside the model: half an hour twice while a block is added.
LISTENING_BYTES = 400_000_000
# Cross-attention caches beside those of the decoded batch: one is aligned, one is encoded.
BATCHES_BESIDE: Mapping[str, int] = {WHISPER: 2}
CPU_BATCH_SIZE = 8  # decoding steps do not use more than four cores
CUDA_BATCH_SIZE = 24  # more windows are not faster
CORES_PER_REPLICA = 4
# The engine ``whisper`` on a GPU. A decoding step has a fixed cost per layer, so deep decoders
# want large batches. Shallow ones want frequent progress and a short last alignment.
MIN_WINDOWS = 64
MAX_WINDOWS = 128
WINDOWS_PER_LAYER = 8
# The engine ``whisper`` on a CPU: cross-attention caches stay within a gigabyte. In int8 there are
# none, but batches stay short: each reports progress and is lost with its worker.
CPU_WINDOWS = (4, 16)
CPU_AUDIO_BYTES = 1 << 30
INT8_WINDOWS = (8, 32)
INT8_BATCH_WEIGHTS = 1 << 30  # weights of the encoder's layers, times windows
ENCODER_SQUARES = 12  # weights of a layer in squares of its width: 4 attention, 8 MLP


@dataclass(frozen=True, slots=True)
class Hardware:
    """A device that can run a model.

    Attributes:
        name: ``cpu``, ``cuda`` or ``cuda:N``.
        label: product name.
        capability: compute capability of a GPU; empty if unknown.
        free_bytes: free memory; ``None`` if unknown.
        threads: CPU threads of one process.
        products: those of ``int8`` and ``bfloat16`` with fast products on the CPU.
    """

    name: str
    label: str = ""
    capability: str = ""
    free_bytes: int | None = None
    threads: int = 1
    products: frozenset[str] = frozenset()

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]


@dataclass(frozen=True, slots=True)
class DeviceChoice:
    """How a model runs. ``need_bytes`` is ``None`` if its size or its need is unknown."""

    engine: str
    device: str
    compute_type: str
    batch_size: int
    need_bytes: int | None


@dataclass(frozen=True, slots=True)
class Precisions:
    """Compute types of an engine, best first, from this compute capability on."""

    engine: str
    kind: str
    names: tuple[str, ...]
    capability: str = ""
    products: frozenset[str] = frozenset()


# The first row that holds counts. bfloat16 needs compute capability 8.0 (CUDA C++ Programming
# Guide, "Arithmetic Instructions"). CTranslate2: docs/quantization.md, "Supported on GPU".
PRECISIONS = (
    Precisions(
        WHISPER,
        "cuda",
        ("bfloat16+int8", "float16+int8", "float32+int8", "bfloat16", "float16", "float32"),
        capability="8.0",
    ),
    Precisions(WHISPER, "cuda", ("float16+int8", "float32+int8", "float16", "float32")),
    Precisions(
        WHISPER,
        CPU,
        ("int8", "bfloat16+int8", "float32", "bfloat16"),
        products=frozenset({"int8", "bfloat16"}),
    ),
    Precisions(WHISPER, CPU, ("int8", "float32", "bfloat16"), products=frozenset({"int8"})),
    Precisions(WHISPER, CPU, ("float32", "bfloat16")),
    Precisions(CTRANSLATE2, "cuda", ("float16", "int8_float32", "float32"), capability="7.0"),
    Precisions(CTRANSLATE2, "cuda", ("float32",), capability="6.2"),
    Precisions(CTRANSLATE2, "cuda", ("int8_float32", "float32"), capability="6.1"),
    Precisions(CTRANSLATE2, "cuda", ("float32",)),
    Precisions(CTRANSLATE2, CPU, ("int8",)),
)


def precisions(engine: str, hardware: Hardware) -> tuple[str, ...]:
    """Compute types of the engine on this device, best first. ``auto`` uses the first."""

    def holds(row: Precisions) -> bool:
        if (row.engine, row.kind) != (engine, hardware.kind):
            return False
        is_capable = not hardware.capability or (
            (compare(hardware.capability, row.capability or "0") or 0) >= 0
        )
        return is_capable and row.products <= hardware.products

    return next(row.names for row in PRECISIONS if holds(row))


def choose(
    engine: str, hardware: Hardware, shape: Geometry | None, compute_type: str = AUTO
) -> DeviceChoice:
    """Precision and batch size of a model on this device.

    Args:
        engine: ``whisper`` or ``ctranslate2``.
        shape: of the model; ``None`` if unknown.
    """
    if compute_type == AUTO:
        compute_type = precisions(engine, hardware)[0]
    batch = _batch_size(engine, hardware, shape, compute_type)
    need = None if shape is None else _need_bytes(engine, hardware, shape, (compute_type, batch))
    return DeviceChoice(engine, hardware.name, compute_type, batch, need)


def batch_that_fits(
    shape: Geometry, engine: str, compute_type: str, free_bytes: int, most: int
) -> int:
    """The largest batch up to ``most``, at least 1.

    Args:
        engine, compute_type: see ``memory.memory_need``.
        free_bytes: before the model is loaded. A tenth of it stays free for others.
        most: the fastest batch with unlimited memory.
    """
    limit = free_bytes * USABLE_SHARE
    fitting = (
        batch
        for batch in sorted((size for size in BATCHES if size <= most), reverse=True)
        if _total_bytes(shape, engine, compute_type, batch) <= limit
    )
    return next(fitting, 1)


def cpu_replicas(threads: int) -> int:
    """Windows that CTranslate2 processes in parallel; on two cores one per core is fastest."""
    return max(1, threads // CORES_PER_REPLICA, min(2, threads))


def best_batch(decoder_layers: int) -> int:
    """Windows per batch of the engine ``whisper`` on a GPU with unlimited memory."""
    return min(MAX_WINDOWS, max(MIN_WINDOWS, WINDOWS_PER_LAYER * decoder_layers))


def _batch_size(engine: str, hardware: Hardware, shape: Geometry | None, compute_type: str) -> int:
    ours = shape if engine == WHISPER else None
    if hardware.kind == CPU:
        return _cpu_windows(ours, compute_type) if ours else CPU_BATCH_SIZE
    most = best_batch(ours.decoder_layers) if ours else CUDA_BATCH_SIZE
    free_bytes = hardware.free_bytes
    if shape is None or free_bytes is None or compute_type.partition("+")[0] not in WEIGHT_BYTES:
        return most
    return batch_that_fits(shape, engine, compute_type, free_bytes, most)


def _cpu_windows(shape: Geometry, compute_type: str) -> int:
    if compute_type.endswith("int8"):
        least, most = INT8_WINDOWS
        weights = shape.encoder_layers * shape.n_state**2 * ENCODER_SQUARES
        return max(least, min(most, INT8_BATCH_WEIGHTS // weights))
    least, most = CPU_WINDOWS
    window_bytes = shape.decoder_layers * 2 * AUDIO_POSITIONS * shape.n_state * 4
    return max(least, min(most, CPU_AUDIO_BYTES // window_bytes))


def _need_bytes(
    engine: str, hardware: Hardware, shape: Geometry, how: tuple[str, int]
) -> int | None:
    """Memory of a run. ``how``: precision and batch size."""
    compute_type, batch = how
    if compute_type.partition("+")[0] not in WEIGHT_BYTES:
        return None
    if hardware.kind == "cuda":
        return _total_bytes(shape, engine, compute_type, batch)
    if engine == WHISPER:
        return None  # not measured
    # Each replica encodes its windows one by one; they are decoded together.
    one = memory_need(shape, CPU, compute_type, 1)
    need = memory_need(shape, CPU, compute_type, batch)
    encoding_bytes = cpu_replicas(hardware.threads) * one.encoding_bytes
    return replace(need, encoding_bytes=encoding_bytes).total_bytes + LISTENING_BYTES


def _total_bytes(shape: Geometry, engine: str, compute_type: str, batch: int) -> int:
    need = memory_need(shape, engine, compute_type, batch)
    beside = BATCHES_BESIDE.get(engine, 1) * need.audio_cache_bytes
    return need.total_bytes + beside + LISTENING_BYTES
