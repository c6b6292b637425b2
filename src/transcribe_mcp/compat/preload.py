"""Open cuBLAS by absolute path, so that CTranslate2's later ``dlopen("libcublas.so.12")`` finds it by its name.

cuBLAS from PyPI lies in site-packages, outside the loader's search path; setting LD_LIBRARY_PATH in a running process
has no effect. cublasLt comes first because cublas needs it. Cheap where there is nothing to do.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_NAMES = (
    ("cublas64_12.dll", "cublasLt64_12.dll")
    if sys.platform == "win32"
    else ("libcublas.so.12", "libcublasLt.so.12")
)
_FOLDERS = (
    "nvidia/cublas/lib",
    "nvidia/cublas/bin",
    "nvidia/cu12/lib",
    "nvidia/cu12/bin",
    "torch/lib",
)


@dataclass(frozen=True, slots=True)
class Preload:
    """``loaded`` in order; ``problem`` is empty where both were opened or the loader finds them by itself."""

    loaded: tuple[Path, ...]
    problem: str = ""


def cublas_paths(places: Sequence[str]) -> tuple[Path, ...]:
    """cublasLt and cublas of CUDA 12 beside each other in one of the site-packages; empty where they are not."""
    main, light = _NAMES
    for place in dict.fromkeys(places):
        for folder in _FOLDERS:
            at = Path(place or os.curdir, folder)
            if (at / main).is_file() and (at / light).is_file():
                return at / light, at / main
    return ()


def preload_cublas() -> Preload:
    """Open CUDA 12's cuBLAS for CTranslate2 in this process. Never raises; call it before the first use of a GPU."""
    paths = cublas_paths(sys.path)
    if not paths:
        return _found_by_loader()
    loaded: list[Path] = []
    for path in paths:
        try:
            ctypes.CDLL(str(path))
        except OSError as error:
            return Preload(tuple(loaded), f"{path} cannot be opened: {error}")
        loaded.append(path)
    return Preload(tuple(loaded))


def _found_by_loader() -> Preload:
    try:
        ctypes.CDLL(_NAMES[0])
    except OSError as error:
        return Preload(
            (), f"{_NAMES[0]} is nowhere: {error} (pip install 'nvidia-cublas-cu12>=12.8,<13')"
        )
    return Preload(())
