"""Whisper checkpoints with random weights, small enough to make on the spot, in Hugging Face's
layout.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

D_MODEL, FFN, LAYERS, HEADS, POSITIONS = 16, 32, 2, 2, 1500
TEXT_TOKENS = [chr(c) for c in range(33, 127)] + [chr(c) for c in range(0xA1, 0x144) if c != 0xAD][
    :162
]
SPECIALS = [
    "<|endoftext|>",
    "<|startoftranscript|>",
    "<|en|>",
    "<|de|>",
    "<|translate|>",
    "<|transcribe|>",
]
SPECIALS += ["<|startoflm|>", "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>"]
TIMESTAMPS = 11


@dataclass(frozen=True)
class Recipe:
    """What to make. ``tokenizer``: ``json``, or ``files`` for vocab.json, merges.txt and
    added_tokens.json.
    """

    n_mels: int = 80
    dtype: str = "F16"
    shards: int = 1
    multilingual: bool = True
    empty_token: bool | None = None  # None: as Whisper has it, in multilingual vocabularies only
    tokenizer: str = "json"
    encoder_layers: int = LAYERS
    prefix: str = "model."
    declared: bool = True  # generation_config.json is there


def text_tokens(recipe: Recipe) -> list[str]:
    empty = recipe.multilingual if recipe.empty_token is None else recipe.empty_token
    return TEXT_TOKENS + ([""] if empty else [])


def vocab_size(recipe: Recipe) -> int:
    return len(text_tokens(recipe)) + len(SPECIALS) + TIMESTAMPS


def token_id(recipe: Recipe, token: str) -> int:
    return len(text_tokens(recipe)) + SPECIALS.index(token)


def shapes(recipe: Recipe) -> dict[str, tuple[int, ...]]:
    d, square = D_MODEL, (D_MODEL, D_MODEL)
    named: dict[str, tuple[int, ...]] = {
        "encoder.conv1.weight": (d, recipe.n_mels, 3),
        "encoder.conv1.bias": (d,),
        "encoder.conv2.weight": (d, d, 3),
        "encoder.conv2.bias": (d,),
        "encoder.embed_positions.weight": (POSITIONS, d),
        "decoder.embed_positions.weight": (448, d),
        "decoder.embed_tokens.weight": (vocab_size(recipe), d),
    }
    for side, layers in (("encoder", recipe.encoder_layers), ("decoder", LAYERS)):
        norms = [f"{side}.layer_norm"]
        for number in range(layers):
            layer = f"{side}.layers.{number}"
            attentions = [f"{layer}.self_attn"] + (
                [f"{layer}.encoder_attn"] if side == "decoder" else []
            )
            for attention in attentions:
                norms.append(f"{attention}_layer_norm")
                named |= {
                    f"{attention}.{part}.weight": square
                    for part in ("q_proj", "k_proj", "v_proj", "out_proj")
                }
                named |= {
                    f"{attention}.{part}.bias": (d,) for part in ("q_proj", "v_proj", "out_proj")
                }
            norms.append(f"{layer}.final_layer_norm")
            named |= {f"{layer}.fc1.weight": (FFN, d), f"{layer}.fc1.bias": (FFN,)}
            named |= {f"{layer}.fc2.weight": (d, FFN), f"{layer}.fc2.bias": (d,)}
        named |= {f"{norm}.{part}": (d,) for norm in norms for part in ("weight", "bias")}
    return named


def weights(recipe: Recipe) -> dict[str, NDArray[np.float32]]:
    """By name without prefix; values that float16 and bfloat16 hold exactly, so that precisions can
    be compared.
    """
    random = np.random.default_rng(7)
    return {
        name: random.integers(-96, 97, shape).astype(np.float32) / 128
        for name, shape in shapes(recipe).items()
    }


def write_checkpoint(directory: Path, recipe: Recipe = Recipe()) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    config = {
        "model_type": "whisper",
        "d_model": D_MODEL,
        "encoder_layers": recipe.encoder_layers,
        "decoder_layers": LAYERS,
        "encoder_attention_heads": HEADS,
        "decoder_attention_heads": HEADS,
        "encoder_ffn_dim": FFN,
        "decoder_ffn_dim": FFN,
        "max_source_positions": POSITIONS,
        "max_target_positions": 448,
        "num_mel_bins": recipe.n_mels,
        "vocab_size": vocab_size(recipe),
    }
    write_json(directory / "config.json", config)
    write_json(directory / "preprocessor_config.json", {"feature_size": recipe.n_mels})
    if recipe.declared:
        write_json(directory / "generation_config.json", _generation(recipe))
    _write_tokenizer(directory, recipe)
    _write_weights(directory, recipe)
    return directory


def write_json(file: Path, content: object) -> None:
    file.write_text(json.dumps(content), encoding="utf-8")


def _generation(recipe: Recipe) -> dict[str, object]:
    # The second head does not exist: published lists have had such.
    generation: dict[str, object] = {
        "alignment_heads": [[1, 0], [31, 3]],
        "suppress_tokens": [3, 4],
    }
    generation["is_multilingual"] = recipe.multilingual
    if recipe.multilingual:
        generation["lang_to_id"] = {
            token: token_id(recipe, token) for token in ("<|en|>", "<|de|>")
        }
    return generation


def _write_tokenizer(directory: Path, recipe: Recipe) -> None:
    text = {token: number for number, token in enumerate(text_tokens(recipe))}
    added = {token: len(text) + number for number, token in enumerate(SPECIALS)}
    if recipe.tokenizer == "files":
        write_json(directory / "vocab.json", text)
        write_json(directory / "added_tokens.json", added)
        (directory / "merges.txt").write_text("#version: 0.2\n", encoding="utf-8")
        return
    flags = {
        "single_word": False,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "special": True,
    }
    content = {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": token, **flags} for token, number in added.items()
        ],
        "pre_tokenizer": {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        },
        "decoder": {
            "type": "ByteLevel",
            "add_prefix_space": True,
            "trim_offsets": True,
            "use_regex": True,
        },
        "model": {"type": "BPE", "vocab": text, "merges": []},
    }
    write_json(directory / "tokenizer.json", content)


def _write_weights(directory: Path, recipe: Recipe) -> None:
    tensors = {recipe.prefix + name: values for name, values in weights(recipe).items()}
    if recipe.shards == 1:
        _write_safetensors(directory / "model.safetensors", tensors, recipe.dtype)
        return
    names = sorted(tensors)
    parts = {
        n: f"model-{i % recipe.shards + 1:05}-of-{recipe.shards:05}.safetensors"
        for i, n in enumerate(names)
    }
    for part in sorted(set(parts.values())):
        _write_safetensors(
            directory / part, {n: tensors[n] for n in names if parts[n] == part}, recipe.dtype
        )
    write_json(directory / "model.safetensors.index.json", {"weight_map": parts})


def _write_safetensors(file: Path, tensors: dict[str, NDArray[np.float32]], dtype: str) -> None:
    if dtype != "BF16":
        save_file(
            {
                n: v.astype({"F16": np.float16, "F32": np.float32}[dtype])
                for n, v in tensors.items()
            },
            file,
        )
        return
    header, data = {}, b""  # NumPy has no bfloat16: by hand
    for name, values in tensors.items():
        bits = (values.view(np.uint32) >> 16).astype(np.uint16).tobytes()
        header[name] = {
            "dtype": dtype,
            "shape": values.shape,
            "data_offsets": [len(data), len(data) + len(bits)],
        }
        data += bits
    encoded = json.dumps(header).encode()
    file.write_bytes(len(encoded).to_bytes(8, "little") + encoded + data)
