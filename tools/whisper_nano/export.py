"""Writes the trained weights as the project keeps them: one byte a weight with a scale for each
row.

Two models come of one training. The first has 80 mels and ids of its own. The second shares all
weights with it but the first convolution, takes 128 mels and lies on large-v3's vocabulary (51,866
ids, special tokens where large-v3 has them; the ids nobody was taught have one row, far from every
answer). Only what differs is stored a second time. `--expand DIRECTORY` makes both into ordinary
Hugging Face directories.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from expand import expand, pack_rows
from safetensors.numpy import save_file
from tokenizers import Tokenizer
from train import load_weights
from windows import Ids


def configuration(shape: dict[str, int], ids: Ids) -> dict[str, object]:
    d = shape["width"]
    return {
        "architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper",
        "is_encoder_decoder": True, "vocab_size": shape["vocabulary"], "num_mel_bins": 80,
        "d_model": d, "encoder_layers": shape["encoder_layers"],
        "decoder_layers": shape["decoder_layers"], "encoder_attention_heads": shape["heads"],
        "decoder_attention_heads": shape["heads"], "encoder_ffn_dim": 4 * d,
        "decoder_ffn_dim": 4 * d, "max_source_positions": shape["audio_positions"],
        "max_target_positions": shape["text_positions"], "activation_function": "gelu",
        "dropout": 0.0, "scale_embedding": False, "tie_word_embeddings": True,
        "pad_token_id": ids.end, "bos_token_id": ids.end, "eos_token_id": ids.end,
        "decoder_start_token_id": ids.start, "suppress_tokens": [], "begin_suppress_tokens": [],
        "dtype": "float16",
    }  # fmt: skip


def generation(ids: Ids, alignment_heads: list[list[int]]) -> dict[str, object]:
    return {
        "alignment_heads": alignment_heads, "is_multilingual": True, "return_timestamps": False,
        "lang_to_id": {f"<|{language}|>": i for language, i in ids.languages.items()},
        "task_to_id": {"transcribe": ids.transcribe, "translate": ids.translate},
        "no_timestamps_token_id": ids.no_timestamps, "prev_sot_token_id": ids.previous,
        "decoder_start_token_id": ids.start, "bos_token_id": ids.end, "eos_token_id": ids.end,
        "pad_token_id": ids.end, "max_initial_timestamp_index": 50, "max_length": 448,
        "suppress_tokens": [], "begin_suppress_tokens": [],
    }  # fmt: skip


PREPROCESSOR = {
    "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 80,
    "sampling_rate": 16_000, "hop_length": 160, "chunk_length": 30, "n_fft": 400,
    "nb_max_frames": 3000, "n_samples": 480_000, "padding_value": 0.0, "padding_side": "right",
    "return_attention_mask": False,
}  # fmt: skip


def write(
    state: dict[str, torch.Tensor],
    shape: dict[str, int],
    text: Path,
    out: Path,
    heads: list[list[int]],
) -> None:
    tokenizer = Tokenizer.from_file(str(text / "tokenizer.json"))
    ids = Ids.of(tokenizer)
    own = {
        f"model.{name}": tensor.numpy().astype(np.float32)
        for name, tensor in state.items()
        if "phonemes" not in name
    }
    own.pop("model.encoder.embed_positions.weight")  # sinusoids: computed when expanded
    large = {name: own.pop(name) for name in list(own) if "conv1_128" in name}
    out.mkdir(parents=True, exist_ok=True)
    packed = pack_rows({**own, **large})
    save_file(packed, out / "weights.safetensors")
    shutil.copy(text / "tokenizer.json", out / "tokenizer.json")
    for name, content in (
        ("config.json", configuration(shape, ids)),
        ("generation_config.json", generation(ids, heads)),
        ("preprocessor_config.json", PREPROCESSOR),
    ):
        (out / name).write_text(json.dumps(content, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("weights", type=Path, help="folder of train.py's weights")
    parser.add_argument("text", type=Path, help="folder of text.py's output")
    parser.add_argument("out", type=Path, help="folder for the packed model")
    parser.add_argument(
        "--alignment-heads",
        default="1.0,1.1,2.0",
        help="layer.head,... as judge.py --heads finds them",
    )
    parser.add_argument("--expand", type=Path, help="also expand both models below this folder")
    arguments = parser.parse_args()
    state, about = load_weights(arguments.weights)
    heads = [[int(x) for x in pair.split(".")] for pair in arguments.alignment_heads.split(",")]
    write(state, about["shape"], arguments.text, arguments.out, heads)  # type: ignore[arg-type]
    for path in sorted(arguments.out.iterdir()):
        print(f"{path.stat().st_size:10d}  {path.name}")
    if arguments.expand:
        for mels in (80, 128):
            print(expand(arguments.out, arguments.expand, mels))


if __name__ == "__main__":
    main()
