"""Test a GPU in a child process before an engine uses it, and cache the outcome.

Out of memory is not cached: another process may free the memory.
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
    """Facts about the driver and its GPUs only, read in child processes."""
    start_children()
    return Facts(list(timed(probe())))


def trial_key(facts: Facts, version: str, gpu: int = 0) -> str:
    """The cache key: driver, GPUs, GPU number, version, cuBLAS and variables."""
    gpus = ",".join(map(str, gpus_of(facts)))
    libraries = ",".join(map(str, cublas_paths(sys.path)))
    settings = (f"{name}={os.environ.get(name, '')}" for name in _VARIABLES)
    which = [gpu_name(gpu)] if gpu else []
    return "; ".join([effective_driver(facts), gpus, version, libraries, *settings, *which])


def operation_on(engine: str, gpu: int) -> Callable[[], Child]:
    """A first operation of an engine of ``smoke_test.ENGINES`` on this GPU."""
    return lambda: run_operation(sys.executable, engine, gpu_name(gpu))


def gpu_trial(folder: Path, key: str, operation: Callable[[], Child]) -> str:
    """Why an engine cannot use the GPU; empty if it can. Runs ``operation`` once per key."""

    def problem() -> str:
        child = operation()
        return "" if child.end == "ok" else _words(child)

    return remembered(folder, key, problem)


def remembered(folder: Path, key: str, find: Callable[[], str]) -> str:
    """The cached result of ``find`` for the GPU. The key names everything it depends on."""
    path = folder / FILE_NAME
    cached = _cached(path)
    if key in cached:
        return cached[key]
    answer = find()
    if _OUT_OF_MEMORY not in answer:
        _save(path, {**_cached(path), key: answer})
    return answer


def has_passed(folder: Path, version: str) -> bool:
    """Whether this version of an engine has used a GPU here before, with any driver."""
    cached = _cached(folder / FILE_NAME)
    return any(f"; {version}; " in key and not problem for key, problem in cached.items())


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether a library ran out of memory, or failed while it handled such an error.

    Follows ``__context__`` through library exceptions only; our own errors have been handled.
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
    """A GPU error; out of memory is explained first."""
    if _says_no_room(cause):
        return f"the GPU is {_OUT_OF_MEMORY}; use a smaller model or batch, or free memory: {cause}"
    return cause


def _words(child: Child) -> str:
    said = child.tail.strip().splitlines()
    cause = f"a first operation on it ended with {child.end}" + (f" ({said[-1]})" if said else "")
    return in_words(cause)


def _cached(path: Path) -> dict[str, str]:
    """The cached outcomes; empty without a file or with a damaged one."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {key: value for key, value in found.items() if isinstance(value, str)}


def _save(path: Path, outcomes: dict[str, str]) -> None:
    """Errors are ignored: without the cache the GPU is tested again."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{path.name}.{os.getpid()}")
        temporary.write_text(json.dumps(outcomes, indent=1), encoding="utf-8")
        temporary.replace(path)
