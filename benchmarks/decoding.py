"""Times real time of decoding: one thread against all cores, by format, in one run.

    python benchmarks/decoding.py [--minutes 20] [--threads N] [--runs 3]

The recording is made up (tones, noise, pauses) and encoded by PyAV, 44.1 kHz stereo (Opus: 48 kHz).
The parallel decode is checked to be sample-exact. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np

from transcribe_mcp.media import decode

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from media import speechlike, write_audio

FORMATS = {
    "wav": ("pcm_s16le", 44_100),
    "flac": ("flac", 44_100),
    "mp3": ("libmp3lame", 44_100),
    "m4a": ("aac", 44_100),
    "opus": ("libopus", 48_000),
}


def seconds_to_decode(path: Path, threads: int, runs: int) -> float:
    """Median wall-clock seconds of ``runs`` decodes."""
    took = []
    for _ in range(runs):
        start = time.perf_counter()
        for _block in decode.read_blocks(path, threads=threads):
            pass
        took.append(time.perf_counter() - start)
    return statistics.median(took)


def same_samples(path: Path, threads: int) -> bool:
    pairs = zip(decode.read_blocks(path), decode.read_blocks(path, threads=threads), strict=True)
    return all(np.array_equal(one, other) for one, other in pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    results = {}
    print(f"{'format':8}{'1 thread':>12}{f'{args.threads} threads':>12}{'gain':>8}  exact")
    with tempfile.TemporaryDirectory() as folder:
        for suffix, (codec, rate_hz) in FORMATS.items():
            samples = speechlike(args.minutes * 60, rate_hz)
            path = write_audio(
                Path(folder) / f"a.{suffix}", codec, samples, rate_hz=rate_hz, layout="stereo"
            )
            length_s = len(samples) / rate_hz
            serial = length_s / seconds_to_decode(path, 1, args.runs)
            parallel = length_s / seconds_to_decode(path, args.threads, args.runs)
            exact = same_samples(path, args.threads)
            print(
                f"{suffix:8}{serial:11.0f}×{parallel:11.0f}×{parallel / serial:8.2f}  {exact}",
                flush=True,
            )
            results[suffix] = {
                "serial_times_realtime": round(serial),
                "parallel_times_realtime": round(parallel),
                "gain": round(parallel / serial, 2),
                "exact": exact,
            }
            path.unlink()
    machine = {
        "cores": os.cpu_count(),
        "threads": args.threads,
        "minutes": args.minutes,
        "av": av.__version__,
    }
    print(
        json.dumps(
            {
                "benchmark": "decoding",
                **machine,
                "python": platform.python_version(),
                "formats": results,
            }
        )
    )


if __name__ == "__main__":
    main()
