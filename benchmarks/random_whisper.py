"""Whisper models of any size with random weights, in Hugging Face's layout: speed and memory do not
depend on weights.

Every engine that loads one decodes exactly ``TOKENS`` text tokens in every window and then the end
of text, greedy, with no option set: the embedding of the end of text points along one direction,
the position embedding behind the last text token points there too and drowns everything else, and
no other special token can be chosen, since its embedding is zero. So all engines do the same work,
and end as they end with a trained model.

The tokenizer is that of the repository's own model with 51,866 ids, its unused ids renamed to
words, so that a random text splits into words as real ones do.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from transcribe_mcp.compat.memory import AUDIO_POSITIONS, TEXT_POSITIONS, Geometry, geometry

TOKENS = 100  # text tokens of a window of 30 s: fast English speech
PROMPT_TOKENS = 4  # start, language, task, no timestamps
N_VOCAB = 51_866
END_OF_TEXT = 50_257
SCALE = 0.02
LOUD = 50.0
POSITION = 10.0  # positions weigh more than tokens, or every token would be followed by itself
ONES_IN = 3  # of three tokens two begin a word
# Heads that the published models align words with.
ALIGNMENT_HEADS = {
    "base": [[3, 1], [4, 2], [4, 3], [4, 7], [5, 1], [5, 2], [5, 4], [5, 6]],
    "large-v3": [
        [7, 0],
        [10, 17],
        [12, 18],
        [13, 12],
        [16, 1],
        [17, 14],
        [19, 11],
        [21, 4],
        [24, 1],
        [25, 6],
    ],
    "large-v3-turbo": [[2, 4], [2, 11], [3, 3], [3, 6], [3, 11], [3, 14]],
}


def shape_of(model: str) -> Geometry:
    return replace(geometry(model), n_vocab=N_VOCAB)


def write_random_whisper(folder: Path, shape: Geometry, tokens: int = TOKENS) -> Path:
    """Write a float16 model of this shape into ``folder`` (made if need be); returns it."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        dict(_weights(shape, tokens)), folder / "model.safetensors", metadata={"format": "pt"}
    )
    (folder / "config.json").write_text(json.dumps(_config(shape)), encoding="utf-8")
    source = _tokenizer_model()
    settings = json.loads((source / "generation_config.json").read_text(encoding="utf-8"))
    last = [[shape.decoder_layers - 1, head] for head in range(min(6, shape.n_head))]
    settings["alignment_heads"] = ALIGNMENT_HEADS.get(shape.model, last)
    (folder / "generation_config.json").write_text(json.dumps(settings), encoding="utf-8")
    preprocessor = json.loads((source / "preprocessor_config.json").read_text(encoding="utf-8"))
    preprocessor["feature_size"] = shape.n_mels
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor), encoding="utf-8")
    (folder / "tokenizer.json").write_text(_tokenizer(source), encoding="utf-8")
    return folder


def _tokenizer_model() -> Path:
    helpers = Path(__file__).parents[1] / "tests"
    sys.path.insert(0, str(helpers))
    try:
        from whisper_nano import whisper_nano
    finally:
        sys.path.remove(str(helpers))
    return whisper_nano(128)


def _tokenizer(source: Path) -> str:
    text = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    vocabulary: dict[str, int] = text["model"]["vocab"]
    text["model"]["vocab"] = {_word(name, number): number for name, number in vocabulary.items()}
    return json.dumps(text, ensure_ascii=False)


def _word(name: str, number: int) -> str:
    if not name.startswith("<unused"):
        return name
    letters = "q" + "".join("etaoinshrd"[int(digit)] for digit in str(number))
    return letters if number % ONES_IN == 0 else f"Ġ{letters}"


def _config(shape: Geometry) -> dict[str, Any]:
    return {
        "architectures": ["WhisperForConditionalGeneration"],
        "model_type": "whisper",
        "is_encoder_decoder": True,
        "vocab_size": shape.n_vocab,
        "num_mel_bins": shape.n_mels,
        "d_model": shape.n_state,
        "encoder_layers": shape.encoder_layers,
        "decoder_layers": shape.decoder_layers,
        "encoder_attention_heads": shape.n_head,
        "decoder_attention_heads": shape.n_head,
        "encoder_ffn_dim": 4 * shape.n_state,
        "decoder_ffn_dim": 4 * shape.n_state,
        "max_source_positions": AUDIO_POSITIONS,
        "max_target_positions": TEXT_POSITIONS,
        "activation_function": "gelu",
        "dropout": 0.0,
        "scale_embedding": False,
        "tie_word_embeddings": True,
        "pad_token_id": END_OF_TEXT,
        "bos_token_id": END_OF_TEXT,
        "eos_token_id": END_OF_TEXT,
        "decoder_start_token_id": END_OF_TEXT + 1,
        "suppress_tokens": [],
        "begin_suppress_tokens": [],
        "dtype": "float16",
    }


Weights = Iterator[tuple[str, torch.Tensor]]


@dataclass(frozen=True, slots=True)
class _Layers:
    """Draws the weights of layers of width ``d``, in the order of their names."""

    d: int
    generator: torch.Generator

    def random(self, *size: int) -> torch.Tensor:
        device = self.generator.device
        values = torch.randn(size, generator=self.generator, device=device, dtype=torch.float32)
        return values.mul_(SCALE).to(torch.float16).cpu()

    def linear(self, name: str, out: int, inner: int, *, bias: bool = True) -> Weights:
        yield f"{name}.weight", self.random(out, inner)
        if bias:
            yield f"{name}.bias", self.random(out)

    def norm(self, name: str) -> Weights:
        yield f"{name}.weight", torch.ones(self.d, dtype=torch.float16)
        yield f"{name}.bias", self.random(self.d)

    def layer(self, name: str, attentions: tuple[str, ...]) -> Weights:
        for attention in attentions:
            yield from self.norm(f"{name}.{attention}_layer_norm")
            for part in ("q", "k", "v", "out"):
                projection = f"{name}.{attention}.{part}_proj"
                yield from self.linear(projection, self.d, self.d, bias=part != "k")
        yield from self.norm(f"{name}.final_layer_norm")
        yield from self.linear(f"{name}.fc1", 4 * self.d, self.d)
        yield from self.linear(f"{name}.fc2", self.d, 4 * self.d)


def _weights(shape: Geometry, tokens: int) -> Weights:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    generator = torch.Generator(device).manual_seed(0)
    d = shape.n_state
    layers = _Layers(d, generator)
    random = layers.random
    yield "model.encoder.conv1.weight", random(d, shape.n_mels, 3)
    yield "model.encoder.conv1.bias", random(d)
    yield "model.encoder.conv2.weight", random(d, d, 3)
    yield "model.encoder.conv2.bias", random(d)
    yield "model.encoder.embed_positions.weight", random(AUDIO_POSITIONS, d)
    yield from layers.norm("model.encoder.layer_norm")
    for i in range(shape.encoder_layers):
        yield from layers.layer(f"model.encoder.layers.{i}", ("self_attn",))
    end = torch.randn(d, generator=generator, device=device).cpu()
    end -= end.mean()
    tokens_embedded = random(shape.n_vocab, d)
    tokens_embedded[END_OF_TEXT:] = 0
    tokens_embedded[END_OF_TEXT] = (end * SCALE / 2).to(torch.float16)
    positions = random(TEXT_POSITIONS, d) * POSITION
    positions[PROMPT_TOKENS + tokens - 1] = (end * LOUD).to(torch.float16)
    yield "model.decoder.embed_tokens.weight", tokens_embedded
    yield "model.decoder.embed_positions.weight", positions
    yield from layers.norm("model.decoder.layer_norm")
    for i in range(shape.decoder_layers):
        yield from layers.layer(f"model.decoder.layers.{i}", ("self_attn", "encoder_attn"))


if __name__ == "__main__":
    write_random_whisper(Path(sys.argv[2]), shape_of(sys.argv[1]))
