"""The whole pipeline against faster-whisper's batched pipeline: from a file's path to its words with times.

    python benchmarks/pipeline_speed.py [--model DIR] [--audio DIR] [--minutes 20] [--runs 3]

Same model, same precision, same cores, greedy, runs taken in turns in one process after a warm-up of each.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accuracy import Ours
from common import (
    DEFAULT_AUDIO,
    DEFAULT_MODEL,
    Bar,
    cores,
    ctranslate2_layout,
    join,
    one_language,
    peer_transcript,
    report,
)

from transcribe_mcp.evaluation import Truth, load_truth, score
from transcribe_mcp.transcript import Transcript

PEER_BATCH_SIZES = (8, 16)


def peer_ways(model: Path, compute_type: str) -> dict[str, Callable[[Path], Transcript]]:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    directory = ctranslate2_layout(model, compute_type)
    loaded = WhisperModel(str(directory), device="cpu", compute_type=compute_type, cpu_threads=cores())
    peer = BatchedInferencePipeline(loaded)

    def way(batch_size: int) -> Callable[[Path], Transcript]:
        return lambda path: peer_transcript(
            *peer.transcribe(str(path), beam_size=1, word_timestamps=True, batch_size=batch_size)
        )

    return {f"faster-whisper, batches of {size}": way(size) for size in PEER_BATCH_SIZES}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO)
    parser.add_argument("--compute-type", default="int8")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    truths = one_language(load_truth(arguments.audio))  # the peer takes one language a file
    known = itertools.cycle(truths)
    chosen: list[Truth] = []
    while sum(truth.duration or 0 for truth in chosen) < arguments.minutes * 60:
        chosen.append(next(known))
    with tempfile.TemporaryDirectory() as scratch:
        warm_up = join(truths[:4], Path(scratch) / "warm-up.flac")
        return measure(arguments, join(chosen, Path(scratch) / "long.flac"), warm_up)


def measure(arguments: argparse.Namespace, truth: Truth, warm_up: Truth) -> int:
    ours = Ours(str(arguments.model), arguments.compute_type, {}, None)
    ways: dict[str, Callable[[Path], Transcript]] = {"ours": ours}
    ways |= peer_ways(arguments.model, arguments.compute_type)
    for way in ways.values():
        way(warm_up.path)
    times: dict[str, list[float]] = {name: [] for name in ways}
    results: dict[str, Transcript] = {}
    for _ in range(arguments.runs):
        for name, way in ways.items():
            begin = time.perf_counter()
            results[name] = way(truth.path)
            times[name].append(time.perf_counter() - begin)
            print(f"{name}: {times[name][-1]:.2f} s", file=sys.stderr, flush=True)
    duration_s = truth.duration or 0.0
    figures: dict[str, Any] = {"audio_s": duration_s}
    print(f"{duration_s / 60:.1f} min of audio, {cores()} cores, median of {arguments.runs} runs")
    for name, taken in times.items():
        median_s = statistics.median(taken)
        rate = score(truth, results[name]).score.word_error_rate
        print(f"{name:<32}{median_s:8.2f} s  {duration_s / median_s:6.1f} x real time  {rate or 0:6.1%} word errors")
        figures[name] = {"runs_s": [round(t, 3) for t in taken], "realtime_factor": round(duration_s / median_s, 2)}
        figures[name] |= {"word_error_rate": rate}
    figures["ours"]["timings_s"] = dict(results["ours"].timings)
    print("our stages:", ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in results["ours"].timings.items()))
    best_peer_s = min(statistics.median(taken) for name, taken in times.items() if name != "ours")
    bars = [Bar("times as fast as the best peer", best_peer_s / statistics.median(times["ours"]), ">=", 1.5)]
    return report("pipeline_speed", figures, bars)


if __name__ == "__main__":
    raise SystemExit(main())
