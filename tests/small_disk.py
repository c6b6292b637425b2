"""A file system of its own, small enough to be filled."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(where: Path, n_bytes: int) -> Iterator[Path]:
    """Mount it at ``where``; skips where that is not possible."""
    if sys.platform != "linux":
        pytest.skip("file systems in memory are mounted on Linux")
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={n_bytes}", "tmpfs", str(where)]
    try:
        made = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no program mount")
    if made.returncode:
        pytest.skip("this user may not mount a file system")
    try:
        yield where
    finally:
        subprocess.run(["umount", "--lazy", str(where)], check=True)


def fill(path: Path, block_bytes: int) -> None:
    """Add to a file until there is no room."""
    with path.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(b"\n" * block_bytes)
        except OSError as error:
            assert error.errno == errno.ENOSPC, error
