"""Map rows of the table of jobs to records and back."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from ..domain.transcript import Notice
from .database import clock
from .failed_starts import no_worker
from .models import Job, JobFailure, JobOptions, JobStatus
from .outputs import NewOutput, of_jobs
from .schema import jobs, speeds, workers

UNFINISHED = (JobStatus.QUEUED.value, JobStatus.RUNNING.value)
# Two comparisons instead of IN, whose text would be rendered again for every execution.
IS_UNFINISHED = sa.or_(*(jobs.c.status == status for status in UNFINISHED))
SILENT_S = 20.0  # a worker counts as gone after this long without a heartbeat
ALIVE = sa.select(workers.c.worker_id).where(workers.c.beat_at > sa.bindparam("since"))
_N_ALIVE = ALIVE.with_only_columns(sa.func.count())


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to add. ``answer``: the row of a finished job with the same transcript."""

    source: str
    signature: str
    content_hash: str | None
    options: JobOptions
    options_key: str
    force: bool
    queue: str
    priority: int
    answer: Any = None
    is_new_hash: bool = False  # computed for this submission, not yet stored
    roots: tuple[str, ...] | None = None
    owner: str = ""  # see ``owners.py``
    outputs: tuple[NewOutput, ...] = ()


def to_row(job_id: str, job: NewJob, batch_id: str | None) -> dict[str, Any]:
    """The row of a new job, which is finished if the job has an answer."""
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


def to_warnings(notices: Sequence[Notice]) -> str:
    """The column of a job's warnings."""
    return json.dumps([[notice.code, notice.message] for notice in notices], ensure_ascii=False)


def to_jobs(connection: sa.Connection, rows: Sequence[Any]) -> list[Job]:
    """Rows as records, with queue positions and remaining times."""
    found = _with_outputs(connection, rows)
    if not any(row.status in UNFINISHED for row in rows):
        return found
    queue = QueueState.read(
        connection, [row.job_id for row in rows if row.status == JobStatus.QUEUED.value]
    )
    return [
        queue.placed(job, row) if row.status in UNFINISHED else job
        for job, row in zip(found, rows, strict=True)
    ]


def _with_outputs(connection: sa.Connection, rows: Sequence[Any]) -> list[Job]:
    """A job with unwritten output files is still running, although it has its transcript."""
    files = of_jobs(connection, [row.job_id for row in rows])
    found = []
    for job in map(_to_job, rows):
        of_job = files.get(job.job_id)
        if of_job is not None:
            job = replace(job, outputs=of_job.written, warnings=(*job.warnings, *of_job.notices))
            if of_job.is_pending and job.status is JobStatus.COMPLETED:
                job = replace(job, status=JobStatus.RUNNING, stage="write", finished_at=None)
        found.append(job)
    return found


def _to_job(row: Any) -> Job:
    status = JobStatus(row.status)
    duration = row.duration_s
    percent = 100.0 if status is JobStatus.COMPLETED else 0.0
    if duration and status is not JobStatus.COMPLETED:
        percent = min(100.0, 100.0 * row.done_s / duration)
    error = (
        JobFailure(row.error_code, row.error_message, row.error_hint or "")
        if row.error_code
        else None
    )
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
class QueueState:
    """The state of the queue, for some of its jobs."""

    position: dict[str, int]
    left_s: dict[str, float | None]  # audio to transcribe until this job is done
    speed: float | None  # × real time, of one device
    n_workers: int
    waiting_for: str | None  # reason for the lack of a worker, if known

    @classmethod
    def read(cls, connection: sa.Connection, waiting: Sequence[str]) -> QueueState:
        """For the jobs ``waiting``. The database counts, so a long queue does not slow a call."""
        position: dict[str, int] = {}
        left_s: dict[str, float | None] = {}
        running_s, unknown, audio_s, work_s = connection.execute(_RUNNING).one()
        if waiting:
            for row in connection.execute(_WAITING, {"requested": waiting}):
                position[row.job_id] = row.position
                known = unknown + row.unknown == 0
                left_s[row.job_id] = running_s + row.left_s if known else None
        since = {"since": clock(connection) - SILENT_S}
        n_workers = connection.execute(_N_ALIVE, since).scalar_one()
        waiting_for = None if n_workers else no_worker(connection)
        return cls(position, left_s, audio_s / work_s if work_s else None, n_workers, waiting_for)

    def placed(self, job: Job, row: Any) -> Job:
        job = replace(job, waiting_for=self._waiting_for(job))
        if job.status is JobStatus.RUNNING:
            left_s = None if row.duration_s is None else max(0.0, row.duration_s - row.done_s)
            speed = row.speed or self.speed
        else:
            left_s = self.left_s.get(job.job_id)
            speed = (self.speed or 0.0) * max(1, self.n_workers)
            job = replace(job, queue_position=self.position.get(job.job_id))
        return replace(job, eta_s=left_s / speed if left_s is not None and speed else None)

    def _waiting_for(self, job: Job) -> str | None:
        if (
            self.waiting_for is None
            and not self.n_workers
            and time.time() - job.created_at > SILENT_S
        ):
            return "no worker: none runs"  # a younger job's worker may be starting
        return self.waiting_for


_left_s = sa.case((jobs.c.duration_s > jobs.c.done_s, jobs.c.duration_s - jobs.c.done_s), else_=0.0)
_unknown = sa.case((jobs.c.duration_s.is_(None), 1), else_=0)
_order = (jobs.c.priority, jobs.c.job_id)
_RUNNING = sa.select(
    sa.func.coalesce(sa.func.sum(_left_s), 0.0),
    sa.func.coalesce(sa.func.sum(_unknown), 0),
    sa.select(sa.func.sum(speeds.c.audio_s)).scalar_subquery(),
    sa.select(sa.func.sum(speeds.c.work_s)).scalar_subquery(),
).where(jobs.c.status == JobStatus.RUNNING.value)
_in_line = (
    sa.select(
        jobs.c.job_id,
        sa.func.row_number().over(partition_by=jobs.c.queue, order_by=_order).label("position"),
        sa.func.sum(_left_s).over(order_by=_order).label("left_s"),
        sa.func.sum(_unknown).over(order_by=_order).label("unknown"),
    )
    .where(jobs.c.status == JobStatus.QUEUED.value)
    .subquery()
)
_WAITING = sa.select(_in_line).where(
    _in_line.c.job_id.in_(sa.bindparam("requested", expanding=True))
)
