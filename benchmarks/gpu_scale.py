"""One queue and one long recording on 1, 2, 4 and 8 GPUs, with and without speakers.

    python benchmarks/gpu.py --scale             all GPUs, about eight minutes for two
    python benchmarks/gpu.py --scale --small     anywhere: workers on the CPU stand for GPUs

The queue is jobs of ten minutes (FLAC) and a worker for every GPU. The long recording (MP3,
44.1 kHz, stereo) is a job too: one of the workers spreads it over all GPUs. ``direct`` is the same
recording without a worker and without a database. The workers stay for the whole run, for each
number of GPUs, so every GPU needs room for several models.

Figures are seconds of audio per second, gain over the first number of GPUs, and its share of
linear. CPU seconds of workers, of the store's writer and of the client, media decoding alone, and
the share of time that GPUs are busy tell where the rest goes. ``same_words`` is the share of words
with the same times and speakers as in the first run. The last line is one JSON object; ``--json``
also writes it to a file after every measurement.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import Bar, cores, own_model, versions
from gpu_scale_parts import (
    Figures,
    Pool,
    Scale,
    Words,
    audio_s,
    gpu_names,
    gpus,
    prepare_recordings,
    reading,
    shared_words,
    stages,
    words_of,
)

from transcribe_mcp.service.models import JobOptions

TURBO = "large-v3-turbo"
FULL = Scale(Path(), Path(), "whisper", "cuda", (1, 2, 4, 8), 256, 10.0, 24.0, 2)
SMALL = replace(FULL, device="cpu", counts=(1, 2), jobs=6, job_minutes=0.2, hours=0.02, rounds=1)
LEAST = {  # times as fast as one GPU
    "queue": {2: 1.9, 4: 3.6, 8: 6.5},
    "long": {2: 1.8, 4: 3.2, 8: 5.5},
}
STEPS = ("queue", "long", "queue with speakers", "long with speakers", "direct")
READERS = (4, 8, 16)  # threads that decode media
PACKAGES = ("transcribe-mcp", "torch", "av", "numpy", "dbos", "sqlalchemy")


class Run:
    """The steps, and what they find."""

    def __init__(self, scale: Scale, budget_s: float, kept: Path | None) -> None:
        self.scale = scale
        self.found: dict[str, dict[str, list[Figures]]] = {}
        self.reading: list[Figures] = []
        self.problems: dict[str, str] = {}
        self._kept = kept
        self._until = time.monotonic() + budget_s
        self._pools: dict[int, Pool] = {}
        self._first: dict[str, dict[str, Words]] = {}  # step -> source -> words of the first run

    @property
    def left_s(self) -> float:
        return max(0.0, self._until - time.monotonic())

    def all(self, steps: Sequence[str]) -> None:
        threads = sorted({n for n in READERS if n <= cores()} | {cores()})
        self.reading = [reading(self.scale.warm_up, n) for n in threads]
        print(json.dumps(self.reading), flush=True)
        for step in steps:
            kind, _, speakers = step.partition(" with ")
            work: Callable[[str, bool], None] = getattr(self, kind)
            try:
                work(step, bool(speakers))
            except Exception as error:  # noqa: BLE001 - the figures of the other steps count
                self.problems[step] = traceback.format_exc()[-1500:]
                print(f"{step}: {type(error).__name__}: {error}", flush=True)

    def pool(self, n_gpus: int) -> Pool:
        if n_gpus not in self._pools:
            pool = self._pools[n_gpus] = Pool(self.scale, n_gpus)
            begin = time.perf_counter()
            pool.start(self.left_s)
            print(f"{n_gpus} workers: {time.perf_counter() - begin:.1f} s to start", flush=True)
        return self._pools[n_gpus]

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()

    # --- steps ----------------------------------------------------------------------------------

    def queue(self, step: str, speakers: bool) -> None:
        for number in range(1 if speakers else self.scale.rounds):
            for n_gpus in self.scale.counts:
                pool = self.pool(n_gpus)
                options = pool.options(diarize=speakers)
                if speakers and number == 0:
                    pool.run(2 * self.scale.parts * n_gpus, options, self.left_s)
                parts = self.scale.parts
                paths = [parts[n % len(parts)] for n in range(self.scale.jobs)]
                self.measure(step, n_gpus, (pool, options), paths)

    def long(self, step: str, speakers: bool) -> None:
        for n_gpus in self.scale.counts:
            pool = self.pool(n_gpus)
            options = pool.options(device=device_of(n_gpus), diarize=speakers)
            for _ in range(2):
                pool.run([self.scale.warm_up], options, self.left_s)
            self.measure(step, n_gpus, (pool, options), [self.scale.long])

    def direct(self, step: str, speakers: bool) -> None:
        for n_gpus in self.scale.counts:
            device = device_of(n_gpus) if self.scale.device == "cuda" else "cpu"
            words = [str(self.scale.model), self.scale.engine, device]
            words += [str(self.scale.warm_up), str(self.scale.long)]
            command = [sys.executable, __file__, "--direct", json.dumps(words)]
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=self.left_s, check=True
            )
            self.note(step, n_gpus, json.loads(done.stdout.splitlines()[-1]))

    def measure(
        self, step: str, n_gpus: int, work: tuple[Pool, JobOptions], paths: Sequence[Path]
    ) -> None:
        pool, options = work
        figures: Figures = {}
        begin = time.time()
        with pool.measured(figures):
            jobs = pool.run(paths, options, self.left_s)
        seconds = max(job.finished_at or 0.0 for job in jobs) - begin
        transcripts = pool.transcripts(jobs)
        words = [words_of(transcript) for transcript in transcripts]
        first = self._first.setdefault(step, {})
        pairs = [
            (own, first.setdefault(job.source, own)) for own, job in zip(words, jobs, strict=True)
        ]
        figures |= {
            "s": seconds,
            "times_real_time": audio_s(jobs) / seconds,
            "stages_s": stages(transcripts),
            "words": sum(map(len, words)),
            "same_words": shared_words(pairs),
            "jobs_on": dict(Counter(str(job.device) for job in jobs)),
        }
        self.note(step, n_gpus, figures)

    def note(self, step: str, n_gpus: int, figures: Figures) -> None:
        figures = shortened(figures)
        self.found.setdefault(step, {}).setdefault(str(n_gpus), []).append(figures)
        print(f"[{self.left_s:4.0f} s left] {step}, {n_gpus} GPUs: {figures}", flush=True)
        if self._kept is not None:
            self._kept.write_text(json.dumps(self.to_json()), encoding="utf-8")

    # --- what is found --------------------------------------------------------------------------

    def gain(self, step: str, n_gpus: int) -> float | None:
        rows = self.found.get(step, {})
        speeds = [
            statistics.median(row["times_real_time"] for row in rows[str(n)])
            for n in (self.scale.counts[0], n_gpus)
            if str(n) in rows
        ]
        return speeds[1] / speeds[0] if len(speeds) == 2 else None

    def bars(self) -> list[Bar]:
        return [
            Bar(
                f"{step}, {n_gpus} GPUs, times as fast as one", self.gain(step, n_gpus), ">=", least
            )
            for step, of_counts in LEAST.items()
            for n_gpus, least in of_counts.items()
            if n_gpus in self.scale.counts
        ]

    def to_json(self) -> dict[str, Any]:
        return {
            "benchmark": "gpu-scale",
            "gpus": gpu_names(),
            "counts": self.scale.counts,
            "cores": cores(),
            "python": platform.python_version(),
            "versions": versions(PACKAGES),
            "jobs": self.scale.jobs,
            "job_minutes": self.scale.job_minutes,
            "hours": self.scale.hours,
            "media_decoding": shortened(self.reading),
            "figures": self.found,
            "problems": self.problems,
            "bars": [bar.to_json() for bar in self.bars()],
        }


def device_of(n_gpus: int) -> str:
    """``auto`` is the GPU of the worker, whose model is loaded."""
    if n_gpus == 1:
        return "auto"
    if n_gpus == len(gpus()):
        return "cuda:all"
    return "cuda:" + ",".join(map(str, range(n_gpus)))


def shortened(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.4g}")
    if isinstance(value, dict):
        return {key: shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [shortened(item) for item in value]
    return value


def transcribed(words: Sequence[str]) -> Figures:
    """In a child: a warm-up, then the long recording without a worker."""
    from transcribe_mcp import EngineSpec, Options, load_engine, transcribe

    model, engine_name, device, *paths = words
    begin = time.perf_counter()
    options = Options(language="en", temperatures=(0.0,))
    with closing(load_engine(EngineSpec(engine_name, model, device, offline=True))) as engine:
        loaded_s = time.perf_counter() - begin
        warm_up, long = map(Path, paths)
        for _ in range(2):
            transcribe(warm_up, engine, options)
        begin = time.perf_counter()
        used = time.process_time()
        found = transcribe(long, engine, options)
        seconds = time.perf_counter() - begin
    return {
        "s": seconds,
        "load_s": loaded_s,
        "times_real_time": found.duration / seconds,
        "cpu_s": {"all": time.process_time() - used},
        "stages_s": stages([found]),
        "words": len(found.words),
    }


def report(run: Run) -> int:
    print()
    for step, rows in run.found.items():
        for n_gpus in run.scale.counts:
            gain = run.gain(step, n_gpus)
            if gain is not None:
                speed = statistics.median(row["times_real_time"] for row in rows[str(n_gpus)])
                share = gain * run.scale.counts[0] / n_gpus
                print(f"{step:<20} {n_gpus} GPUs {speed:9.0f} × {gain:6.2f} {share:6.0%} of linear")
    bars = run.bars()
    for bar in bars:
        value = "not measured" if bar.value is None else f"{bar.value:.4g}"
        verdict = "pass" if bar.passed else "FAIL"
        print(f"{bar.name:<44}{value:>14}  {bar.relation} {bar.limit:<6g}{verdict}")
    print(json.dumps(run.to_json()))
    return 0 if run.scale.device == "cpu" or all(bar.passed for bar in bars) else 1


def asked(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="gpu.py --scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--small", action="store_true", help="on the CPU, with a small model")
    parser.add_argument("--counts", help="numbers of GPUs, comma-separated")
    parser.add_argument("--jobs", type=int)
    parser.add_argument("--hours", type=float, help="of the long recording")
    parser.add_argument(
        "--rounds", type=int, help="of the queue without speakers; the median counts"
    )
    parser.add_argument("--steps", default=",".join(STEPS), help="comma-separated, in this order")
    parser.add_argument("--model", type=Path, help="a directory; otherwise random weights of turbo")
    parser.add_argument("--budget", type=float, default=1500.0, help="seconds for everything")
    parser.add_argument("--work", type=Path, help="folder to keep; a temporary one otherwise")
    parser.add_argument("--json", type=Path, help="file, written after every measurement")
    parser.add_argument("--direct", help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    given = asked(arguments)
    if given.direct:
        print(json.dumps(transcribed(json.loads(given.direct))))
        return 0
    scale = SMALL if given.small else FULL
    chosen = {name: getattr(given, name) for name in ("jobs", "hours", "rounds", "model")}
    if given.counts:
        chosen["counts"] = tuple(map(int, given.counts.split(",")))
    scale = replace(scale, **{name: value for name, value in chosen.items() if value is not None})
    if scale.device == "cuda":
        scale = replace(scale, counts=tuple(n for n in scale.counts if n <= len(gpus())))
    if not scale.counts:
        raise SystemExit("no GPU is there, or nvidia-ml-py is not installed; --small needs neither")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        folder = (given.work or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["TRANSCRIBE_MCP_CACHE_DIR"] = str(folder / "cache")
        scale = replace(scale, folder=folder, model=given.model or model_for(scale, folder))
        if not scale.long.exists():  # of a run before, in a folder that is kept
            prepare_recordings(scale)
        run = Run(scale, given.budget, given.json)
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the workers must end, too
        try:
            run.all(tuple(filter(None, given.steps.split(","))))
        finally:
            run.close()
        return report(run)


def model_for(scale: Scale, folder: Path) -> Path:
    if scale.device == "cpu":
        return own_model()
    from random_whisper import shape_of, write_random_whisper

    if (folder / TURBO / "tokenizer.json").exists():
        return folder / TURBO
    return write_random_whisper(folder / TURBO, shape_of(TURBO))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
