"""The packed models' format, and their expansion into ordinary Hugging Face directories.

Needs NumPy and safetensors only: the test suite expands the models on first use.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

SCALE = ".scale"
UNUSED_ROW_GAIN = 2.0

# large-v3's layout: 50,256 ids of text, the empty token, then the special tokens in this order.
LARGE_TEXT_IDS = 50_256
LARGE_LANGUAGES = (
    "en", "zh", "de", "es", "ru", "ko", "fr", "ja", "pt", "tr", "pl", "ca", "nl", "ar", "sv", "it",
    "id", "hi", "fi", "vi", "he", "uk", "el", "ms", "cs", "ro", "da", "hu", "ta", "no", "th", "ur",
    "hr", "bg", "lt", "la", "mi", "ml", "cy", "sk", "te", "fa", "lv", "bn", "sr", "az", "sl", "kn",
    "et", "mk", "br", "eu", "is", "hy", "ne", "mn", "bs", "kk", "sq", "sw", "gl", "mr", "pa", "si",
    "km", "sn", "yo", "so", "af", "oc", "ka", "be", "tg", "sd", "gu", "am", "yi", "lo", "uz", "fo",
    "ht", "ps", "tk", "nn", "mt", "sa", "lb", "my", "bo", "tl", "mg", "as", "tt", "haw", "ln", "ha",
    "ba", "jw", "su", "yue",
)  # fmt: skip
LARGE_SPECIALS = (
    "<|endoftext|>", "<|startoftranscript|>", *(f"<|{code}|>" for code in LARGE_LANGUAGES),
    "<|translate|>", "<|transcribe|>", "<|startoflm|>", "<|startofprev|>", "<|nospeech|>",
    "<|notimestamps|>", *(f"<|{i * 0.02:.2f}|>" for i in range(1501)),
)  # fmt: skip


def pack_rows(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Matrices as int8 with one half-precision scale a row (first axis); vectors in half
    precision.
    """
    packed: dict[str, np.ndarray] = {}
    for name, tensor in tensors.items():
        if tensor.ndim < 2:
            packed[name] = tensor.astype(np.float16)
            continue
        rows = tensor.reshape(len(tensor), -1)
        scale = (np.abs(rows).max(axis=1) / 127).clip(min=1e-7).astype(np.float16)
        quantized = np.rint(rows / scale.astype(np.float32)[:, None]).clip(-127, 127)
        packed[name] = quantized.astype(np.int8).reshape(tensor.shape)
        packed[name + SCALE] = scale
    return packed


def unpack_rows(packed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """float32 tensors from pack_rows' output."""
    tensors: dict[str, np.ndarray] = {}
    for name, tensor in packed.items():
        if name.endswith(SCALE):
            continue
        tensors[name] = tensor.astype(np.float32)
        if name + SCALE in packed:
            scale = packed[name + SCALE].astype(np.float32)
            tensors[name] *= scale.reshape(-1, *[1] * (tensor.ndim - 1))
    return tensors


def sinusoids(length: int, channels: int) -> np.ndarray:
    """Whisper's fixed encoder positions: (length, channels) float32."""
    scales = np.exp(-np.arange(channels // 2) * (np.log(10_000.0) / (channels // 2 - 1)))
    angles = np.arange(length)[:, None] * scales[None]
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype(np.float32)


def expand(packed: Path, cache: Path, n_mels: int = 80) -> Path:
    """Writes the model with 80 or 128 mels below cache as a Hugging Face directory, once; returns
    the directory.
    """
    digest = hashlib.sha256((packed / "weights.safetensors").read_bytes())
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        digest.update((packed / name).read_bytes())
    digest.update(Path(__file__).read_bytes())
    directory = (
        cache / f"whisper-nano{'' if n_mels == 80 else f'-{n_mels}'}-{digest.hexdigest()[:12]}"
    )
    if directory.is_dir():
        return directory
    cache.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix="unfinished-", dir=cache))
    tensors = unpack_rows(load_file(packed / "weights.safetensors"))
    documents = {
        name: json.loads((packed / name).read_text(encoding="utf-8"))
        for name in (
            "config.json",
            "generation_config.json",
            "preprocessor_config.json",
            "tokenizer.json",
        )
    }
    config = documents["config.json"]
    tensors["model.encoder.embed_positions.weight"] = sinusoids(
        config["max_source_positions"], config["d_model"]
    )
    convolution = {name: tensors.pop(name) for name in list(tensors) if "conv1_128" in name}
    if n_mels == 128:
        tensors |= {
            name.replace("conv1_128", "conv1"): tensor for name, tensor in convolution.items()
        }
        _relay(tensors, documents)
    save_file(
        {name: tensor.astype(np.float16) for name, tensor in tensors.items()},
        unfinished / "model.safetensors",
    )
    for name, document in documents.items():
        (unfinished / name).write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    try:
        unfinished.rename(directory)
    except OSError:  # another process was first
        shutil.rmtree(unfinished)
    return directory


def _relay(tensors: dict[str, np.ndarray], documents: dict[str, dict]) -> None:
    """Moves the model onto large-v3's vocabulary."""
    tokenizer, config, generation = (
        documents[f"{name}.json"] for name in ("tokenizer", "config", "generation_config")
    )
    own_text: dict[str, int] = {
        token: i for token, i in tokenizer["model"]["vocab"].items() if token
    }
    own_special = {added["content"]: added["id"] for added in tokenizer["added_tokens"]}
    fillers = {f"<unused{i}>": i for i in range(len(own_text), LARGE_TEXT_IDS)}
    special = {token: LARGE_TEXT_IDS + 1 + i for i, token in enumerate(LARGE_SPECIALS)}
    size = LARGE_TEXT_IDS + 1 + len(LARGE_SPECIALS)

    own = tensors["model.decoder.embed_tokens.weight"]
    unused = own[own_special["<|startoflm|>"]] * UNUSED_ROW_GAIN  # taught never to be an answer
    table = np.repeat(unused[None], size, axis=0)
    for token, i in {**own_text, **own_special}.items():
        table[special[token] if token in special else own_text[token]] = own[i]
    tensors["model.decoder.embed_tokens.weight"] = table

    tokenizer["model"]["vocab"] = own_text | fillers | {"": LARGE_TEXT_IDS}
    tokenizer["added_tokens"] = [
        {
            "id": i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for token, i in special.items()
    ]
    end = special["<|endoftext|>"]
    start = special["<|startoftranscript|>"]
    ends = {
        "pad_token_id": end,
        "bos_token_id": end,
        "eos_token_id": end,
        "decoder_start_token_id": start,
    }
    config |= {"num_mel_bins": 128, "vocab_size": size, **ends}
    generation |= {
        **ends,
        "lang_to_id": {token: i for token, i in special.items() if token[2:-2] in LARGE_LANGUAGES},
        "task_to_id": {task: special[f"<|{task}|>"] for task in ("transcribe", "translate")},
        "no_timestamps_token_id": special["<|notimestamps|>"],
        "prev_sot_token_id": special["<|startofprev|>"],
    }
    documents["preprocessor_config.json"]["feature_size"] = 128


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("packed", type=Path, help="folder of the packed model")
    parser.add_argument(
        "out", type=Path, help="folder below which the Hugging Face directory is made"
    )
    parser.add_argument("--mels", type=int, choices=(80, 128), default=80)
    arguments = parser.parse_args()
    print(os.fspath(expand(arguments.packed, arguments.out, arguments.mels)))


if __name__ == "__main__":
    main()
