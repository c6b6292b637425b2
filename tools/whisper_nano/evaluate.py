"""Greedy word error rate on held-out speech, quick enough to run while training. judge.py is the
full judge.
"""

from __future__ import annotations

import pickle
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from batches import Renderer
from make_speech import SHARD_SAMPLES
from model import Whisper
from speech import SAMPLE_RATE_HZ, Record
from tokenizers import Tokenizer
from torch import Tensor
from windows import WINDOW_S, Ids, Piece, draw_layout, lay_out

LONGEST_ANSWER = 200


@dataclass(frozen=True, slots=True)
class Scores:
    """Word error rate by language, and the share of windows whose language was found."""

    word_errors: dict[str, float]
    language: float = 0.0

    def __str__(self) -> str:
        rates = "  ".join(f"{language} {rate:.4f}" for language, rate in self.word_errors.items())
        return f"WER {rates}  language {self.language:.3f}"


@dataclass(frozen=True, slots=True)
class HeldOut:
    wave: Tensor  # (b, samples) on the device
    languages: list[str]
    texts: list[str]


def normalised(text: str) -> list[str]:
    return re.sub(r"[^\w' ]", " ", text.lower()).split()


def word_errors(said: list[str], heard: list[str]) -> int:
    row = list(range(len(heard) + 1))
    for i, word in enumerate(said, 1):
        corner, row[0] = row[0], i
        for j, other in enumerate(heard, 1):
            corner, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, corner + (word != other))
    return row[-1]


def held_out_batch(folder: Path, device: torch.device, n_windows: int) -> HeldOut:
    """Packed windows of held-out sentences in faint noise, the same every time."""
    records: dict[str, list[Record]] = {}
    shards: list[np.ndarray] = []
    bases: dict[int, int] = {}
    for number, path in enumerate(sorted(folder.glob("*.pickle"))):
        shards.append(np.load(path.with_suffix(".npy")))
        for record in pickle.loads(path.read_bytes()):
            bases[id(record)] = number * SHARD_SAMPLES
            records.setdefault(record.language, []).append(record)
    samples = np.concatenate(shards)
    rng = np.random.default_rng(11)
    n = int(WINDOW_S * SAMPLE_RATE_HZ)
    waves = []
    languages = []
    texts = []
    for i in range(n_windows):
        language = ("en", "de", "es")[i % 3]
        choice = records[language]

        def draw(choice: list[Record] = choice) -> tuple[Record, int]:
            record = choice[rng.integers(len(choice))]
            return record, bases[id(record)]

        pieces: list[Piece] = lay_out(draw_layout("packed", WINDOW_S, rng), draw, WINDOW_S, rng)
        wave = rng.standard_normal(n).astype(np.float32) * 1e-4
        for piece in pieces:
            first = int(piece.at * SAMPLE_RATE_HZ)
            start = piece.base + piece.record.offset
            wave[first : first + piece.record.n_samples] += samples[
                start : start + piece.record.n_samples
            ] * (piece.gain / 32768)
        waves.append(wave)
        languages.append(language)
        texts.append(" ".join(piece.record.text for piece in pieces))
    return HeldOut(torch.from_numpy(np.stack(waves)).to(device), languages, texts)


@torch.inference_mode()
def score(model: Whisper, renderer: Renderer, held_out: HeldOut, tokenizer: Tokenizer) -> Scores:
    ids = Ids.of(tokenizer)
    device = held_out.wave.device
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        audio = model.encoder(renderer.mel(held_out.wave, 80))
        start = torch.full((len(held_out.texts), 1), ids.start, device=device)
        first = model.logits(model.decoder(start, audio)[0])[:, 0]
        names = list(ids.languages)
        found = first[:, [ids.languages[name] for name in names]].argmax(1).tolist()
        rows = [
            [ids.start, ids.languages[x], ids.transcribe, ids.no_timestamps]
            for x in held_out.languages
        ]
        tokens = torch.tensor(rows, device=device)
        ended = torch.zeros(len(rows), dtype=torch.bool, device=device)
        for _ in range(LONGEST_ANSWER):
            chosen = model.logits(model.decoder(tokens, audio)[0][:, -1]).argmax(-1)
            chosen = torch.where(ended, ids.end, chosen)
            ended |= chosen == ids.end
            tokens = torch.cat([tokens, chosen[:, None]], dim=1)
            if tokens.shape[1] % 16 == 0 and bool(ended.all()):
                break
    errors: dict[str, list[int]] = {}
    for language, said, row in zip(
        held_out.languages, held_out.texts, tokens.tolist(), strict=True
    ):
        heard = tokenizer.decode([token for token in row if token < ids.end])
        count = errors.setdefault(language, [0, 0])
        count[0] += word_errors(normalised(said), normalised(heard))
        count[1] += len(normalised(said))
    right = sum(names[i] == language for i, language in zip(found, held_out.languages, strict=True))
    return Scores({k: a / b for k, (a, b) in errors.items()}, right / len(found))
