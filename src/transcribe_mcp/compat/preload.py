"""Open cuBLAS by absolute path, so that CTranslate2's ``dlopen("libcublas.so.12")`` finds it.

cuBLAS from PyPI is in site-packages, outside the loader's search path, and LD_LIBRARY_PATH has no
effect in a running process. cublasLt is opened first because cublas needs it.
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
    """Opened libraries in order. ``problem`` is empty if CTranslate2 will find cuBLAS."""

    loaded: tuple[Path, ...]
    problem: str = ""


def cublas_paths(places: Sequence[str]) -> tuple[Path, ...]:
    """cublasLt and cublas of CUDA 12 in one folder of site-packages; empty if missing."""
    main, light = _NAMES
    for place in dict.fromkeys(places):
        for folder in _FOLDERS:
            at = Path(place or os.curdir, folder)
            if (at / main).is_file() and (at / light).is_file():
                return at / light, at / main
    return ()


def preload_cublas() -> Preload:
    """Open CUDA 12's cuBLAS in this process, before the first use of a GPU. Never raises."""
    paths = cublas_paths(sys.path)
    if not paths:  # the system's loader may find it
        try:
            ctypes.CDLL(_NAMES[0])
        except OSError as error:
            return Preload(
                (), f"{_NAMES[0]} is missing: {error} (pip install 'nvidia-cublas-cu12>=12.8,<13')"
            )
    loaded: list[Path] = []
    for path in paths:
        try:
            ctypes.CDLL(str(path))
        except OSError as error:
            return Preload(tuple(loaded), f"{path} cannot be opened: {error}")
        loaded.append(path)
    return Preload(tuple(loaded))
