"""Our PyTorch engine against transformers' Whisper, and its fast ways of computing against its
plain ones.

    python benchmarks/exactness.py [--device cuda] [--own] [--model DIR] [--audio DIR]

Every recording counts with its first 30 s. In float32: greedy tokens with and without timestamps,
and the logits of every step, against transformers on the same spectrograms and the same device.
Then each precision of the device: word errors against float32's; captured steps against the same
steps one by one, to the last bit of a probability and of a word's time; word timestamps against the
plain twin's, which has neither kernels nor captured steps and goes through the text again.
``--own`` takes the repository's model and recordings. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from common import DEFAULT_AUDIO, DEFAULT_MODEL, OWN_AUDIO, SAMPLE_RATE_HZ, Bar, own_model, report

from transcribe_mcp.align.edit_distance import align
from transcribe_mcp.compat.device_choice import precisions
from transcribe_mcp.domain.transcript import Word
from transcribe_mcp.engines import Decoded, DecodingOptions, EngineRequest
from transcribe_mcp.engines.whisper import alignment
from transcribe_mcp.engines.whisper.caches import AudioRow
from transcribe_mcp.engines.whisper.continuous_batching import EagerSteps
from transcribe_mcp.engines.whisper.decode_slots import MAX_TOKENS
from transcribe_mcp.engines.whisper.engine import WhisperEngine, _idle_steps
from transcribe_mcp.engines.whisper.loading import _hardware, _load_on
from transcribe_mcp.media.decode import read
from transcribe_mcp.quality.evaluation import Truth, load_truth
from transcribe_mcp.quality.wer import normalise
from transcribe_mcp.speech.features_torch import log_mel_windows
from transcribe_mcp.speech.regions import Region, Window

GREEDY = DecodingOptions()
WINDOW_S = 30
A_FRAME_S = 0.0201  # of the encoder, and what rounding adds


@dataclass(frozen=True, slots=True)
class Material:
    """What is decoded: windows, the language of each, and what they say where all of it is in the
    window.
    """

    windows: list[Window]
    languages: list[str]
    truths: list[Truth]


def material_of(folder: Path) -> Material:
    truths = load_truth(folder)
    windows = []
    for i, truth in enumerate(truths):
        samples = read(truth.path)[: WINDOW_S * SAMPLE_RATE_HZ]
        start = 40.0 * i
        windows.append(
            Window(start, samples, (Region(start, start + len(samples) / SAMPLE_RATE_HZ),))
        )
    return Material(windows, [truth.language or "en" for truth in truths], truths)


def loaded(model: Path, device: str, precision: str) -> WhisperEngine:
    place = torch.device("cuda", 0) if device == "cuda" else torch.device("cpu")
    return _load_on(EngineRequest("whisper", str(model), device, precision, offline=True), place)


def against_transformers(model: Path, device: str, material: Material) -> dict[str, Any]:
    """In float32, products without tf32 on both sides."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    module = importlib.import_module("transformers")
    theirs = (
        module.WhisperForConditionalGeneration.from_pretrained(model, dtype=torch.float32)
        .eval()
        .to(device)
    )
    engine = loaded(model, device, "float32")
    encoded = engine.encode(material.windows)
    bins = engine._running.model.geometry.num_mel_bins
    mel = log_mel_windows(material.windows, bins, torch.device(device))
    found: dict[str, Any] = {"windows": len(material.windows)}
    for timestamps in (False, True):
        ours = engine.decode(encoded, material.languages, DecodingOptions(timestamps=timestamps))
        said = theirs.generate(
            mel, attention_mask=torch.ones(mel.shape[::2], device=device),
            language=material.languages, task="transcribe", return_timestamps=timestamps,
            num_beams=1, do_sample=False,
        ).tolist()  # fmt: skip
        same = [same_text(engine, one, tokens) for one, tokens in zip(ours, said, strict=True)]
        found["same_tokens_with_timestamps" if timestamps else "same_tokens"] = sum(same)
        if not timestamps:
            found["logits_differ_by"] = logits_difference(engine, theirs, mel, encoded, ours)
    engine.close()
    return found


def same_text(engine: WhisperEngine, ours: Decoded, theirs: Sequence[int]) -> bool:
    """Where a text does not end, as far as both go: ours ends at 224 tokens, as openai-whisper's
    does, and transformers begins anew behind the last timestamp that it trusts, which shows in
    timestamps that go back.
    """
    stamps = [
        (token, i) for i, token in enumerate(theirs) if token >= engine._vocabulary.timestamp_begin
    ]
    anew = next((i for (before, _), (token, i) in pairwise(stamps) if token < before), None)
    text = tuple(token for token in theirs[:anew] if engine._vocabulary.is_text(token))
    if anew is None and len(ours.tokens) + len(stamps) < MAX_TOKENS:
        return ours.tokens == text
    n = min(len(ours.tokens), len(text))
    return n > 0 and ours.tokens[:n] == text[:n]


def logits_difference(
    engine: WhisperEngine, theirs: Any, mel: torch.Tensor, encoded: Any, ours: list[Decoded]
) -> float:
    """The largest, over every token of every window."""
    worst = 0.0
    model = engine._running.model
    heads = engine._directions.alignment_heads
    for i, decoded in enumerate(ours):
        given = engine._vocabulary.start_sequence(decoded.language, "transcribe")
        said = [*decoded.tokens, engine._vocabulary.end_of_text]
        with torch.inference_mode():
            row = encoded.rows[i]
            _, mine = alignment.teacher_forced_queries(
                model, heads, AudioRow(row.cache, row.index), given, said
            )
            tokens = torch.tensor([[*given, *said]], device=mel.device)
            other = theirs(input_features=mel[i : i + 1], decoder_input_ids=tokens).logits[
                0, len(given) - 1 : -1
            ]
        differs = float((mine - other).abs().max())
        worst = (
            max(worst, differs) if differs == differs else float("inf")
        )  # not a number is no match
    return worst


def word_errors(decoded: Sequence[Decoded], truths: Sequence[Truth]) -> float:
    wrong = total = 0
    for one, truth in zip(decoded, truths, strict=True):
        known = normalise(" ".join(segment.text for segment in truth.segments), truth.language)
        heard = normalise(one.text, truth.language)
        wrong += sum(i is None or j is None or known[i] != heard[j] for i, j in align(known, heard))
        total += len(known)
    return wrong / total


def of_precision(model: Path, device: str, precision: str, material: Material) -> dict[str, Any]:
    """Word errors; how many windows the plain twin says alike; how far apart word timestamps are at
    most, in seconds.
    """
    engine = loaded(model, device, precision)
    encoded = engine.encode(material.windows)
    decoded = engine.decode(encoded, material.languages, GREEDY)
    words = engine.align(encoded, decoded, GREEDY)
    found: dict[str, Any] = {"word_errors": word_errors(decoded, material.truths)}
    if device == "cuda":
        found |= one_by_one(engine, encoded, decoded, words, material.languages)
    compute_with(engine, make_steps=EagerSteps, search=alignment.TORCH)
    plain = engine.decode(encoded, material.languages, GREEDY) if device == "cuda" else decoded
    anew = engine.align(replace(encoded, spoken={}), decoded, GREEDY)
    differ = starts_differ(words, anew)
    found |= {
        "plain_twin_same": sum(a.tokens == b.tokens for a, b in zip(decoded, plain, strict=True)),
        "words": len(differ),
        "word_starts_differ_by": max(differ),
        "word_starts_elsewhere": sum(by > A_FRAME_S / 2 for by in differ),
        "word_starts_within_a_frame": sum(by <= A_FRAME_S for by in differ) / len(differ),
    }
    engine.close()
    return found


def compute_with(engine: WhisperEngine, **roles: Any) -> None:
    engine._machinery = replace(engine._running, **roles)
    engine._idle = _idle_steps(engine._running.workers)


def starts_differ(words: Sequence[Sequence[Word]], others: Sequence[Sequence[Word]]) -> list[float]:
    """Of every word, in seconds."""
    starts = [[word.start for part in each for word in part] for each in (words, others)]
    return [abs(a - b) for a, b in zip(*starts, strict=True)]


def one_by_one(
    engine: WhisperEngine,
    encoded: Any,
    decoded: Sequence[Decoded],
    words: Sequence[Sequence[Word]],
    languages: Sequence[str],
) -> dict[str, Any]:
    """Windows of which captured steps said the very tokens, as probable to the last bit, that the
    same steps do when launched one by one; and by how much the starts of words differ then.
    """
    graphs = importlib.import_module("transcribe_mcp.engines.whisper.graphs")
    make_steps = engine._running.make_steps
    int8 = engine.info.compute_type.endswith("+int8")
    compute_with(engine, make_steps=partial(graphs.CapturedSteps, int8=int8, capture=False))
    again = engine.decode(encoded, languages, GREEDY)
    differ = starts_differ(words, engine.align(encoded, again, GREEDY))
    compute_with(engine, make_steps=make_steps)
    same = [
        a.tokens == b.tokens and a.avg_logprob == b.avg_logprob
        for a, b in zip(decoded, again, strict=True)
    ]
    return {"captured_same": sum(same), "captured_word_starts_differ_by": max(differ)}


def bars_of(figures: dict[str, Any], n: int) -> list[Bar]:
    first = figures["transformers"]
    rows = [
        Bar("float32, windows with transformers' tokens", first["same_tokens"], "==", n),
        Bar("the same with timestamps", first["same_tokens_with_timestamps"], "==", n),
        Bar("float32, logits differ from transformers' by", first["logits_differ_by"], "<=", 1e-3),
    ]
    exact = figures["float32"]["word_errors"]
    for precision, found in figures.items():
        if precision == "transformers":
            continue
        rows.append(
            Bar(
                f"{precision}, word errors more than float32's",
                found["word_errors"] - exact,
                "<=",
                0.005,
            )
        )
        if (
            precision != "int8"
        ):  # whose products depend on what else is in a pass: no twin of itself
            name = f"{precision}, word starts from the twin's, s"
            rows.append(Bar(name, found["word_starts_differ_by"], "<=", A_FRAME_S))
        if "captured_same" in found:
            rows.append(
                Bar(f"{precision}, captured = one by one, windows", found["captured_same"], "==", n)
            )
            differs_s = found["captured_word_starts_differ_by"]
            rows.append(
                Bar(
                    f"{precision}, word starts, captured and one by one, s",
                    differs_s,
                    "<=",
                    A_FRAME_S,
                )
            )
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu"
    )
    parser.add_argument("--own", action="store_true", help="the repository's model and recordings")
    parser.add_argument("--model", type=Path)
    parser.add_argument("--audio", type=Path)
    asked = parser.parse_args()
    model = asked.model or (own_model() if asked.own else DEFAULT_MODEL)
    material = material_of(asked.audio or (OWN_AUDIO if asked.own else DEFAULT_AUDIO))
    figures: dict[str, Any] = {"transformers": against_transformers(model, asked.device, material)}
    print("transformers", figures["transformers"], flush=True)
    offered = precisions("whisper", _hardware(torch.device(asked.device)))
    for precision in dict.fromkeys(("float32", *offered)):
        figures[precision] = of_precision(model, asked.device, precision, material)
        print(precision, figures[precision], flush=True)
    return report(f"exactness, {asked.device}", figures, bars_of(figures, len(material.windows)))


if __name__ == "__main__":
    raise SystemExit(main())
