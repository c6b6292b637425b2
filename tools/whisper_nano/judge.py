"""Measures a model against the bars it was made for, with transcribe-mcp's own pipeline on
CTranslate2.

AUDIO is a folder of make_audio.py fresh. Prints a table; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import ctranslate2
import numpy as np
from tokenizers import Tokenizer

from transcribe_mcp.align.edit_distance import align
from transcribe_mcp.domain.progress import no_progress
from transcribe_mcp.engines import DecodingOptions, EngineRequest, load_recognizer
from transcribe_mcp.media.decode import read
from transcribe_mcp.models import resolve
from transcribe_mcp.models.conversion import ctranslate2_directory
from transcribe_mcp.pipeline.offline import Options, transcribe
from transcribe_mcp.quality.evaluation import Score, load_truth, score
from transcribe_mcp.quality.wer import normalise
from transcribe_mcp.speech.features import log_mel
from transcribe_mcp.speech.regions import Region, Window

SAMPLE_RATE_HZ = 16_000
WINDOW_S = 30.0
GREEDY = Options(temperatures=(0.0,), threads=2)
SPEED_REPEATS = 5


@dataclass(frozen=True, slots=True)
class Measured:
    """One line of the table: the value, its bar, and whether it is kept."""

    what: str
    value: float
    bar: str
    kept: bool


class Direct:
    """The model in CTranslate2 without the pipeline, for what the pipeline hides: timestamp tokens
    and bare speed.
    """

    def __init__(self, model: Path, compute_type: str) -> None:
        checkpoint = resolve(str(model), offline=True, progress=no_progress)
        self.directory = ctranslate2_directory(
            checkpoint, "int8" if compute_type == "int8" else "source", no_progress
        )
        self.model = ctranslate2.models.Whisper(
            str(self.directory), "cpu", compute_type=compute_type, intra_threads=2
        )
        self.tokenizer = Tokenizer.from_file(str(self.directory / "tokenizer.json"))

    def encode(self, wave: np.ndarray) -> ctranslate2.StorageView:
        samples = np.zeros(int(WINDOW_S * SAMPLE_RATE_HZ), np.float32)
        samples[: len(wave)] = wave[: len(samples)]
        mel = log_mel(samples, self.model.n_mels)
        return self.model.encode(
            ctranslate2.StorageView.from_array(np.ascontiguousarray(mel[None], dtype=np.float32))
        )

    def generate(self, encoded: ctranslate2.StorageView, language: str, timestamps: bool) -> str:
        prompt = ["<|startoftranscript|>", f"<|{language}|>", "<|transcribe|>"]
        prompt += [] if timestamps else ["<|notimestamps|>"]
        ids = self.model.generate(encoded, [prompt], beam_size=1, max_length=448)[0].sequences_ids[
            0
        ]
        end = self.tokenizer.token_to_id("<|endoftext|>")
        return str(self.tokenizer.decode([i for i in ids if i < end]))


def words_after_the_end(said: str, heard: str, language: str) -> int:
    """Words of the answer behind the last one that has a counterpart in the truth."""
    after = 0
    for i, j in align(normalise(said, language), normalise(heard, language)):
        after = 0 if i is not None else after + (j is not None)
    return after


def pipeline_scores(
    model: Path, compute_type: str, folder: Path, options: Options
) -> list[tuple[str | None, Score]]:
    engine = load_recognizer(
        EngineRequest("ctranslate2", str(model), "cpu", compute_type, threads=2, offline=True)
    )
    rows = []
    for truth in load_truth(folder):
        judged = score(truth, transcribe(truth.path, engine, options))
        rows.append((truth.language, judged.score))
    engine.close()
    return rows


def accuracy(model: Path, compute_type: str, folder: Path) -> Iterator[Measured]:
    rows = pipeline_scores(model, compute_type, folder, GREEDY)
    for language, bar in (("en", 0.06), ("de", 0.10), ("es", 0.10)):
        rate = sum((s for code, s in rows if code == language), Score()).word_error_rate or 0.0
        yield Measured(
            f"word error rate {language}, {compute_type}", rate, f"<= {bar}", rate <= bar
        )
    everything = sum((s for _, s in rows), Score())
    found = everything.language_accuracy or 0.0
    yield Measured(
        f"language of {everything.languages} windows, {compute_type}", found, "= 1", found == 1
    )
    errors = [abs(e) for e in everything.start_errors]
    median = statistics.median(errors)
    within = sum(e <= 0.1 for e in errors) / len(errors)
    yield Measured(
        f"word start error, median of {len(errors)}, {compute_type}",
        median,
        "<= 0.02 s",
        median <= 0.02,
    )
    yield Measured(f"word starts within 0.1 s, {compute_type}", within, ">= 0.95", within >= 0.95)
    yield Measured(f"all words, {compute_type}", everything.word_error_rate or 0.0, "", True)


def silence(model: Path, folder: Path, options: Options, name: str) -> Measured:
    heard = sum((s for _, s in pipeline_scores(model, "int8", folder, options)), Score())
    rate = heard.invented_words / (heard.non_speech_s / 600)
    return Measured(f"words invented in 10 min of no speech, {name}", rate, "<= 1", rate <= 1)


def after_the_end(direct: Direct, folder: Path) -> Iterator[Measured]:
    truths = load_truth(folder)
    for timestamps in (False, True):
        extra = 0
        for truth in truths:
            heard = direct.generate(
                direct.encode(read(truth.path)), truth.language or "en", timestamps
            )
            extra += words_after_the_end(
                " ".join(s.text for s in truth.segments), heard, truth.language or "en"
            )
        name = (
            f"words after the end in {len(truths)} windows, timestamps "
            f"{'on' if timestamps else 'off'}"
        )
        yield Measured(name, extra, "0", extra == 0)


def speed(model: Path, folder: Path) -> list[Measured]:
    """Samples to text with our engine on two cores: a window by itself, and a batch as the pipeline
    decodes it.
    """
    engine = load_recognizer(
        EngineRequest("ctranslate2", str(model), "cpu", "int8", threads=2, offline=True)
    )
    truths = load_truth(folder)[: engine.info.batch_size]
    languages = [truth.language or "en" for truth in truths]
    windows = [
        Window(0.0, read(truth.path)[: int(WINDOW_S * SAMPLE_RATE_HZ)], (Region(0.0, WINDOW_S),))
        for truth in truths
    ]

    def fastest_s(batch: list[Window], spoken: list[str]) -> float:
        taken = []
        for _ in range(SPEED_REPEATS):  # the fastest: others' work on the machine only ever adds
            started = time.perf_counter()
            engine.decode(engine.encode(batch), spoken, DecodingOptions())
            taken.append(time.perf_counter() - started)
        return min(taken)

    fastest_s(windows[:1], languages[:1])  # warm
    alone = [
        WINDOW_S / fastest_s([one], [spoken])
        for one, spoken in zip(windows, languages, strict=True)
    ]
    batch = WINDOW_S * len(windows) / fastest_s(windows, languages)
    engine.close()
    name = "30 s window, greedy, int8, 2 cores"
    return [
        Measured(
            f"{name}, by itself: times real time",
            statistics.median(alone),
            ">= 40",
            statistics.median(alone) >= 40,
        ),
        Measured(f"{name}, in a batch: times real time", batch, ">= 40", batch >= 40),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="the expanded model's directory")
    parser.add_argument("audio", type=Path, help="folder of make_audio.py fresh")
    parser.add_argument(
        "--only", choices=("accuracy", "silence", "end", "speed"), help="one part alone"
    )
    arguments = parser.parse_args()
    wanted = {arguments.only} if arguments.only else {"accuracy", "silence", "end", "speed"}
    rows: list[Measured] = []
    if "accuracy" in wanted:
        for compute_type in ("float32", "int8"):
            rows += accuracy(arguments.model, compute_type, arguments.audio / "windows")
        apart = abs(rows[-1].value - rows[len(rows) // 2 - 1].value)
        rows.append(Measured("word error rate, int8 from float32", apart, "<= 0.01", apart <= 0.01))
    if "silence" in wanted:
        without = Options(vad=False, temperatures=(0.0,), threads=2)
        rows.append(
            silence(arguments.model, arguments.audio / "non-speech", without, "voice detection off")
        )
        rows.append(
            silence(arguments.model, arguments.audio / "non-speech", GREEDY, "voice detection on")
        )
    direct = Direct(arguments.model, "int8")
    if "end" in wanted:
        rows += after_the_end(direct, arguments.audio / "early")
    if "speed" in wanted:
        rows += speed(arguments.model, arguments.audio / "windows")
    for row in rows:
        print(f"{row.what:70s} {row.value:8.4f}  {row.bar:10s} {'kept' if row.kept else 'MISSED'}")
    print(
        json.dumps(
            {"model": arguments.model.name, **{row.what: round(row.value, 4) for row in rows}}
        )
    )


if __name__ == "__main__":
    main()
