"""The store of all jobs. Front ends and workers communicate only through it.

The row of a job holds what the user sees; its workflow (``queue.py``) only ensures that a worker
takes it. Every update of a row is conditional on its status, so the second of two changes finds no
row: a cancelled job stays cancelled, whatever its worker does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ..domain.transcript import Transcript
from ..errors import JobNotFoundError, JobStateError, UsageError
from . import adding, outputs, owners, spool, transcripts
from .database import Database
from .failed_starts import clear_failed_start, record_failed_start, worker_id
from .group_commit import GroupCommit
from .ids import is_id, new_id
from .models import (
    Batch,
    HitPage,
    Job,
    JobFailure,
    JobFilter,
    JobOptions,
    JobPage,
    JobStatus,
    Refused,
)
from .queue import SHORT, WorkflowQueue
from .retention import JobFiles, drop_unused_files, ended_long_ago
from .row_mapping import IS_UNFINISHED, NewJob, QueueState, to_jobs
from .schema import batches, files, job_roots, jobs
from .transcripts import ContentKey, job_conditions

PAGE_LIMIT = 500
MAX_QUEUE_LENGTH = 2**31 - 1  # PostgreSQL's largest integer

# Columns of a run, which a retry clears.
_OF_A_RUN = (
    "started_at",
    "finished_at",
    "error_code",
    "error_message",
    "error_hint",
    "speed",
    "worker_id",
)
_RETRIABLE = (JobStatus.FAILED.value, JobStatus.CANCELLED.value)


# Statements are built once: building one takes longer than SQLite takes to execute it.
def _same(*columns: sa.Column[Any]) -> list[sa.ColumnElement[bool]]:
    return [column == sa.bindparam(column.name) for column in columns]


_JOB = sa.select(jobs, transcripts.REVISION).where(*_same(jobs.c.job_id))
_HASH = sa.select(files.c.content_hash).where(*_same(files.c.path, files.c.signature))
_ANSWER = (
    sa.select(jobs)
    .where(*_same(jobs.c.content_hash, jobs.c.options_key))
    .where(jobs.c.status == JobStatus.COMPLETED.value, jobs.c.transcript_id.is_not(None))
    .order_by(
        sa.case((jobs.c.source == sa.bindparam("source"), 0), else_=1),
        sa.case((jobs.c.from_job_id.is_(None), 0), else_=1),
        jobs.c.job_id.desc(),
    )
    .limit(1)
)
_ANY_UNFINISHED = sa.select(jobs.c.job_id).where(IS_UNFINISHED).limit(1)
_OTHERS_RUNNING = sa.select(jobs.c.job_id).where(
    *_same(jobs.c.content_hash, jobs.c.options_key),
    jobs.c.status == JobStatus.RUNNING.value,
    jobs.c.job_id != sa.bindparam("mine"),
)
_EARLIER = jobs.c.job_id < sa.bindparam("mine")
_ACTIVE_ELSEWHERE = _OTHERS_RUNNING.where(
    sa.or_(jobs.c.batch_size.is_not(None), jobs.c.at_risk, _EARLIER)
)


class _UndoError(Exception):
    """Ends a transaction without applying it."""


class Store(Database):
    """The jobs, their transcripts and workflows, for any process."""

    def __init__(self, data_dir: Path, configured_url: str = "") -> None:
        super().__init__(data_dir, configured_url)
        self.queue = WorkflowQueue(self.engine)
        self._group_commit: GroupCommit[tuple[NewJob, int], str] = GroupCommit(
            lambda new: self.transact(lambda begun: adding.add(begun, self.queue, new, None))
        )

    # --- adding ---------------------------------------------------------------------------------

    def warm_up(self) -> None:
        """Start SQLite's writer process and compile the statements of a submission.

        Raises:
            StoreError: the database cannot be written.
        """
        self.known_hash("", "")
        self.find_finished(ContentKey("", ""), "")
        with suppress(JobNotFoundError):
            self.get("")
        with self.begin() as connection:
            QueueState.read(connection, [""])
        new = NewJob(
            __file__, "", "", JobOptions(), "", force=False, queue=SHORT, priority=1,
            is_new_hash=True,
        )  # fmt: skip
        with suppress(_UndoError), self.begin() as connection:
            adding.add(connection, self.queue, [(new, MAX_QUEUE_LENGTH)], None)
            connection.execute(sa.select(sa.literal(1))).scalar()  # one request to the writer
            raise _UndoError

    def add(self, new: NewJob, limit: int) -> str:
        """Add a job with its workflow, or join one on the same file; returns its id.

        Concurrent calls of several threads share one transaction.

        Raises:
            QueueFullError: more than ``limit`` jobs would be queued.
        """
        return self._group_commit((new, limit))

    def add_batch(self, new: Sequence[NewJob], refused: Sequence[Refused], limit: int) -> str:
        """Add jobs as one batch; returns its id. It also lists ``refused`` and jobs without room.

        Raises:
            QueueFullError: none of them fits into the queue.
        """
        batch_id = new_id()

        def add(connection: sa.Connection) -> None:
            added = adding.add(connection, self.queue, [(job, limit) for job in new], batch_id)
            full = [error for error in added if isinstance(error, Exception)]
            if full and len(full) == len(new):
                raise full[0]
            left_out = [*refused, *adding.refused(new, added)]
            rows = [[r.source, r.error.code, r.error.message, r.error.hint] for r in left_out]
            values = {"batch_id": batch_id, "created_at": time.time(), "refused": json.dumps(rows)}
            connection.execute(batches.insert().values(**values))

        self.transact(add)
        return batch_id

    def find_finished(self, content: ContentKey, source: str) -> Any | None:
        """The newest completed job with the same content and options, preferably of this source."""
        with self.begin() as connection:
            return connection.execute(_ANSWER, asdict(content) | {"source": source}).first()

    def is_active_elsewhere(
        self, content: ContentKey, mine: str, *, earlier_only: bool = False
    ) -> bool:
        """Whether a started or earlier job produces this transcript."""
        with self.begin() as connection:
            query = _OTHERS_RUNNING.where(_EARLIER) if earlier_only else _ACTIVE_ELSEWHERE
            return connection.execute(query, {**asdict(content), "mine": mine}).first() is not None

    def known_hash(self, path: str, signature: str) -> str | None:
        with self.begin() as connection:
            return connection.execute(_HASH, {"path": path, "signature": signature}).scalar()

    # --- reading --------------------------------------------------------------------------------

    def get(self, job_id: str, owner: str = "") -> Job | Batch:
        """A job or a batch as its owner sees it: if cancelled, it may continue for others.

        Raises:
            JobNotFoundError: no job and no batch has this id.
        """
        with self.begin() as connection:
            row = connection.execute(_JOB, {"job_id": job_id}).first()
            if row is not None:
                job = to_jobs(connection, [row])[0]
                cancelled_at = owners.has_cancelled(connection, job_id, owner)
                return job if cancelled_at is None else owners.as_cancelled(job, cancelled_at)
            batch = connection.execute(
                sa.select(batches).where(batches.c.batch_id == job_id)
            ).first()
            if batch is None:
                raise owners.not_found(job_id)
            refused = tuple(
                Refused(source, JobFailure(code, message, hint))
                for source, code, message, hint in json.loads(batch.refused)
            )
            return Batch(job_id, self._of_batch(connection, job_id), refused)

    def _of_batch(self, connection: sa.Connection, batch_id: str) -> tuple[Job, ...]:
        cancelled_at = dict(owners.of_batch(connection, batch_id))
        rows = connection.execute(
            sa.select(jobs).where(jobs.c.job_id.in_(list(cancelled_at)))
        ).all()
        found = {job.job_id: replace(job, batch_id=batch_id) for job in to_jobs(connection, rows)}
        return tuple(
            found[job_id] if at is None else owners.as_cancelled(found[job_id], at)
            for job_id, at in cancelled_at.items()
            if job_id in found
        )

    def row(self, job_id: str) -> Any:
        """
        Raises:
            JobNotFoundError: no job has this id.
        """
        with self.begin() as connection:
            row = connection.execute(_JOB, {"job_id": job_id}).first()
        if row is None:
            raise owners.not_found(job_id)
        return row

    def roots(self, job_id: str) -> tuple[Path, ...] | None:
        """The directories that may hold the job's recording; ``None``: any."""
        with self.begin() as connection:
            found = connection.execute(
                sa.select(job_roots.c.roots).where(job_roots.c.job_id == job_id)
            ).scalar()
        return None if found is None else tuple(map(Path, json.loads(found)))

    def list_jobs(self, which: JobFilter, cursor: str | None, limit: int) -> JobPage:
        """
        Raises:
            UsageError: an unknown cursor, or a limit out of range.
        """
        _check_limit(limit)
        if cursor is not None and not is_id(cursor):
            raise _bad_cursor(cursor)
        query = (
            sa.select(jobs)
            .where(*job_conditions(which))
            .order_by(jobs.c.job_id.desc())
            .limit(limit + 1)
        )
        if not which.batch_id:
            query = query.where(transcripts.is_no_copy())
        if cursor is not None:
            query = query.where(jobs.c.job_id < cursor)
        with self.begin() as connection:
            rows = connection.execute(query).all()
            found = tuple(to_jobs(connection, rows[:limit]))
        return JobPage(found, found[-1].job_id if len(rows) > limit else None)

    def search(
        self, query: str, which: JobFilter, cursor: str | None, limit: int, speaker: str = ""
    ) -> HitPage:
        """
        Raises:
            UsageError: a query without a word, an unknown cursor, or a limit out of range.
        """
        _check_limit(limit)
        if cursor is not None and not (
            cursor.isascii() and cursor.isdecimal() and len(cursor) < 10
        ):
            raise _bad_cursor(cursor)
        with self.begin() as connection:
            return transcripts.search(connection, query, which, int(cursor or 0), limit, speaker)

    def steps(self, job_id: str) -> list[str]:
        """The checkpoints of a job, in order."""
        return self.queue.steps(job_id)

    def transcript(self, transcript_id: str) -> Transcript | None:
        with self.begin() as connection:
            return transcripts.load(connection, transcript_id)

    # --- changing -------------------------------------------------------------------------------

    def cancel(self, job_id: str, owner: str, *, for_all: bool = False) -> int:
        """Cancel a job or a batch for an owner. A job stops when its last owner cancels.

        Finished jobs stay as they are. Returns the number of jobs that continue for other owners.

        Raises:
            JobNotFoundError: no job and no batch has this id.
        """

        def cancel(connection: sa.Connection) -> tuple[list[str], int]:
            owners.lock(connection)
            ids, batch_id = owners.members(connection, job_id)
            return owners.cancel(connection, ids, owner, batch_id, for_all=for_all)

        stopped, n_shared = self.transact(cancel)
        if stopped:
            self.queue.cancel(stopped)
        return n_shared

    def delete(self, job_id: str, owner: str) -> int:
        """Delete a job, or a batch with its jobs, and their transcripts; returns their number.

        Jobs that other owners wait for, and jobs of a batch that others share, stay for them.

        Raises:
            JobNotFoundError: no job and no batch has this id.
        """

        def leave(connection: sa.Connection) -> tuple[list[str], list[str], list[str], JobFiles]:
            owners.lock(connection)
            ids, batch_id = owners.members(connection, job_id)
            stopped, gone = owners.leave(connection, ids, owner, batch_id)
            copies = transcripts.copies_of(connection, gone)
            files = self._delete(connection, [*gone, *copies])
            if batch_id is not None:
                connection.execute(batches.delete().where(batches.c.batch_id == batch_id))
            return stopped, gone, copies, files

        stopped, gone, copies, files = self.transact(leave)
        drop_unused_files(self, files)
        self._end_workflows(stopped, [*gone, *copies])
        return len(gone)

    def _delete(self, connection: sa.Connection, job_ids: Sequence[str]) -> JobFiles:
        columns = (jobs.c.transcript_id, jobs.c.signature, jobs.c.source, jobs.c.options)
        of_jobs = sa.select(*columns).where(jobs.c.job_id.in_(job_ids))
        rows = connection.execute(of_jobs).all()
        connection.execute(jobs.delete().where(jobs.c.job_id.in_(job_ids)))
        transcripts.remove_unused(
            connection, [row.transcript_id for row in rows if row.transcript_id is not None]
        )
        for row in rows:
            spool.drop(self.data_dir, row.signature)
        return JobFiles.of(rows)

    def _end_workflows(self, cancelled: Sequence[str], deleted: Sequence[str]) -> None:
        if cancelled or deleted:
            self.queue.cancel([*cancelled, *deleted])
        if deleted:
            self.queue.delete(deleted)

    def record_failed_start(
        self, data_dir: Path, reason: str, next_try_s: float, number: int = 0
    ) -> None:
        """Record why a worker of this machine does not run; queued jobs show it."""
        with self.begin() as connection:
            record_failed_start(
                connection, worker_id(self.url, data_dir, number), reason, next_try_s
            )

    def clear_failed_start(self, data_dir: Path, number: int) -> None:
        """Record that nobody retries to start this worker."""
        with self.begin() as connection:
            clear_failed_start(connection, worker_id(self.url, data_dir, number))

    def unfinished(self, job_ids: Sequence[str]) -> set[str]:
        """The jobs among these that are unfinished."""
        query = sa.select(jobs.c.job_id).where(jobs.c.job_id.in_(job_ids), IS_UNFINISHED)
        with self.begin() as connection:
            return set(connection.execute(query).scalars())

    def sweep_spool(self) -> None:
        """Delete recordings from standard input whose jobs have finished."""
        spool.sweep(self.data_dir, self.unfinished_by_signature)

    def unfinished_by_signature(self, signatures: Collection[str]) -> dict[str, bool]:
        """Whether the jobs with these signatures are unfinished."""
        query = sa.select(jobs.c.signature, IS_UNFINISHED).where(jobs.c.signature.in_(signatures))
        with self.begin() as connection:
            return {signature: bool(value) for signature, value in connection.execute(query)}

    def is_idle(self) -> bool:
        """Whether all jobs are finished and all output files written."""
        with self.begin() as connection:
            return connection.execute(_ANY_UNFINISHED).first() is None and not outputs.due(
                connection
            )

    def count_old(self, keep_days: float) -> int:
        """The number of jobs that ``delete_old`` would delete now."""
        with self.begin() as connection:
            return len(ended_long_ago(connection, keep_days))

    def delete_old(self, keep_days: float) -> int:
        """Delete jobs that finished more than ``keep_days`` ago (0: none); returns their number.

        Raises:
            UsageError: ``keep_days`` is negative or not a number.
        """

        def delete(connection: sa.Connection) -> tuple[list[str], JobFiles]:
            owners.lock(connection)
            ids = ended_long_ago(connection, keep_days)
            return ids, self._delete(connection, ids)

        if self.count_old(keep_days) == 0:
            return 0
        ids, files = self.transact(delete)
        drop_unused_files(self, files)
        self._end_workflows([], ids)
        return len(ids)

    def rejoin(self, job_id: str, owner: str) -> bool:
        """Join a job again that an owner cancelled and others kept; returns whether that was so."""
        with self.begin() as connection:
            if owners.has_cancelled(connection, job_id, owner) is None:
                return False
        self.transact(lambda connection: owners.rejoin(connection, job_id, owner))
        return True

    def retry(self, job_id: str, owner: str) -> None:
        """Queue a failed or cancelled job again; its owner rejoins one that others still wait for.

        Raises:
            JobNotFoundError: no job has this id.
            JobStateError: the job is neither failed nor cancelled.
            SourceNotFoundError: its recording came from standard input and is deleted.
        """
        row = self.row(job_id)
        if row.status not in _RETRIABLE and self.rejoin(job_id, owner):
            return
        if row.status not in _RETRIABLE:
            raise JobStateError(
                f"job {job_id} is {row.status}; only failed and cancelled jobs are retried",
                hint=(
                    "submit the recording again with force"
                    if row.status == "completed"
                    else "wait for it, or cancel it"
                ),
            )
        if spool.is_kept(row.signature):
            spool.require_kept(self.data_dir, row.signature)
        self.queue.cancel([job_id])
        change = (
            jobs.update()
            .where(jobs.c.job_id == job_id, jobs.c.status.in_(_RETRIABLE))
            .values(
                status=JobStatus.QUEUED.value, stage=JobStatus.QUEUED.value, crashes=0,
                **dict.fromkeys(_OF_A_RUN),
            )
        )  # fmt: skip

        def queue_again(connection: sa.Connection) -> bool:
            owners.lock(connection)
            changed = connection.execute(change).rowcount > 0
            owners.rejoin(connection, job_id, owner)
            return changed

        if self.transact(queue_again):
            self.queue.requeue(job_id, row.queue)


def _bad_cursor(cursor: str) -> UsageError:
    return UsageError(
        f"the cursor {cursor[:64]!r} is unknown",
        hint="give the next_cursor of the previous page, or none",
    )


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= PAGE_LIMIT:
        raise UsageError(f"limit is {limit}", hint=f"it must be from 1 to {PAGE_LIMIT}")
