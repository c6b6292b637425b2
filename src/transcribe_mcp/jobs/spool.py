"""Recordings from standard input, kept in the data directory until their jobs have finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from pathlib import Path

from ..errors import SourceNotFoundError
from ..media.stdin import save_piped
from .ids import is_id, new_id

FOLDER = "spool"
GRACE_S = 600.0  # a younger file may belong to a job that is being added
_PREFIX = "stdin:"  # of a job's signature, before the file's name


def keep(data_dir: Path, max_bytes: int) -> tuple[str, str]:
    """Save standard input: (signature of its job, SHA-256). Errors: see ``stdin.save_piped``."""
    name = new_id()
    return f"{_PREFIX}{name}", save_piped(data_dir / FOLDER / name, max_bytes)


def is_kept(signature: str) -> bool:
    return signature.startswith(_PREFIX)


def path_of(data_dir: Path, signature: str) -> Path:
    return data_dir / FOLDER / signature.removeprefix(_PREFIX)


def require_kept(data_dir: Path, signature: str) -> Path:
    """
    Raises:
        SourceNotFoundError: its job had finished, or another machine has the recording.
    """
    path = path_of(data_dir, signature)
    if not path.is_file():
        raise SourceNotFoundError(
            "the recording from standard input was deleted",
            hint="pipe it into transcribe-mcp transcribe again",
        )
    return path


def drop(data_dir: Path, signature: str) -> None:
    """Delete the recording of a finished job. On Windows, ``sweep`` deletes an open file later."""
    if is_kept(signature):
        with suppress(OSError):
            path_of(data_dir, signature).unlink(missing_ok=True)


def sweep(data_dir: Path, is_unfinished: Callable[[Collection[str]], Mapping[str, bool]]) -> None:
    """Delete the recordings of finished jobs and the rest of interrupted saves.

    ``is_unfinished``: for signatures of existing jobs, whether those jobs are unfinished.
    """
    found = {f"{_PREFIX}{path.name}": path for path in (data_dir / FOLDER).glob("*")}
    signatures = [signature for signature, path in found.items() if is_id(path.name)]
    known = is_unfinished(signatures) if signatures else {}
    for signature, path in found.items():
        with suppress(OSError):
            unknown_and_old = (
                signature not in known and path.stat().st_mtime < time.time() - GRACE_S
            )
            if unknown_and_old or known.get(signature) is False:
                path.unlink(missing_ok=True)
