"""``doctor --deep``: one real operation per engine, each in a child process that may crash."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .facts import Fact, Facts, known
from .machine import gpus_of
from .preload import cublas_paths

OPERATIONS = Path(__file__).with_name("operations.py")
TIMEOUT_S = {"cpu": 120.0, "cuda": 400.0}  # the first CUDA run may compile PTX for minutes
ENGINES = ("ctranslate2", "torch", "onnxruntime")
_TAIL_CHARS = 4000


@dataclass(frozen=True, slots=True)
class Child:
    """How an operation ended (``ok``, ``exit N``, ``signal N``, ``hung``) and its output."""

    end: str
    tail: str
    answer: dict[str, Any]
    took_s: float


def run_operation(
    python: str, engine: str, device: str = "cpu", *, repeat: int = 0, site: Path | None = None
) -> Child:
    """Run an operation under ``python``. ``site``: its packages, None for this interpreter's."""
    command = [python, str(OPERATIONS), engine, "--device", device, "--repeat", str(repeat)]
    if device.startswith("cuda") and engine == "ctranslate2":
        command += [
            item
            for path in cublas_paths([str(site)] if site else sys.path)
            for item in ("--preload", str(path))
        ]
    return run_child(command, TIMEOUT_S.get(device, TIMEOUT_S["cuda"]))


def run_child(command: Sequence[str], timeout_s: float) -> Child:
    """Run a command whose last line is JSON, with a time limit."""
    no_telemetry = {"PYANNOTE_METRICS_ENABLED": "0", "ORT_DISABLE_TELEMETRY": "1"}
    environment = {**os.environ, "PYTHONFAULTHANDLER": "0", **no_telemetry}
    started = time.perf_counter()
    try:
        done = subprocess.run(
            list(command),
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env=environment,
        )
    except subprocess.TimeoutExpired as error:
        said = (
            error.stderr.decode("utf-8", "replace")
            if isinstance(error.stderr, bytes)
            else error.stderr or ""
        )
        return Child(
            f"hung: not finished after {timeout_s:g} s", said[-_TAIL_CHARS:], {}, timeout_s
        )
    except OSError as error:
        return Child(f"not started: {error.strerror}", "", {}, 0.0)
    took_s = round(time.perf_counter() - started, 3)
    if done.returncode:
        code = done.returncode
        end = f"signal {-code}" if code < 0 else f"exit {code}"
        return Child(end, (done.stderr or done.stdout)[-_TAIL_CHARS:], {}, took_s)
    try:
        answer = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        return Child("exit 0 without an answer", done.stdout[-_TAIL_CHARS:], {}, took_s)
    return Child("ok", "", answer, took_s)


def probe_operations(
    facts: Facts, *, python: str = sys.executable, engines: Sequence[str] = ENGINES
) -> Iterator[Fact]:
    """One fact per installed engine and device: CUDA first, then the CPU as the fallback."""
    installed = facts.value("packages.installed", {})
    on_gpu = bool(gpus_of(facts)) and facts.value("nvidia.libcuda") is not None
    for engine in engines:
        if engine not in installed:
            continue
        devices = ["cuda"] if on_gpu and engine != "onnxruntime" else []
        has_shim = bool(facts.value("ctranslate2.binary", {}).get("cudnn_shim"))
        devices += ["cudnn"] if engine == "ctranslate2" and has_shim else []
        for device in (*devices, "cpu"):
            child = run_operation(python, engine, device)
            value = {"end": child.end, "tail": child.tail, "took_s": child.took_s, **child.answer}
            yield known(f"deep.{engine}.{device}", value, "child process")
