"""Find all copies of cuBLAS and cuDNN, and the ones that ``dlopen`` would load by name.

glibc searches LD_LIBRARY_PATH, then the loader cache (``man 8 ld.so``). Libraries in site-packages
are in neither; they are found by name only after they were opened by absolute path.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..facts import Fact, known
from .files import entries_of
from .packages import installed_folders

_NAME = re.compile(
    r"lib(cublas|cublasLt|cudnn)(_\w+)?\.so\.\d+|(cublas|cublasLt|cudnn)(_\w+)?64_\d+\.dll"
)
_DEFAULT_FOLDERS = (
    "/lib", "/usr/lib", "/lib64", "/usr/lib64", "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu", "/usr/local/cuda/lib64",
)  # fmt: skip
_TIMEOUT_S = 3


_started: list[subprocess.Popen[str]] = []


def start_loader_cache() -> None:
    """Start listing the loader cache, once per process; the output is read later."""
    if _started or _loader_cache.cache_info().currsize:
        return
    command = next(
        (path for path in ("/sbin/ldconfig", "/usr/sbin/ldconfig") if Path(path).exists()), None
    )
    if sys.platform == "linux" and command is not None:
        with contextlib.suppress(OSError):  # without ldconfig the default folders are searched
            _started.append(
                subprocess.Popen(
                    [command, "-p"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
                )
            )


@lru_cache(maxsize=1)
def _loader_cache() -> tuple[tuple[str, str], ...]:
    """(name, path) of every library in the loader cache, in its order."""
    if not _started:
        return ()
    child = _started.pop()
    try:
        out, _ = child.communicate(timeout=_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        return ()
    return tuple(re.findall(r"^\s*(\S+) \(.*\) => (\S+)$", out, re.MULTILINE))


def search_path_folders() -> list[Path]:
    variable = "PATH" if sys.platform == "win32" else "LD_LIBRARY_PATH"
    return [Path(part) for part in os.environ.get(variable, "").split(os.pathsep) if part]


def system_libraries(prefix: str) -> set[str]:
    """File names starting with ``prefix`` that the loader finds by name."""
    names = {name for name, _ in _loader_cache() if name.startswith(prefix)}
    for folder in search_path_folders():
        names |= {path.name for path in entries_of(folder) if path.name.startswith(prefix)}
    return names


def package_libraries() -> Iterator[tuple[Path, str]]:
    """(library, folder) of the CUDA packages in site-packages, in both layouts."""
    places = {
        folder.parent
        for name, at in installed_folders().items()
        for _, folder in at
        if name.startswith("nvidia-") or name == "torch"
    }
    for place in sorted(places):
        for pattern in ("nvidia/*/lib", "nvidia/*/bin", "nvidia/*/bin/*", "torch/lib"):
            for folder in place.glob(pattern):
                for path in entries_of(folder):
                    if _NAME.fullmatch(path.name):
                        yield path, str(folder.relative_to(place))


def probe() -> Iterator[Fact]:
    found = [
        _record(path, "LD_LIBRARY_PATH")
        for folder in search_path_folders()
        for path in _matching(folder)
    ]
    system = [
        _record(Path(path), "system") for name, path in _loader_cache() if _NAME.fullmatch(name)
    ]
    if not system and sys.platform == "linux":
        system = [
            _record(path, "system")
            for folder in _DEFAULT_FOLDERS
            for path in _matching(Path(folder))
        ]
    found += system
    winners: dict[str, str] = {}
    for record in found:
        winners.setdefault(record["name"], record["path"])
    found += [_record(path, "package") for path, _ in package_libraries()]
    source = "LD_LIBRARY_PATH, loader cache, nvidia packages, torch/lib"
    yield known(
        "libraries.cublas", [record for record in found if "cublas" in record["name"]], source
    )
    yield known(
        "libraries.cudnn", [record for record in found if "cudnn" in record["name"]], source
    )
    yield known("libraries.winners", winners, "LD_LIBRARY_PATH before loader cache")


def _matching(folder: Path) -> list[Path]:
    return [path for path in entries_of(folder) if _NAME.fullmatch(path.name)]


def _record(path: Path, where: str) -> dict[str, Any]:
    """``real`` is the target of a link; it reveals a cuDNN 9 linked to a cuDNN 8 name."""
    return {
        "name": path.name,
        "path": str(path),
        "where": where,
        "real": Path(os.path.realpath(path)).name,
    }
