"""Peak memory of the command on a short and on a long file.

python benchmarks/memory.py [--engine ctranslate2] [--model DIR] [--audio DIR] [--hours 1 6]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import (
    DEFAULT_AUDIO,
    DEFAULT_MODEL,
    Bar,
    looped,
    one_language,
    read_samples,
    report,
    write_flac,
)

from transcribe_mcp.quality.evaluation import load_truth

MIB_BYTES = 2**20
CTRANSLATE2_MOST_MIB = 600
MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss


def peak_rss_bytes(command: list[str]) -> tuple[int, float]:
    """Run to the end; returns the peak resident set of that process and the seconds it took."""
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with status {process.returncode}")
    return usage.ru_maxrss * MAXRSS_BYTES, time.perf_counter() - begin


def measure(path: Path, model: Path, engine: str, duration_s: float) -> dict[str, Any]:
    output = path.parent / path.stem
    command = [
        sys.executable,
        "-m",
        "transcribe_mcp",
        "transcribe",
        str(path),
        "--model",
        str(model),
    ]
    command += ["--engine", engine, "--device", "cpu", "--compute-type", "int8", "--language", "en"]
    command += ["--format", "json", "--output-dir", str(output)]
    peak_bytes, taken_s = peak_rss_bytes(command)
    [result] = output.glob("*.json")
    transcript = json.loads(result.read_text(encoding="utf-8"))
    words = sum(len(segment["words"]) for segment in transcript["segments"])
    print(
        (
            f"{duration_s / 3600:5.2f} h  {peak_bytes / MIB_BYTES:7.1f} MiB  {taken_s:7.1f} s  "
            f"{words} words"
        ),
        flush=True,
    )
    return {
        "audio_s": duration_s,
        "peak_rss_mib": round(peak_bytes / MIB_BYTES, 1),
        "wall_s": round(taken_s, 1),
    } | {"words": words}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--engine", choices=("ctranslate2", "whisper"), default="ctranslate2")
    parser.add_argument("--model", type=Path, default=DEFAULT_MODEL)
    parser.add_argument("--audio", type=Path, default=DEFAULT_AUDIO)
    parser.add_argument(
        "--hours", type=float, nargs=2, default=[1.0, 6.0], metavar=("SHORT", "LONG")
    )
    arguments = parser.parse_args()
    blocks = [read_samples(truth.path) for truth in one_language(load_truth(arguments.audio))]
    rows = []
    for hours in arguments.hours:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / f"{hours:g}h.flac"
            duration_s = write_flac(path, looped(blocks, hours * 3600))
            rows.append(measure(path, arguments.model, arguments.engine, duration_s))
    short, long = (row["peak_rss_mib"] for row in rows)
    bars = [
        Bar(
            f"peak of {arguments.hours[1]:g} h over peak of {arguments.hours[0]:g} h",
            long / short,
            "<=",
            1.1,
        )
    ]
    if arguments.engine == "ctranslate2":
        bars.append(Bar(f"peak MiB, {arguments.hours[1]:g} h", long, "<=", CTRANSLATE2_MOST_MIB))
    return report("memory", {"files": rows}, bars)


if __name__ == "__main__":
    raise SystemExit(main())
