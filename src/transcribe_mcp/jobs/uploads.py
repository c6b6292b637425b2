"""Recordings that HTTP clients have sent, kept in the data directory until no job names them.

A file is named by its content, so the same bytes are one file, and jobs on it are found again.
"""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ..domain.private_files import FILE_MODE, FOLDER_MODE

FOLDER = "uploads"
TEMPORARY = "new-"  # the beginning of the names of folders for uploads under way
ABANDONED_S = 86_400.0
# Jobs on one file are the same if its time is, too. The name says all about the content, so every
# file has this time, also one that is deleted and sent again.
_MTIME_NS = 1_000_000_000_000_000_000
_NAME_SUFFIX = ".name"


@dataclass(frozen=True, slots=True)
class Upload:
    """A recording that a client has sent whole.

    Attributes:
        path: a temporary file; ``keep`` moves it.
        digest: SHA-256 of its content in hexadecimal.
        suffix: of the kept file's name, such as ``.mp3``.
        name: the client's, only for showing; may be empty.
    """

    path: Path
    digest: str
    suffix: str = ".bin"
    name: str = ""


def make_folder(data_dir: Path) -> Path:
    """The folder of the uploads. Deletes what servers that were killed left in it."""
    folder = data_dir.absolute() / FOLDER
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    for left in folder.glob(f"{TEMPORARY}*"):
        with suppress(OSError):
            if left.stat().st_mtime < time.time() - ABANDONED_S:
                shutil.rmtree(left, ignore_errors=True)
    return folder


def keep(data_dir: Path, upload: Upload) -> Path:
    """Move an upload to its place, which is that of an earlier one with the same content."""
    folder = data_dir.absolute() / FOLDER
    found = (path for path in folder.glob(f"{upload.digest}.*") if path.suffix != _NAME_SUFFIX)
    path = next(found, folder / f"{upload.digest}{upload.suffix}")
    os.utime(upload.path, ns=(_MTIME_NS, _MTIME_NS))
    with suppress(PermissionError):  # Windows: a worker reads the file, which has the same content
        upload.path.replace(path)
    if upload.name:
        named = path.with_suffix(_NAME_SUFFIX)
        named.touch(mode=FILE_MODE)
        named.write_text(upload.name, encoding="utf-8")
    return path


def name_of(source: str) -> str:
    """The client's name for an upload; "" for other sources and for uploads without a name."""
    path = Path(source)
    if path.parent.name != FOLDER:
        return ""
    try:
        return path.with_suffix(_NAME_SUFFIX).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def is_kept(data_dir: Path, source: str) -> bool:
    """Whether the source of a job is an upload."""
    return Path(source).parent == data_dir.absolute() / FOLDER


def drop(source: str) -> None:
    """Delete an upload. On Windows, an open file stays."""
    path = Path(source)
    for each in (path, path.with_suffix(_NAME_SUFFIX)):
        with suppress(OSError):
            each.unlink(missing_ok=True)
