"""How long work tells its caller how far it is.

One callback for everything: it is called with the stage's name, the amount done and the total (``None`` while
unknown), in the stage's own unit. It may raise ``CancelledError`` to stop the work; everything between has to let it
through and leave nothing half-done.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    def __call__(self, stage: str, done: float, total: float | None) -> None: ...


def no_progress(stage: str, done: float, total: float | None) -> None:
    """The callback of a caller who does not want to know."""


def share_of(progress: Progress, number: int, n: int) -> Progress:
    """For pass ``number`` of ``n`` over the same recording: each is an equal share of the whole."""
    if n == 1:
        return progress

    def report(stage: str, done: float, total: float | None) -> None:
        progress(stage, done if total is None else (number * total + done) / n, total)

    return report
