"""How many windows at once, from the memory that is free: by ``compat``'s model of what an engine takes."""

from __future__ import annotations

from ..checkpoints import Checkpoint
from ..checkpoints.layouts import read_json
from ..checkpoints.tensors import Geometry
from ..compat import memory

# What listens beside the model holds: half an hour of audio twice while a block is added, the windows waiting, spectra.
LISTENING_BYTES = 400_000_000
# Whose keys and values are there beside those of a batch: of one, words are timed. Ours encodes the next one in parts,
# as its windows come, and the last part may be as large as a batch.
BATCHES_BESIDE = {memory.WHISPER: 2}


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


def batch_that_fits(shape: memory.Geometry, engine: str, compute_type: str, free_bytes: int, most: int) -> int:
    """The largest batch up to ``most``, at least 1.

    Args:
        engine, compute_type: see ``compat.memory.memory_need``.
        free_bytes: before the model is loaded. A tenth of it is left to others.
        most: what is fastest where there is room for anything.
    """
    limit = free_bytes * memory.USABLE_SHARE
    for batch in sorted((size for size in memory.BATCHES if size <= most), reverse=True):
        need = memory.memory_need(shape, engine, compute_type, batch)
        if need.total_bytes + BATCHES_BESIDE.get(engine, 1) * need.audio_cache_bytes + LISTENING_BYTES <= limit:
            return batch
    return 1
