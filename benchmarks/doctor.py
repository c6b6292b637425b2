"""How much longer than ``python -c pass`` the doctor takes. The bar is half a second.

    python benchmarks/doctor.py [--runs 15]

Runs alternate, so that a busy machine slows both; medians are compared. Last line: one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "doctor": [sys.executable, "-m", "transcribe_mcp.compat", "doctor"],
    "doctor --plan": [sys.executable, "-m", "transcribe_mcp.compat", "doctor", "--plan"],
}
BAR_S = 0.5


def cpu_seconds() -> float:
    """Of all ended children and theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=15)
    runs = parser.parse_args().runs
    wall: dict[str, list[float]] = {name: [] for name in COMMANDS}
    cpu: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for number in range(runs + 1):
        for name, command in COMMANDS.items():
            started = time.perf_counter()
            used = cpu_seconds()
            subprocess.run(command, stdout=subprocess.DEVNULL, check=False)
            if number:  # the first round fills caches
                wall[name].append(time.perf_counter() - started)
                cpu[name].append(cpu_seconds() - used)
    medians = {name: statistics.median(taken) for name, taken in wall.items()}
    work = {name: statistics.median(taken) for name, taken in cpu.items()}
    best = {name: min(taken) for name, taken in wall.items()}
    floor = "python -c pass"
    print(f"{'':<18}{'median':>10}{'more':>10}{'best more':>11}{'CPU more':>10}")
    rows = {}
    for name in COMMANDS:
        more = {"median_s": medians[name] - medians[floor], "best_s": best[name] - best[floor],
                "cpu_s": work[name] - work[floor]}  # fmt: skip
        rows[name] = {
            "median_s": round(medians[name], 4),
            "more": {key: round(s, 4) for key, s in more.items()},
        }
        times = "".join(f"{seconds * 1000:>7.0f} ms" for seconds in (medians[name], *more.values()))
        print(f"{name:<18}{times}")
    record = {
        "benchmark": "doctor",
        "runs": runs,
        "rows": rows,
        "bar_more_s": BAR_S,
        "load": os.getloadavg()[0],
    }
    print(
        json.dumps({**record, "python": platform.python_version(), "machine": platform.machine()})
    )


if __name__ == "__main__":
    main()
