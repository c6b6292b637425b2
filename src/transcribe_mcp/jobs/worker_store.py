"""A worker's changes to its jobs. See ``store.py`` for the conditions on every change."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import sqlalchemy as sa

from ..domain.transcript import Notice, Transcript
from ..errors import CancelledError, TranscribeError, UsageError
from . import transcripts
from .adding import REMEMBER_HASH
from .database import clock, require
from .failed_starts import clear_failed_start
from .ids import new_id
from .models import JobOptions, JobStatus
from .row_mapping import ALIVE, IS_UNFINISHED, to_warnings
from .schema import jobs, speeds, workers
from .store import Store
from .transcripts import ContentKey
from .writer_link import RequirementError

CRASHES_SET_ASIDE = 2  # crashes at the same place after which a job fails
KILLS_SET_ASIDE = 10  # the same if the last worker was killed from outside
SPEED_MEMORY_S = 600.0  # of work, over which measured speeds are averaged


@dataclass(frozen=True, slots=True)
class Claim:
    """A job that a worker has claimed. ``attempt`` distinguishes this run from all others.

    Attributes:
        crashes: of its workers since its last checkpoint.
        crash_steps: number of checkpoints at its last crash.
        resolved: the engine of its first run; ``None`` before it.
        device_forced: overrides the device of its options.
        left_by: the worker that left it running; ``None`` if it was queued.
    """

    job_id: str
    attempt: int
    source: str
    signature: str
    content_hash: str | None
    options: JobOptions
    options_key: str
    force: bool
    crashes: int
    crash_steps: int
    resolved: ResolvedEngine | None
    device: str | None
    device_forced: str | None
    duration_s: float | None
    done_s: float
    warnings: tuple[Notice, ...]
    left_by: str | None

    @property
    def works_anyway(self) -> bool:
        """Whether to transcribe even if another job has or will have the same transcript."""
        return self.force or self.resolved is not None


@dataclass(frozen=True, slots=True)
class ResolvedEngine:
    """The engine that a job was started with, and resumes with."""

    engine: str
    model: str
    device: str
    batch_size: int


class WorkerStore:
    """Writes a worker's changes; touches only jobs that this worker owns at this attempt."""

    def __init__(self, store: Store, worker_id: str) -> None:
        self._store = store
        self.worker_id = worker_id

    def claim(self, job_id: str) -> Claim | None:
        """Take a job; ``None`` if it was cancelled, deleted or finished meanwhile.

        A job that is running and at risk was left by a worker that died. That counts as a crash.
        """
        with self._store.begin() as connection:
            left_by = connection.execute(
                sa.select(jobs.c.worker_id).where(jobs.c.job_id == job_id)
            ).scalar()
        row = self._store.transact(
            lambda connection: connection.execute(
                jobs.update()
                .where(jobs.c.job_id == job_id, IS_UNFINISHED)
                .values(
                    status=JobStatus.RUNNING.value,
                    stage="load",
                    worker_id=self.worker_id,
                    attempts=jobs.c.attempts + 1,
                    crashes=_CRASHES,
                    at_risk=False,
                    started_at=sa.func.coalesce(jobs.c.started_at, time.time()),
                )
                .returning(jobs)
            ).first()
        )
        return None if row is None else self._read(row, left_by)

    def _read(self, row: Any, left_by: str | None) -> Claim | None:
        """The job of a row. One with options of another version fails."""
        try:
            return _to_claim(row, left_by, JobOptions.loads(row.options))
        except UsageError as error:
            self.fail(_to_claim(row, left_by, JobOptions()), error)
            return None

    def is_mine(self, claim: Claim) -> bool:
        with self._store.begin() as connection:
            return (claim.job_id, claim.attempt) in self._mine(connection)

    def change(self, claim: Claim, values: Mapping[str, Any]) -> None:
        """
        Raises:
            CancelledError: this worker no longer owns the job.
        """
        with self._store.begin() as connection:
            changed = connection.execute(self._of(claim, jobs.update()).values(**values)).rowcount
        if not changed:  # read after the commit, so the transaction is one request to the writer
            raise _lost(claim)

    def remember_hash(self, claim: Claim, content_hash: str) -> None:
        """Of a source with the signature that it had when the job was submitted."""
        row = {"source": claim.source, "signature": claim.signature, "content_hash": content_hash}
        with self._store.begin() as connection:
            connection.execute(REMEMBER_HASH, row)

    def record_start(self, claim: Claim, resolved: ResolvedEngine) -> None:
        self.change(claim, asdict(resolved))

    def warn(self, claim: Claim, notices: Sequence[Notice]) -> None:
        self.change(claim, {"warnings": to_warnings(notices)})

    def judge_crashes(self, claim: Claim, n_steps: int) -> Claim:
        """Reset the crash count if the job has advanced since its last crash."""
        if not claim.crashes:
            return claim
        crashes = 1 if n_steps > claim.crash_steps else claim.crashes
        self.change(claim, {"crashes": crashes, "crash_steps": n_steps})
        return replace(claim, crashes=crashes, crash_steps=n_steps)

    def clear_crashes(self, claim: Claim) -> None:
        """Reset the crash count after a new checkpoint."""
        if claim.crashes:
            self.change(claim, {"crashes": 0})

    def finish(
        self,
        claim: Claim,
        content: ContentKey,
        transcript: Transcript,
        evidence: bytes | None = None,
    ) -> None:
        """Complete the job; save its transcript and its speakers' evidence in one transaction."""
        transcript_id = new_id()
        values = {
            "content_hash": content.content_hash,
            "duration_s": transcript.duration,
            "done_s": transcript.duration,
            "language": transcript.language,
            "engine": transcript.engine,
            "model": transcript.model,
            "device": transcript.device,
            "warnings": to_warnings(transcript.warnings),
            "transcript_id": transcript_id,
            **_finished(JobStatus.COMPLETED),
        }
        try:
            with self._store.begin() as connection:
                require(connection, _IS_MINE, self._identity(claim))
                transcripts.save(connection, transcript_id, content, transcript, evidence)
                connection.execute(self._of(claim, jobs.update()).values(**values))
        except RequirementError as error:
            raise _lost(claim) from error

    def answer(self, claim: Claim, row: Any) -> None:
        """Complete the job with the transcript of an earlier job on the same content."""
        names = (
            "duration_s",
            "language",
            "engine",
            "model",
            "device",
            "transcript_id",
            "warnings",
            "content_hash",
        )
        values = {name: getattr(row, name) for name in names}
        values |= {"from_job_id": row.from_job_id or row.job_id, "done_s": row.duration_s or 0.0}
        self.change(claim, values | _finished(JobStatus.COMPLETED))

    def fail(self, claim: Claim, error: TranscribeError) -> None:
        values = {"error_code": error.code, "error_message": str(error), "error_hint": error.hint}
        self.change(claim, values | _finished(JobStatus.FAILED))

    def heartbeat(self, progress: Mapping[Claim, Mapping[str, Any]]) -> list[Claim]:
        """Record the progress of running jobs; returns those that this worker lost."""
        if not progress:
            return []
        with self._store.begin() as connection:
            mine = self._mine(connection)
            for claim, values in progress.items():
                if values and (claim.job_id, claim.attempt) in mine:
                    connection.execute(self._of(claim, jobs.update()).values(**values))
        return [claim for claim in progress if (claim.job_id, claim.attempt) not in mine]

    def report_alive(self) -> None:
        """Tell the other workers that this one is alive."""
        with self._store.begin() as connection:
            mine = workers.update().where(workers.c.worker_id == self.worker_id)
            connection.execute(mine.values(beat_at=clock(connection)))

    def _mine(self, connection: sa.Connection) -> set[tuple[str, int]]:
        query = sa.select(jobs.c.job_id, jobs.c.attempts).where(
            jobs.c.status == JobStatus.RUNNING.value, jobs.c.worker_id == self.worker_id
        )
        return {(job_id, attempt) for job_id, attempt in connection.execute(query)}

    def record_speed(self, model: str, audio_s: float, work_s: float) -> None:
        """Add a measurement to the average speed of a model, from which remaining times follow.

        Safe with concurrent workers: every statement is atomic.
        """
        kept = max(0.0, 1.0 - work_s / SPEED_MEMORY_S)
        with self._store.begin() as connection:
            connection.execute(_NEW_SPEED, {"model": model})
            connection.execute(
                speeds.update()
                .where(speeds.c.model == model)
                .values(
                    audio_s=audio_s + kept * speeds.c.audio_s,
                    work_s=work_s + kept * speeds.c.work_s,
                )
            )

    # --- workers --------------------------------------------------------------------------------

    def register(self, pid: int) -> None:
        with self._store.begin() as connection:
            connection.execute(workers.delete().where(workers.c.worker_id == self.worker_id))
            values = {"worker_id": self.worker_id, "pid": pid, "beat_at": clock(connection)}
            connection.execute(workers.insert().values(**values))
            clear_failed_start(connection, self.worker_id)

    def requeue_running(self) -> None:
        """Requeue this worker's running jobs after a clean exit, without counting a crash."""
        with self._store.begin() as connection:
            mine = jobs.update().where(
                jobs.c.worker_id == self.worker_id, jobs.c.status == JobStatus.RUNNING.value
            )
            connection.execute(mine.values(**_QUEUED))

    def unregister(self) -> None:
        with self._store.begin() as connection:
            connection.execute(workers.delete().where(workers.c.worker_id == self.worker_id))

    def orphans(self, silent_s: float) -> list[tuple[str, str]]:
        """(id, queue) of unfinished jobs whose worker had no heartbeat for this long."""
        with self._store.begin() as connection:
            since = {"since": clock(connection) - silent_s}
            query = sa.select(jobs.c.job_id, jobs.c.queue).where(
                IS_UNFINISHED,
                jobs.c.worker_id.is_not(None),
                jobs.c.worker_id != self.worker_id,
                jobs.c.worker_id.not_in(ALIVE),
            )
            return [(job_id, queue) for job_id, queue in connection.execute(query, since)]

    def alive(self, silent_s: float) -> list[str]:
        """The ids of the workers with a recent heartbeat, and of this worker."""
        with self._store.begin() as connection:
            since = {"since": clock(connection) - silent_s}
            return list({*connection.execute(ALIVE, since).scalars(), self.worker_id})

    def unfinished(self) -> dict[str, int]:
        """The number of unfinished jobs of each queue."""
        query = sa.select(jobs.c.queue, sa.func.count()).where(IS_UNFINISHED).group_by(jobs.c.queue)
        with self._store.begin() as connection:
            return {row[0]: row[1] for row in connection.execute(query)}

    def take_over_orphan(self, job_id: str, queue: str) -> None:
        """Requeue a job whose worker is gone. Of several workers that try, one succeeds."""
        with self._store.begin() as connection:
            change = (
                jobs.update()
                .where(jobs.c.job_id == job_id, IS_UNFINISHED)
                .where(jobs.c.worker_id != self.worker_id)
                .values(worker_id=None, crashes=_CRASHES, **_QUEUED)
            )
            changed = connection.execute(change).rowcount
        if changed:
            self._store.queue.take_over(job_id, queue)

    # --- maintenance ----------------------------------------------------------------------------

    def delete_old_steps(self, older_s: float, limit: int = 100) -> None:
        """Delete the checkpoints of completed jobs, whose transcripts are saved."""
        with self._store.begin() as connection:
            query = (
                sa.select(jobs.c.job_id)
                .where(jobs.c.status == JobStatus.COMPLETED.value, jobs.c.keeps_steps)
                .where(jobs.c.finished_at < time.time() - older_s)
                .limit(limit)
            )
            ids = list(connection.execute(query).scalars())
        if ids:
            self._store.queue.delete(ids)
            with self._store.begin() as connection:
                connection.execute(
                    jobs.update().where(jobs.c.job_id.in_(ids)).values(keeps_steps=False)
                )

    def requeue_stranded(self, older_s: float) -> None:
        """Requeue queued jobs without a workflow to start them, left by an interrupted retry."""
        with self._store.begin() as connection:
            query = sa.select(jobs.c.job_id, jobs.c.queue).where(
                jobs.c.status == JobStatus.QUEUED.value, jobs.c.created_at < time.time() - older_s
            )
            queues = {row.job_id: row.queue for row in connection.execute(query)}
        if queues:
            for job_id in self._store.queue.stranded(list(queues)):
                self._store.queue.requeue(job_id, queues[job_id])

    def requeue_unclaimed(self, older_s: float, silent_s: float) -> None:
        """Requeue queued jobs whose worker died after taking and before claiming them."""
        with self._store.begin() as connection:
            query = sa.select(jobs.c.job_id, jobs.c.queue).where(
                jobs.c.status == JobStatus.QUEUED.value,
                jobs.c.worker_id.is_(None),
                jobs.c.created_at < time.time() - older_s,
            )
            queues = {row.job_id: row.queue for row in connection.execute(query)}
        if queues:
            for job_id in self._store.queue.taken_by_others(list(queues), self.alive(silent_s)):
                self._store.queue.take_over(job_id, queues[job_id])

    def without_duration(self, limit: int) -> list[tuple[str, str]]:
        """(id, source) of queued jobs of unknown duration."""
        with self._store.begin() as connection:
            query = (
                sa.select(jobs.c.job_id, jobs.c.source)
                .where(jobs.c.status == JobStatus.QUEUED.value, jobs.c.duration_s.is_(None))
                .order_by(jobs.c.priority, jobs.c.job_id)
                .limit(limit)
            )
            return [(job_id, source) for job_id, source in connection.execute(query)]

    def set_duration(self, job_id: str, duration_s: float) -> None:
        with self._store.begin() as connection:
            change = jobs.update().where(jobs.c.job_id == job_id, jobs.c.duration_s.is_(None))
            connection.execute(change.values(duration_s=duration_s))

    def _of(self, claim: Claim, update: sa.Update) -> sa.Update:
        return update.where(
            jobs.c.job_id == claim.job_id,
            jobs.c.status == JobStatus.RUNNING.value,
            jobs.c.worker_id == self.worker_id,
            jobs.c.attempts == claim.attempt,
        )

    def _identity(self, claim: Claim) -> dict[str, Any]:
        return {"job": claim.job_id, "worker": self.worker_id, "attempt": claim.attempt}


_IS_MINE = (
    sa.select(sa.func.count())
    .select_from(jobs)
    .where(
        jobs.c.job_id == sa.bindparam("job"),
        jobs.c.status == JobStatus.RUNNING.value,
        jobs.c.worker_id == sa.bindparam("worker"),
        jobs.c.attempts == sa.bindparam("attempt"),
    )
)
_NEW_SPEED = sa.text(
    "INSERT INTO speeds (model, audio_s, work_s) VALUES (:model, 0, 0) "
    "ON CONFLICT (model) DO NOTHING"
)

# New crash count of a row that a worker left. An UPDATE evaluates it on the old row.
_CRASHES = sa.case(
    (sa.and_(jobs.c.status == JobStatus.RUNNING.value, jobs.c.at_risk), jobs.c.crashes + 1),
    else_=jobs.c.crashes,
)
_QUEUED = {"status": JobStatus.QUEUED.value, "stage": JobStatus.QUEUED.value, "at_risk": False}


def _finished(status: JobStatus) -> dict[str, Any]:
    return {
        "status": status.value,
        "stage": "",
        "finished_at": time.time(),
        "crashes": 0,
        "at_risk": False,
    }


def _lost(claim: Claim) -> CancelledError:
    return CancelledError(f"job {claim.job_id} was cancelled or given to another worker")


def _to_claim(row: Any, left_by: str | None, options: JobOptions) -> Claim:
    resolved = (
        ResolvedEngine(row.engine, row.model, row.device, row.batch_size)
        if row.batch_size
        else None
    )
    return Claim(
        job_id=row.job_id,
        attempt=row.attempts,
        source=row.source,
        signature=row.signature,
        content_hash=row.content_hash,
        options=options,
        options_key=row.options_key,
        force=row.force,
        crashes=row.crashes,
        crash_steps=row.crash_steps,
        resolved=resolved,
        device=row.device,
        device_forced=row.device_forced,
        duration_s=row.duration_s,
        done_s=row.done_s,
        warnings=tuple(Notice(code, message) for code, message in json.loads(row.warnings)),
        left_by=left_by,
    )
