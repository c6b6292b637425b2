"""Read small files of kernels and packages."""

from __future__ import annotations

from pathlib import Path

MAX_TEXT_BYTES = 1024 * 1024


def text_of(path: str | Path) -> str | None:
    """The stripped text of a small file; None if it cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(MAX_TEXT_BYTES).decode("utf-8", "replace").strip()
    except OSError:
        return None


def entries_of(folder: str | Path) -> list[Path]:
    """The sorted entries of a folder; empty if it cannot be listed."""
    try:
        return sorted(Path(folder).iterdir())
    except OSError:
        return []
