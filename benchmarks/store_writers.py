"""Eight processes that add jobs to one SQLite store without a pause, beside two of low priority
that do the same.

Every submission is timed, and the whole is repeated. With --against, another checkout of this
project does the same in turns, so that both meet the same machine.

python benchmarks/store_writers.py [--seconds 30] [--runs 3] [--writers 8] [--busy 2] [--against
CHECKOUT]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import OWN_AUDIO, Bar, report

ROOT = Path(__file__).parents[1]
NICE = 5  # as a worker's
MOST_JOBS = 10**9


def be_a_writer(seconds: float) -> None:
    """Add jobs for so long; print the seconds that each took and the errors that there were."""
    from transcribe_mcp.errors import TranscribeError
    from transcribe_mcp.jobs import worker_process
    from transcribe_mcp.service import models
    from transcribe_mcp.service.service import default_service as service

    worker_process.start_worker = lambda chosen: False
    service().prepare()
    options = models.JobOptions(engine="fake", device="cpu")
    request = models.JobRequest(str(OWN_AUDIO / "en_0.flac"), options, force=True)
    new = service()._submission(request).prepare(request.source, request)
    store = service()._store()
    taken = []
    errors = []
    store.add(new, MOST_JOBS)  # which starts whatever has to be started
    print("ready", flush=True)
    sys.stdin.readline()
    end = time.monotonic() + seconds
    number = 0
    while time.monotonic() < end:
        one = replace(new, options_key=f"{os.getpid()} {number}")
        number += 1
        begin = time.perf_counter()
        try:
            store.add(one, MOST_JOBS)
        except TranscribeError as error:
            errors.append(f"{error.code}: {error}")
        taken.append(time.perf_counter() - begin)
    print(json.dumps({"taken": taken, "errors": errors}))


def run(checkout: Path, seconds: float, writers: int, busy: int) -> dict[str, Any]:
    """One run in a store of its own; times of the writers of usual priority."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        environment = {
            **os.environ,
            "TRANSCRIBE_MCP_DATA_DIR": folder,
            "PYTHONPATH": str(checkout / "src"),
        }
        command = [sys.executable, __file__, "--writer", str(seconds)]
        commands = [command] * writers + [["nice", "-n", str(NICE), *command]] * busy
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        processes = [subprocess.Popen(each, env=environment, **pipes) for each in commands]
        for one in processes:
            assert one.stdout.readline() == "ready\n"
        for one in processes:
            one.stdin.write("go\n")
            one.stdin.flush()
        answers = [json.loads(one.communicate()[0]) for one in processes]
    taken = sorted(second for answer in answers[:writers] for second in answer["taken"])
    errors = [error for answer in answers for error in answer["errors"]]
    return {
        "submissions": sum(len(answer["taken"]) for answer in answers),
        "per_s": round(sum(len(answer["taken"]) for answer in answers) / seconds, 1),
        **{
            f"{name}_ms": round(1000 * percentile(taken, share), 1)
            for name, share in SHARES.items()
        },
        "fewest": min(len(answer["taken"]) for answer in answers[:writers]),
        "errors": len(errors),
        "first_errors": errors[:3],
    }


SHARES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def percentile(ordered: Sequence[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--writers", type=int, default=8)
    parser.add_argument("--busy", type=int, default=2)
    parser.add_argument("--against", type=Path, help="another checkout of this project")
    parser.add_argument("--writer", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.writer is not None:
        be_a_writer(arguments.writer)
        return 0
    runs: dict[str, list[dict[str, Any]]] = {"this": []}
    for number in range(arguments.runs):
        for name, checkout in (("this", ROOT), ("other", arguments.against)):
            if checkout is not None:
                found = run(
                    checkout.resolve(), arguments.seconds, arguments.writers, arguments.busy
                )
                runs.setdefault(name, []).append(found)
                print(
                    f"{number + 1} {name:<6}",
                    {key: value for key, value in found.items() if value != []},
                )
    slowest_ms = max(each["p99_ms"] for each in runs["this"])
    bars = [
        Bar("errors", sum(each["errors"] for each in runs["this"]), "==", 0),
        Bar("99th percentile of a submission, the slowest run, ms", slowest_ms, "<=", 200),
    ]
    if "other" in runs:
        shares = [
            one["p99_ms"] / other["p99_ms"]
            for one, other in zip(runs["this"], runs["other"], strict=True)
        ]
        bars.append(Bar("99th percentile, of the other's in the same run", max(shares), "<=", 0.2))
    return report(
        "store_writers",
        {**vars(arguments), "against": str(arguments.against or ""), "runs": runs},
        bars,
    )


if __name__ == "__main__":
    raise SystemExit(main())
