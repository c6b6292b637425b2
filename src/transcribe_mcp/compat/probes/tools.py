"""Tools of the system: ffmpeg, uv, a C compiler, and FFmpeg libraries for torchcodec."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from ..facts import Fact, known, unknown
from .libraries import system_libraries

_TIMEOUT_S = 3


def probe() -> Iterator[Fact]:
    yield _version("tools.ffmpeg", ["ffmpeg", "-version"], r"ffmpeg version (\S+)")
    uv = shutil.which("uv")
    yield known("tools.uv", uv, "PATH") if uv else unknown("tools.uv", "not on the PATH")
    names = system_libraries("libavutil.so.") | system_libraries("avutil-")
    majors = sorted(
        {int(match[1]) for name in names if (match := re.search(r"(?:\.so\.|avutil-)(\d+)", name))}
    )
    yield known("ffmpeg.libavutil", majors, "loader cache and LD_LIBRARY_PATH")
    yield known("tools.for_triton", _for_triton(), "CC, PATH and Python's include folder")


def _for_triton() -> dict[str, bool]:
    """Whether Triton finds its compiler and headers, searched for in the same places."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    python = (
        f"python{sys.version_info.major}.{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
    )
    headers = Path(sys.base_prefix, "include", python)  # faster than sysconfig
    return {"a C compiler": bool(compiler), "Python.h": (headers / "Python.h").is_file()}


def _version(name: str, command: list[str], pattern: str) -> Fact:
    path = shutil.which(command[0])
    if path is None:
        return unknown(name, "not on the PATH")
    try:
        done = subprocess.run(
            [path, *command[1:]], capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return unknown(name, f"{path} does not answer: {error}")
    match = re.search(pattern, done.stdout)
    return (
        known(name, match[1], path)
        if match
        else unknown(name, f"{path} exits {done.returncode} without a version")
    )
