"""Programs on the PATH that plans and engines use: ffmpeg and uv, and the FFmpeg libraries torchcodec looks for."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator

from ..facts import Fact, seen, unseen
from .libraries import system_libraries

_TIMEOUT_S = 3


def probe() -> Iterator[Fact]:
    yield _version("tools.ffmpeg", ["ffmpeg", "-version"], r"ffmpeg version (\S+)")
    uv = shutil.which("uv")
    yield seen("tools.uv", uv, "PATH") if uv else unseen("tools.uv", "not on the PATH")
    names = system_libraries("libavutil.so.") | system_libraries("avutil-")
    majors = sorted({int(match[1]) for name in names if (match := re.search(r"(?:\.so\.|avutil-)(\d+)", name))})
    yield seen("ffmpeg.libavutil", majors, "loader cache and LD_LIBRARY_PATH")


def _version(name: str, command: list[str], pattern: str) -> Fact:
    path = shutil.which(command[0])
    if path is None:
        return unseen(name, "not on the PATH")
    try:
        done = subprocess.run([path, *command[1:]], capture_output=True, text=True, timeout=_TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return unseen(name, f"{path} does not answer: {error}")
    match = re.search(pattern, done.stdout)
    return seen(name, match[1], path) if match else unseen(name, f"{path} exits {done.returncode} and says no version")
