"""How often a program that waits for a job looks at it."""

from __future__ import annotations

import time

from .models import Batch, Job

MIN_POLL_S = 0.03
MAX_POLL_S = 0.25
POLL_SHARE = 0.05  # of the time waited so far


class Polls:
    """The growing pauses between two looks at a job, so that short jobs end promptly."""

    def __init__(self, seconds: float) -> None:
        self._begin = time.monotonic()
        self._seconds = seconds

    def pause_s(self, job: Job | Batch) -> float | None:
        """Seconds until the next poll, or ``None`` if the job is final or the time is over."""
        waited_s = time.monotonic() - self._begin
        if job.status.is_final or waited_s >= self._seconds:
            return None
        pause_s = min(MAX_POLL_S, max(MIN_POLL_S, POLL_SHARE * waited_s))
        return min(pause_s, self._seconds - waited_s)
