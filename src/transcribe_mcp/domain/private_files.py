"""Keep the data directory private: it holds what people said.

Everything in it is created for its owner only. Files that an earlier version or another umask made
readable are tightened when the database is opened. So is the directory, unless it also holds other
files. Systems without such permissions are left alone.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

FOLDER_MODE = 0o700
FILE_MODE = 0o600
OURS = (
    "transcribe-mcp.db",
    "transcribe-mcp.db-*",
    "page.*",
    "supervisor.lock",
    "voices.json",
    "voices.lock",
    "worker*.lock",
    "worker*.log",
    "writer.*",
    "fetched",
    "environments",
    "uploads",
    "uploads-*.lock",
)


def make_private_dir(data_dir: Path) -> None:
    """Create the data directory, or tighten the one that is there.

    Raises:
        OSError: it cannot be created.
    """
    data_dir.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    if not hasattr(os, "geteuid"):
        return
    with suppress(OSError), os.scandir(data_dir) as entries:
        found = list(entries)
        ours = [entry for entry in found if any(fnmatch(entry.name, pattern) for pattern in OURS)]
        for entry in ours:
            _tighten(entry.path, FOLDER_MODE if entry.is_dir(follow_symlinks=False) else FILE_MODE)
        if len(ours) == len(found):
            _tighten(str(data_dir), FOLDER_MODE)


def _tighten(path: str, mode: int) -> None:
    """Remove the permissions of others. Links and files of other users are left alone."""
    with suppress(OSError):
        found = os.lstat(path)
        if found.st_uid != os.geteuid() or stat.S_ISLNK(found.st_mode):
            return
        if stat.S_IMODE(found.st_mode) & ~mode:
            os.chmod(path, stat.S_IMODE(found.st_mode) & mode)  # noqa: PTH101


def create_private(path: Path) -> None:
    """Create an empty file unless it exists."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, FILE_MODE))


def open_private(path: Path, mode: str) -> Any:
    """Open a file without buffering. A new one is readable by its owner only."""
    if not path.exists():
        create_private(path)
    return path.open(mode, buffering=0)
