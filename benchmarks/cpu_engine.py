"""Our PyTorch engine against CTranslate2 int8 on the CPU, end to end, with the same weights in the
same run.

    python benchmarks/cpu_engine.py [--model base] [--minutes 8] [--runs 3] [--compute-type auto]
    [--peer]

Weights are random, every window has exactly 100 tokens (``random_whisper.py``). End to end is the
whole flow from decoded samples to words with times: voice detection, log-mel, encoder, decoder,
alignment. Both get the same windows and say as many words. The batch that CTranslate2 is fastest
with on this recording is found first, with one run of each; it has a replica of one thread for each
core, which is as fast as one replica with all. Then runs are taken in turns in one process; the
ratio is that of the medians. ``--peer`` adds faster-whisper's batched pipeline, which runs
CTranslate2 too. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    OWN_AUDIO,
    SAMPLE_RATE_HZ,
    Bar,
    Samples,
    cores,
    ctranslate2_layout,
    looped,
    read_samples,
    report,
)
from random_whisper import TOKENS, shape_of, write_random_whisper

from transcribe_mcp.domain.transcript import Transcript
from transcribe_mcp.engines import EngineRequest, Recognizer, load_recognizer
from transcribe_mcp.pipeline.offline import Options, transcribe

GREEDY = Options(language="en", temperatures=(0.0,))
CTRANSLATE2_BATCHES = (8, 16, 32)


def our_way(engine: Recognizer, batch_size: int = 0) -> Callable[[Samples], Transcript]:
    options = replace(GREEDY, batch_size=batch_size)
    return lambda samples: transcribe(samples, engine, options)


def ctranslate2_way(
    engine: Recognizer, samples: Samples
) -> tuple[int, Callable[[Samples], Transcript]]:
    """CTranslate2 with the batch size that it is fastest with, and which that is."""
    our_way(engine)(samples[: 35 * SAMPLE_RATE_HZ])
    taken = {}
    for size in CTRANSLATE2_BATCHES:
        start = time.perf_counter()
        our_way(engine, size)(samples)
        taken[size] = time.perf_counter() - start
    print(
        "CTranslate2: "
        + ", ".join(f"batch {size} {seconds:.2f} s" for size, seconds in taken.items())
    )
    best = min(taken, key=taken.__getitem__)
    return best, our_way(engine, best)


def peer_way(model: Path) -> Callable[[Samples], None]:
    module = importlib.import_module("faster_whisper")
    directory = ctranslate2_layout(model, "int8")
    loaded = module.WhisperModel(
        str(directory), device="cpu", compute_type="int8", cpu_threads=cores()
    )
    batched = module.BatchedInferencePipeline(loaded)

    def run(samples: Samples) -> None:
        segments, _ = batched.transcribe(
            samples, language="en", beam_size=1, temperature=0.0, word_timestamps=True, batch_size=8
        )
        assert any(segment.words for segment in list(segments))

    return run


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="base")
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--compute-type", default="auto")
    parser.add_argument("--peer", action="store_true")
    asked = parser.parse_args()
    talks = [read_samples(path) for path in sorted(OWN_AUDIO.glob("*_?.flac"))]
    samples = np.concatenate(list(looped(talks, asked.minutes * 60)))
    with tempfile.TemporaryDirectory() as folder:
        model = write_random_whisper(Path(folder) / asked.model, shape_of(asked.model))
        engines = [
            load_recognizer(EngineRequest(name, str(model), "cpu", compute_type, offline=True))
            for name, compute_type in (("whisper", asked.compute_type), ("ctranslate2", "int8"))
        ]
        batch, way = ctranslate2_way(engines[1], samples)
        ways: dict[str, Callable[[Samples], Any]] = {
            "ours": our_way(engines[0]),
            "ctranslate2": way,
        }
        if asked.peer:
            ways["faster-whisper, batched"] = peer_way(model)
        batches = {"ours": engines[0].info.batch_size, "ctranslate2": batch}
        return measure(ways, samples, asked.runs, batches)


def measure(
    ways: dict[str, Callable[[Samples], Any]], samples: Samples, runs: int, batches: dict[str, int]
) -> int:
    taken: dict[str, list[float]] = {name: [] for name in ways}
    found: dict[str, Any] = {}
    for way in ways.values():
        way(samples[: 35 * SAMPLE_RATE_HZ])
    for _ in range(runs):
        for name, way in ways.items():
            start = time.perf_counter()
            found[name] = way(samples)
            taken[name].append(time.perf_counter() - start)
    duration_s = len(samples) / SAMPLE_RATE_HZ
    figures: dict[str, Any] = {"audio_s": duration_s, "tokens_a_window": TOKENS, "batches": batches}
    print(f"{duration_s / 60:.1f} min of audio, {cores()} cores, median of {runs} runs")
    for name, seconds in taken.items():
        median_s = statistics.median(seconds)
        print(f"{name:<26}{median_s:8.2f} s  {duration_s / median_s:6.1f} × real time")
        figures[name] = {
            "runs_s": [round(s, 3) for s in seconds],
            "realtime_factor": round(duration_s / median_s, 2),
        }
        if isinstance(found[name], Transcript):
            transcript = found[name]
            figures[name] |= {
                "compute_type": transcript.compute_type,
                "words": len(transcript.words),
                "timings_s": {stage: round(s, 3) for stage, s in transcript.timings.items()},
            }
            print(
                "    " + ", ".join(f"{stage} {s:.2f} s" for stage, s in transcript.timings.items())
            )
    ratio = statistics.median(taken["ctranslate2"]) / statistics.median(taken["ours"])
    return report(
        "cpu_engine",
        figures,
        [Bar("times as fast as CTranslate2 int8, end to end", ratio, ">=", 1.5)],
    )


if __name__ == "__main__":
    raise SystemExit(main())
