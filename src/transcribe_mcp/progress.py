"""How long work tells its caller how far it is.

One callback for everything: it is called with the stage's name, the amount done and the total (``None`` while
unknown), in the stage's own unit. It may raise ``CancelledError`` to stop the work; everything between has to let it
through and leave nothing half-done.
"""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    def __call__(self, stage: str, done: float, total: float | None) -> None: ...


def unreported(stage: str, done: float, total: float | None) -> None:
    """The callback of a caller who does not want to know."""
