"""Files that other processes see whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

# Without O_BINARY, Windows would translate line ends.
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)


@contextmanager
def atomic_write(path: Path, *, mode: int = 0o666) -> Iterator[BinaryIO]:
    """Open a temporary file beside ``path`` for writing; rename it at the end of the block.

    An existing file stays until then. After an error it remains, and the temporary file is
    deleted.

    Args:
        mode: permissions of the new file, less the umask.

    Raises:
        OSError: the directory is missing, full or not writable.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with os.fdopen(os.open(temporary, _NEW_FILE, mode), "wb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
