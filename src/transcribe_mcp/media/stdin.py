"""Save a recording from standard input to a file, because decoding reads it more than once."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from ..domain.files import atomic_write
from ..errors import NotMediaError, SourceTooLargeError, SourceUnreadableError, UsageError

CHUNK_BYTES = 1 << 20
_HINT = "pipe a recording into it, as in: transcribe-mcp transcribe - < talk.mp3"


def require_pipe() -> None:
    """
    Raises:
        UsageError: standard input is a terminal or closed.
    """
    if sys.stdin is None or sys.stdin.isatty():
        state = "closed" if sys.stdin is None else "a terminal"
        raise UsageError(f"- reads a recording from standard input, which is {state}", hint=_HINT)


def save_piped(path: Path, max_bytes: int) -> str:
    """Save standard input atomically to a new private file; returns its SHA-256.

    Raises:
        UsageError: standard input is a terminal or closed.
        NotMediaError: it is empty.
        SourceTooLargeError: more than ``max_bytes``.
        SourceUnreadableError: reading or saving failed.
    """
    require_pipe()
    digest = hashlib.sha256()
    size = 0
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with atomic_write(path, mode=0o600) as file:
            while chunk := sys.stdin.buffer.read(CHUNK_BYTES):
                size += len(chunk)
                if size > max_bytes:
                    raise SourceTooLargeError(
                        f"standard input is larger than the limit of {max_bytes / 1024**3:g} GiB",
                        hint="raise TRANSCRIBE_MCP_MAX_FILE_GIB, "
                        "or save it to a file and name that",
                    )
                digest.update(chunk)
                file.write(chunk)
            if not size:
                raise NotMediaError("standard input is empty (0 bytes)", hint=_HINT)
    except OSError as error:
        reason = error.strerror or str(error)
        raise SourceUnreadableError(
            f"standard input cannot be saved to {path}: {reason}", hint="name a file"
        ) from error
    return digest.hexdigest()
