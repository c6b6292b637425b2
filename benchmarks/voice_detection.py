"""Voice detection against faster-whisper's `get_speech_timestamps`: speed, growth with the threads,
same decisions.

    python benchmarks/voice_detection.py [--audio DIR] [--minutes 60] [--runs 3]

The audio lies decoded in memory, ours takes it in blocks of 10 minutes as the pipeline does, runs
are taken in turns in one process. The serial run that the decisions are compared with is the
shipped file run by faster-whisper.

What was tried, in µs of one core a frame (AMD EPYC, 512 KiB of level 2 cache a core, shared: ± 20
%):

    shipped file, 10000 frames a call (faster-whisper's way)                    83
    shipped file, 256 frames a call                                             69
      of these the LSTM: 9 alone, 7 with 16 lanes in one batch: a batch is no gain
    encoder as matrix products, 256 windows a row                               26
    the same, the transform folded at the window's middle (taken; + LSTM 9)     17
    the same, the first convolution as one product with its zero blocks         21
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import DEFAULT_AUDIO, SAMPLE_RATE_HZ, Bar, Samples, cores, looped, read_samples, report

from transcribe_mcp.speech.detector import FRAME_SAMPLES, SpeechDetector

BLOCK_SAMPLES = 600 * SAMPLE_RATE_HZ
THRESHOLD = 0.5
THREADS_FOR_LANES = (
    16  # more than this machine may have: only the decisions are looked at, not the speed
)


def detect(detector: SpeechDetector, samples: Samples) -> Samples:
    parts = [
        detector.push(samples[at : at + BLOCK_SAMPLES])
        for at in range(0, len(samples), BLOCK_SAMPLES)
    ]
    return np.concatenate([*parts, detector.push(samples[:0], last=True)])


def serial_run(samples: Samples) -> Samples:
    """Probabilities of the shipped file run in one go: by faster-whisper, over whole frames."""
    from faster_whisper.vad import get_vad_model

    # A copy, because the peer clears the last 64 samples of its input.
    return np.asarray(
        get_vad_model()(samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].copy())
    )


def agreement(found: Samples, serial: Samples) -> float:
    compared = len(serial) - 1  # the last frame is the one with the samples that the peer clears
    return float(np.mean((found[:compared] > THRESHOLD) == (serial[:compared] > THRESHOLD)))


def push_memory_mib(block: Samples) -> float | None:
    """By how much the first push of a block lifts the peak of this process's memory; None where it
    is not told.
    """
    try:
        import resource
    except ImportError:
        return None
    detector = SpeechDetector()
    before_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    detector.push(block)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kib) / 1024


def timed(ways: dict[str, Callable[[], Any]], n_runs: int) -> dict[str, list[tuple[float, float]]]:
    """(wall, processor) seconds of each run, the ways in turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(n_runs):
        for name, way in ways.items():
            wall = time.perf_counter()
            processor = time.process_time()
            way()
            taken[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return taken


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    recordings = [read_samples(path) for path in sorted(arguments.audio.glob("*.flac"))]
    if not recordings:
        parser.error(f"no FLAC files in {arguments.audio}")
    memory_mib = push_memory_mib(np.concatenate(list(looped(recordings, 600.0))))
    return measure(
        np.concatenate(list(looped(recordings, arguments.minutes * 60))), arguments.runs, memory_mib
    )


def measure(samples: Samples, n_runs: int, memory_mib: float | None) -> int:
    from faster_whisper.vad import get_speech_timestamps

    duration_s = len(samples) / SAMPLE_RATE_HZ
    peer = "faster-whisper"
    ours = {n: f"ours, {n} thread{'s' * (n > 1)}" for n in sorted({1, 2, cores()}) if n <= cores()}
    detectors = {name: SpeechDetector(n) for n, name in ours.items()}
    ways: dict[str, Callable[[], Any]] = {peer: lambda: get_speech_timestamps(samples)}
    ways |= {
        name: (lambda detector=detector: detect(detector, samples))
        for name, detector in detectors.items()
    }
    taken = timed(ways, n_runs)
    wall_s = {name: min(wall for wall, _ in runs) for name, runs in taken.items()}
    print(f"{duration_s / 60:.0f} min of audio, {cores()} cores, best of {n_runs} runs")
    for name, runs in taken.items():
        processor_s = min(processor for _, processor in runs)
        speed = (
            f"{duration_s / wall_s[name]:8.0f} x real time  "
            f"{wall_s[peer] / wall_s[name]:5.2f} x the peer"
        )
        print(f"{name:<18}{wall_s[name]:8.2f} s{processor_s:8.2f} s of processor {speed}")
    serial = serial_run(samples)
    all_cores = ours[cores()]
    in_lanes = detect(SpeechDetector(THREADS_FOR_LANES), samples)
    bars = [
        Bar(
            "times as fast as faster-whisper, all cores",
            wall_s[peer] / wall_s[all_cores],
            ">=",
            2.0,
        ),
        Bar(
            "same decision as the serial run, all cores",
            agreement(detect(detectors[all_cores], samples), serial),
            ">=",
            0.995,
        ),
        Bar(
            f"same decision, {THREADS_FOR_LANES} threads (lanes)",
            agreement(in_lanes, serial),
            ">=",
            0.995,
        ),
        Bar("MiB that a push of 10 min takes", memory_mib, "<=", 60.0),
    ]
    if cores() > 1:
        bars.append(Bar("all cores against one", wall_s[ours[1]] / wall_s[all_cores], ">=", 1.5))
    figures: dict[str, Any] = {"audio_s": duration_s, "frames": len(serial)}
    figures |= {
        name: {"wall_and_processor_s": [[round(t, 3) for t in run] for run in runs]}
        for name, runs in taken.items()
    }
    return report("voice_detection", figures, bars)


if __name__ == "__main__":
    raise SystemExit(main())
