"""The last line of a command that transcribes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ...domain.transcript import Transcript
    from ...service.transcribing import Outcome


@dataclass(slots=True)
class Summary:
    """Counts outcomes. As text: amount, speed, model and device."""

    started_at: float = field(default_factory=time.monotonic)
    audio_s: float = 0.0
    n_done: int = 0
    n_failed: int = 0
    n_skipped: int = 0
    last: Transcript | None = None

    def add(self, outcome: Outcome) -> None:
        self.n_failed += outcome.error is not None
        self.n_skipped += outcome.is_skipped
        if outcome.transcript is not None:
            self.n_done += 1
            self.audio_s += outcome.transcript.duration
            self.last = outcome.transcript

    def __str__(self) -> str:
        others = [
            f"{count} {name}"
            for count, name in ((self.n_failed, "failed"), (self.n_skipped, "skipped"))
            if count
        ]
        if self.last is None:
            return f"Nothing was transcribed: {', '.join(others)}."
        taken_s = time.monotonic() - self.started_at
        speed = self.audio_s / max(1e-3, taken_s)
        recordings = f"{self.n_done} recordings, " if self.n_done > 1 else ""
        line = (
            f"Transcribed {recordings}{_time(self.audio_s)} in {_time(taken_s)} "
            f"({speed:.3g} × real time) with {self.last.model} on {self.last.device}."
        )
        return f"{line} {', '.join(others).capitalize()}." if others else line


def _time(seconds: float) -> str:
    """``3.2 s``, ``4:05 min``, ``1:02:03 h``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest_s = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}:{rest_s:02} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest_s:02} h"
