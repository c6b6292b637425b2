"""A checkpoint's sizes as ``compat`` names them."""

from __future__ import annotations

from ..compat import memory
from ..models import Checkpoint
from ..models.layouts import read_json
from ..models.tensors import Geometry


def shape_of(geometry: Geometry, model: str) -> memory.Geometry:
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
    """From the checkpoint's files, else by its name; CTranslate2's files do not contain it."""
    if checkpoint.layout == "huggingface":
        file = checkpoint.directory / "config.json"
        return shape_of(Geometry.of(read_json(file), file), checkpoint.name)
    name = checkpoint.name.removesuffix(".en")
    return next((shape for shape in memory.geometries() if shape.model == name), None)
