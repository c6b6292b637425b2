"""When to check a job that a caller waits for."""

from __future__ import annotations

import time
from collections.abc import Callable

from .models import Batch, Job

MIN_POLL_S = 0.02
MAX_POLL_S = 0.25
POLL_SHARE = 0.02  # of the time waited so far
UNREAD_S = 1.0  # after which a job is read without a change; estimates and failed starts change

GetJob = Callable[[str], Job | Batch]


class Polls:
    """Growing pauses between checks of a job, so that short jobs are noticed promptly.

    A check reads the job only if the database has changed, or occasionally.

    Args:
        version: of the database's content, see ``Service.version``.
        seconds: to wait for the job.
    """

    def __init__(self, get_job: GetJob, version: Callable[[], int | None], seconds: float) -> None:
        self._get_job = get_job
        self._database_version = version
        self._begin = time.monotonic()
        self._seconds = seconds
        self._version: int | None = None
        self._read_at = 0.0

    def pause_s(self, job: Job | Batch) -> float | None:
        """Seconds until the next check, or ``None`` if the job is final or the time is over."""
        waited_s = time.monotonic() - self._begin
        if job.status.is_final or waited_s >= self._seconds:
            return None
        pause_s = min(MAX_POLL_S, max(MIN_POLL_S, POLL_SHARE * waited_s))
        return min(pause_s, self._seconds - waited_s)

    def look(self, job: Job | Batch) -> Job | Batch:
        """The present state of the job. Raises as ``Service.get_job``."""
        version = self._database_version()
        now = time.monotonic()
        is_old = version is None or now - self._read_at >= UNREAD_S
        if not is_old and version == self._version:
            return job
        self._version = version
        self._read_at = now
        return self._get_job(job.job_id)
