"""Rows of the table of jobs, to and from records."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from ..transcript import Notice
from .records import Job, JobFailure, JobOptions, JobStatus
from .tables import jobs, speeds

UNFINISHED = (JobStatus.QUEUED.value, JobStatus.RUNNING.value)


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to add. ``answer`` is the row of the job whose transcript answers it at once."""

    source: str
    signature: str
    content_hash: str | None
    options: JobOptions
    options_key: str
    force: bool
    queue: str
    priority: int
    answer: Any = None
    is_new_hash: bool = False  # computed now: to be known when the same file comes again

    def answered_by(self, row: Any) -> NewJob:
        return replace(self, answer=row)


def to_row(job_id: str, job: NewJob, batch_id: str | None) -> dict[str, Any]:
    """A new job, or one that is answered at once."""
    now = time.time()
    row: dict[str, Any] = {
        "job_id": job_id,
        "batch_id": batch_id,
        "source": job.source,
        "signature": job.signature,
        "content_hash": job.content_hash,
        "options": job.options.dumps(),
        "options_key": job.options_key,
        "force": job.force,
        "queue": job.queue,
        "priority": job.priority,
        "status": JobStatus.QUEUED.value,
        "stage": JobStatus.QUEUED.value,
        "created_at": now,
        "done_s": 0.0,
        "attempts": 0,
        "crashes": 0,
        "crash_steps": 0,
        "at_risk": False,
        "keeps_steps": True,
        "warnings": "[]",
    }
    answer = job.answer
    copied = ("duration_s", "language", "engine", "model", "device", "transcript_id")
    row |= {name: getattr(answer, name) if answer is not None else None for name in copied}
    row |= {"from_job_id": None, "started_at": None, "finished_at": None}
    if answer is not None:
        row |= {
            "status": JobStatus.COMPLETED.value,
            "keeps_steps": False,
            "stage": "",
            "done_s": answer.duration_s or 0.0,
            "started_at": now,
            "finished_at": now,
            "warnings": answer.warnings,
            "from_job_id": answer.from_job_id or answer.job_id,
        }
    return row


def to_jobs(connection: sa.Connection, rows: Sequence[Any]) -> list[Job]:
    """Rows as records, with their places in the queue and the time that they still take."""
    if not any(row.status in UNFINISHED for row in rows):
        return [_to_job(row) for row in rows]
    queue = _Queue.read(connection)
    return [queue.placed(_to_job(row), row) if row.status in UNFINISHED else _to_job(row) for row in rows]


def _to_job(row: Any) -> Job:
    status = JobStatus(row.status)
    duration = row.duration_s
    percent = 100.0 if status is JobStatus.COMPLETED else 0.0
    if duration and status is not JobStatus.COMPLETED:
        percent = min(100.0, 100.0 * row.done_s / duration)
    error = JobFailure(row.error_code, row.error_message, row.error_hint or "") if row.error_code else None
    return Job(
        job_id=row.job_id,
        source=row.source,
        status=status,
        options=JobOptions.loads(row.options),
        batch_id=row.batch_id,
        stage=row.stage,
        percent=percent,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        duration_s=duration,
        error=error,
        warnings=tuple(Notice(code, message) for code, message in json.loads(row.warnings)),
        attempts=row.attempts,
        from_job_id=row.from_job_id,
        language=row.language,
        model=row.model,
        device=row.device,
    )


@dataclass(frozen=True, slots=True)
class _Queue:
    """Everything that waits or runs, as far as places and times need it."""

    position: dict[str, int]
    audio_before_s: dict[str, float | None]  # still to be transcribed before this one is, itself included
    speed: float | None  # seconds of audio a second, of the device as a whole

    @classmethod
    def read(cls, connection: sa.Connection) -> _Queue:
        columns = (jobs.c.job_id, jobs.c.queue, jobs.c.status, jobs.c.duration_s, jobs.c.done_s)
        query = sa.select(*columns).where(jobs.c.status.in_(UNFINISHED)).order_by(jobs.c.priority, jobs.c.job_id)
        rows = connection.execute(query).all()
        ahead: float | None = 0.0
        for row in rows:
            if row.status == JobStatus.RUNNING.value:
                ahead = _sum(ahead, _left(row))
        position: dict[str, int] = {}
        before: dict[str, float | None] = {}
        n: dict[str, int] = {}
        for row in rows:
            if row.status == JobStatus.QUEUED.value:
                n[row.queue] = position[row.job_id] = n.get(row.queue, 0) + 1
                ahead = before[row.job_id] = _sum(ahead, _left(row))
        measured = connection.execute(sa.select(sa.func.sum(speeds.c.audio_s), sa.func.sum(speeds.c.work_s))).one()
        return cls(position, before, measured[0] / measured[1] if measured[1] else None)

    def placed(self, job: Job, row: Any) -> Job:
        if job.status is JobStatus.RUNNING:
            left, speed = _left(row), row.speed or self.speed
            return replace(job, eta_s=left / speed if left is not None and speed else None)
        left = self.audio_before_s.get(job.job_id)
        eta_s = left / self.speed if left is not None and self.speed else None
        return replace(job, queue_position=self.position.get(job.job_id), eta_s=eta_s)


def _left(row: Any) -> float | None:
    return None if row.duration_s is None else max(0.0, row.duration_s - row.done_s)


def _sum(a: float | None, b: float | None) -> float | None:
    return None if a is None or b is None else a + b
