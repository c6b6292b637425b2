"""A GPU is tried in a child process before an engine uses it, and the outcome is remembered for the next start.

Only successes and lasting failures are kept: a GPU whose memory another process holds is tried again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .explain import explain
from .facts import Facts, timed
from .machine import effective_driver, gpu_name, gpus_of
from .preload import cublas_paths
from .probes.nvidia import probe, start_children
from .smoke_test import Child, run_operation

FILE_NAME = "gpu-trials.json"
_OUT_OF_MEMORY = "out of memory"
_OUT_OF_MEMORY_RULE = "TM704"
_VARIABLES = ("CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")


def gpu_facts() -> Facts:
    """The driver and its GPUs alone, asked in child processes."""
    start_children()
    return Facts(list(timed(probe())))


def trial_key(facts: Facts, version: str, gpu: int = 0) -> str:
    """What the outcome depends on: driver, GPUs and which of them is tried, versions, which cuBLAS would be opened."""
    gpus = ",".join(map(str, gpus_of(facts)))
    libraries = ",".join(map(str, cublas_paths(sys.path)))
    settings = (f"{name}={os.environ.get(name, '')}" for name in _VARIABLES)
    which = [gpu_name(gpu)] if gpu else []
    return "; ".join([effective_driver(facts), gpus, version, libraries, *settings, *which])


def operation_on(engine: str, gpu: int) -> Callable[[], Child]:
    """A first operation of an engine of ``deep.ENGINES`` on this GPU."""
    return lambda: run_operation(sys.executable, engine, gpu_name(gpu))


def gpu_trial(folder: Path, key: str, operation: Callable[[], Child]) -> str:
    """Why an engine cannot use the GPU, in words; empty where it can. Runs ``operation`` once for each key."""
    path = folder / FILE_NAME
    known = _remembered(path)
    if key in known:
        return known[key]
    child = operation()
    problem = "" if child.end == "ok" else _words(child)
    if _OUT_OF_MEMORY not in problem:
        _remember(path, {**known, key: problem})
    return problem


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an engine's library failed for want of memory, or failed once more in breaking off what did.

    What it failed in the handling of counts only as far as libraries raised it: an error of ours was dealt with.
    """
    chain: BaseException | None = error
    while isinstance(chain, RuntimeError | ValueError | MemoryError):
        if isinstance(chain, MemoryError) or _says_no_room(str(chain)):
            return True
        chain = chain.__context__
    return False


def _says_no_room(words: str) -> bool:
    return _OUT_OF_MEMORY in words.lower() or any(
        one.rule.code == _OUT_OF_MEMORY_RULE for one in explain(words)
    )


def in_words(cause: str) -> str:
    """An error of the GPU with its meaning in front where it has one that can be acted on."""
    if _says_no_room(cause):
        return f"the GPU is {_OUT_OF_MEMORY}, so a smaller model or batch is needed, or less of it used elsewhere: {cause}"
    return cause


def _words(child: Child) -> str:
    said = child.tail.strip().splitlines()
    cause = f"a first operation on it ended with {child.end}" + (f" ({said[-1]})" if said else "")
    return in_words(cause)


def _remembered(path: Path) -> dict[str, str]:
    """Empty where nothing is remembered or the file is damaged: the GPU is then tried again."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def _remember(path: Path, outcomes: dict[str, str]) -> None:
    """A cache that cannot be written only costs another trial."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(outcomes, indent=1), encoding="utf-8")
        temporary.replace(path)
