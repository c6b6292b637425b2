"""Progress of long work.

All stages use one callback. Its arguments are the name of the stage, the amount done and the total
(``None`` while unknown), in the unit of the stage. It may raise ``CancelledError`` to stop the
work; callers pass the error on and leave nothing half-done.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

ShowText = Callable[[str], None]  # receives text as it is transcribed


class Progress(Protocol):
    def __call__(self, stage: str, done: float, total: float | None) -> None: ...


def no_progress(stage: str, done: float, total: float | None) -> None:
    """A callback that ignores progress."""


def share_of(progress: Progress, number: int, n: int) -> Progress:
    """The callback for pass ``number`` of ``n`` over one recording, each an equal share of the
    whole.
    """
    if n == 1:
        return progress

    def report(stage: str, done: float, total: float | None) -> None:
        progress(stage, done if total is None else (number * total + done) / n, total)

    return report


def show_no_text(text: str) -> None:
    """The callback that ignores text."""
