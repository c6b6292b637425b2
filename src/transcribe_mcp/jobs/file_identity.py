"""Identify a recording by its content hash, and its file by size and modification time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from ..errors import SourceNotFoundError, SourceUnreadableError
from ..media.access import opened_inside

CHUNK_BYTES = 1 << 20


def opened(path: Path, roots: Sequence[str | Path] | None) -> AbstractContextManager[Path]:
    """The path to read a recording from. With ``roots`` the file is held open and is inside one.

    Raises:
        SourceError: it is outside, or cannot be opened.
    """
    return nullcontext(path) if roots is None else opened_inside(path, list(map(Path, roots)))


def signature(path: Path) -> str:
    """Size and modification time. While they stay the same, so does the content hash.

    Raises:
        SourceNotFoundError, SourceUnreadableError: it cannot be examined.
    """
    try:
        found = path.stat()
    except FileNotFoundError as error:
        raise SourceNotFoundError(
            f"{path}: no such file", hint="check the name and the directory"
        ) from error
    except (OSError, ValueError) as error:
        raise SourceUnreadableError.because(path, error) from error
    return f"{found.st_size}:{found.st_mtime_ns}"


def as_text(name: str) -> str:
    """A file name for the database: bytes that are not UTF-8 (lone surrogates) become escapes."""
    return name.encode("utf-8", "backslashreplace").decode()


def size_bytes(file_signature: str) -> int:
    return int(file_signature.partition(":")[0])


def require_file(path: Path) -> None:
    """
    Raises:
        SourceUnreadableError: it is a directory or a device, or may not be read.
    """
    if not path.is_file():
        raise SourceUnreadableError(f"{path} is not a file", hint="name a recording")
    if not os.access(path, os.R_OK):
        raise SourceUnreadableError.because(path, PermissionError(13, "permission denied"))


def content_hash(path: Path, check: Callable[[], None] = lambda: None) -> str:
    """SHA-256 of the content in hexadecimal. ``check`` is called regularly and may raise to stop.

    Raises:
        SourceUnreadableError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
                check()
    except OSError as error:
        raise SourceUnreadableError.because(path, error) from error
    return digest.hexdigest()
