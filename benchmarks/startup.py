"""How long ``transcribe-mcp --help`` takes, in units of ``python -c 'import typer'``.

python benchmarks/startup.py [--runs 15]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

from common import Bar, report


def seconds(command: list[str]) -> float:
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=15)
    arguments = parser.parse_args()
    commands = {
        "transcribe-mcp --help": [str(Path(sys.executable).with_name("transcribe-mcp")), "--help"],
        "import typer": [sys.executable, "-c", "import typer"],
    }
    for command in commands.values():
        seconds(command)  # files into the system's cache, bytecode written
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(arguments.runs):
        for name, command in commands.items():
            times[name].append(seconds(command))
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    for name, median_s in medians.items():
        print(f"{name:<24}{median_s * 1000:8.0f} ms, median of {arguments.runs}")
    ratio = medians["transcribe-mcp --help"] / medians["import typer"]
    figures = {"median_s": {name: round(median_s, 4) for name, median_s in medians.items()}}
    return report("startup", figures, [Bar("--help over import typer", ratio, "<=", 2.5)])


if __name__ == "__main__":
    raise SystemExit(main())
