"""Finds which cross-attention heads tell when words start: each head alone, then the best ones
together.

Aligns the true text of fresh windows in CTranslate2 and compares with the known word starts.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import statistics
import tempfile
from pathlib import Path

import ctranslate2
import numpy as np
from judge import WINDOW_S, Direct
from tokenizers import Tokenizer

from transcribe_mcp.media.decode import read
from transcribe_mcp.quality.evaluation import Truth, load_truth

Heads = tuple[tuple[int, int], ...]


def starts(
    model: ctranslate2.models.Whisper,
    encoded: ctranslate2.StorageView,
    truth: Truth,
    tokenizer: Tokenizer,
) -> list[float]:
    """Errors in seconds of the words that have a time, their true text aligned."""
    start = [
        tokenizer.token_to_id(f"<|{name}|>")
        for name in ("startoftranscript", truth.language, "transcribe")
    ]
    text = "".join(" " + segment.text for segment in truth.segments)
    encoding = tokenizer.encode(text)
    result = model.align(encoded, start, [encoding.ids], int(WINDOW_S * 100))[0]
    first: dict[int, int] = {}
    for token, frame in result.alignments:
        first.setdefault(token, frame)
    errors = []
    position = 0
    for segment in truth.segments:
        for word in segment.words:
            position = text.index(word.text, position)
            token = next(i for i, (a, b) in enumerate(encoding.offsets) if a <= position < b)
            position += len(word.text)
            errors.append(first[token] * 0.02 - word.start)
    return errors


def with_heads(directory: Path, heads: Heads, scratch: Path) -> Path:
    """A copy of the converted model that aligns by other heads."""
    copy = Path(tempfile.mkdtemp(dir=scratch))
    for file in directory.iterdir():
        if file.name == "config.json":
            config = json.loads(file.read_text()) | {
                "alignment_heads": [list(head) for head in heads]
            }
            (copy / file.name).write_text(json.dumps(config))
        else:
            (copy / file.name).symlink_to(file)
    return copy


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="the expanded model's directory")
    parser.add_argument("audio", type=Path, help="folder of make_audio.py fresh")
    parser.add_argument("--windows", type=int, default=12)
    parser.add_argument("--best", type=int, default=4, help="heads tried together")
    arguments = parser.parse_args()
    direct = Direct(arguments.model, "int8")
    truths = load_truth(arguments.audio / "windows")[: arguments.windows]
    encoded = [direct.encode(read(truth.path)) for truth in truths]
    config = json.loads((arguments.model / "config.json").read_text())
    scratch = Path(tempfile.mkdtemp())

    def measure(heads: Heads) -> tuple[float, float]:
        copy = with_heads(direct.directory, heads, scratch)
        model = ctranslate2.models.Whisper(
            str(copy), device="cpu", compute_type="int8", intra_threads=2
        )
        pairs = zip(encoded, truths, strict=True)
        errors = [
            abs(e)
            for features, truth in pairs
            for e in starts(model, features, truth, direct.tokenizer)
        ]
        within = float(np.mean([e <= 0.1 for e in errors]))
        print(
            f"{' '.join(f'{a}.{b}' for a, b in heads):24s} median {statistics.median(errors):.3f} s"
            f"  within 0.1 s {within:.4f}",
            flush=True,
        )
        return -within, statistics.median(errors)

    every = itertools.product(
        range(config["decoder_layers"]), range(config["decoder_attention_heads"])
    )
    ranked = sorted((measure((head,)), head) for head in every)
    best = [head for _, head in ranked[: arguments.best]]
    together = {
        heads: measure(heads)
        for n in range(2, len(best) + 1)
        for heads in itertools.combinations(best, n)
    }
    measured = {(head,): figures for figures, head in ranked} | together
    winner = min(measured, key=lambda heads: measured[heads])
    shutil.rmtree(scratch)
    print(json.dumps({"alignment_heads": winner}))


if __name__ == "__main__":
    main()
