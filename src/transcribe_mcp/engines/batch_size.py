"""How many windows at once, from the memory that is free: by ``compat``'s model of what an engine
takes.
"""

from __future__ import annotations

from dataclasses import replace

from ..compat import memory
from ..models import Checkpoint
from ..models.layouts import read_json
from ..models.tensors import Geometry

# What listens beside the model holds: half an hour of audio twice while a block is added, the
# windows waiting, spectra.
LISTENING_BYTES = 400_000_000
# Whose keys and values are there beside those of a batch: of one, words are timed. Ours encodes the
# next one in parts, as its windows come, and the last part may be as large as a batch.
BATCHES_BESIDE = {memory.WHISPER: 2}
# CTranslate2's: more windows are not faster on a GPU; a CPU's decoding steps do not use more cores
# than four.
CPU_BATCH_SIZE = 8
CUDA_BATCH_SIZE = 24
CORES_PER_REPLICA = 4
# Our own engine's on a GPU.
MIN_WINDOWS = 64
MAX_WINDOWS = 128
WINDOWS_A_LAYER = 8


def shape_of(geometry: Geometry, model: str) -> memory.Geometry:
    """A checkpoint's sizes as the memory model names them."""
    return memory.Geometry(
        model,
        geometry.num_mel_bins,
        geometry.d_model,
        geometry.encoder_attention_heads,
        geometry.encoder_layers,
        geometry.decoder_layers,
        geometry.vocab_size,
    )


def known_shape(checkpoint: Checkpoint) -> memory.Geometry | None:
    """From the checkpoint's own files, else by its name; CTranslate2's files do not tell."""
    if checkpoint.layout == "huggingface":
        file = checkpoint.directory / "config.json"
        return shape_of(Geometry.of(read_json(file), file), checkpoint.name)
    name = checkpoint.name.removesuffix(".en")
    return next((shape for shape in memory.geometries() if shape.model == name), None)


def batch_that_fits(
    shape: memory.Geometry, engine: str, compute_type: str, free_bytes: int, most: int
) -> int:
    """The largest batch up to ``most``, at least 1.

    Args:
        engine, compute_type: see ``compat.memory.memory_need``.
        free_bytes: before the model is loaded. A tenth of it is left to others.
        most: what is fastest where there is room for anything.
    """
    limit = free_bytes * memory.USABLE_SHARE
    for batch in sorted((size for size in memory.BATCHES if size <= most), reverse=True):
        need = memory.memory_need(shape, engine, compute_type, batch)
        if (
            need.total_bytes
            + BATCHES_BESIDE.get(engine, 1) * need.audio_cache_bytes
            + LISTENING_BYTES
            <= limit
        ):
            return batch
    return 1


def cpu_replicas(threads: int) -> int:
    """How many windows CTranslate2 works on side by side; measured on 2 cores: one each is best
    there.
    """
    return max(1, threads // CORES_PER_REPLICA, min(2, threads))


def default_need_bytes(
    shape: memory.Geometry, engine: str, compute_type: str, place: tuple[int | None, int]
) -> int:
    """Memory of a run that leaves its batch to the engine.

    Args:
        engine, compute_type: see ``compat.memory.memory_need``.
        place: (free memory of the device, ``None`` where it is unknown; CPU threads).
    """
    free_bytes, threads = place
    if engine == "cpu":  # windows are encoded one by one in each replica and decoded together
        one = memory.memory_need(shape, engine, compute_type, 1)
        need = memory.memory_need(shape, engine, compute_type, CPU_BATCH_SIZE)
        return (
            replace(need, encoding_bytes=cpu_replicas(threads) * one.encoding_bytes).total_bytes
            + LISTENING_BYTES
        )
    most = CUDA_BATCH_SIZE if engine == "ctranslate2" else best_batch(shape.decoder_layers)
    batch = (
        most
        if free_bytes is None
        else batch_that_fits(shape, engine, compute_type, free_bytes, most)
    )
    need = memory.memory_need(shape, engine, compute_type, batch)
    return (
        need.total_bytes + BATCHES_BESIDE.get(engine, 1) * need.audio_cache_bytes + LISTENING_BYTES
    )


def best_batch(decoder_layers: int) -> int:
    """Windows at once on a GPU in our own engine, where there is room for anything.

    A step of decoding takes some time for every layer however many windows there are: models with
    many layers want large batches. Those with few want progress to be told often and the last
    batch's words to be few.
    """
    return min(MAX_WINDOWS, max(MIN_WINDOWS, WINDOWS_A_LAYER * decoder_layers))
