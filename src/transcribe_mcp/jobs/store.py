"""The store: every job, whoever asks. Front ends and the worker talk to each other through it alone.

The row of a job says what the user sees; its workflow (``queue.py``) only makes sure that it is worked on. A row is
changed under a condition on its state, so that whoever comes second finds nothing to change: a job that was cancelled
stays so, whatever its worker does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ..domain.transcript import Transcript
from ..errors import JobNotFoundError, JobStateError, UsageError
from . import adding, outputs, owners, spool, transcripts
from .failed_starts import clear_failed_start, record_failed_start, worker_id
from .group_commit import GroupCommit
from .ids import is_id, new_id
from .models import Batch, HitPage, Job, JobFailure, JobFilter, JobPage, JobStatus, Refused
from .queue import WorkflowQueue
from .retention import ended_long_ago, kept_since
from .row_mapping import UNFINISHED, NewJob, to_jobs
from .schema import batches, files, job_roots, jobs
from .transactions import Transactions
from .transcripts import ContentKey, job_conditions

PAGE_LIMIT = 500


_ENDED_BADLY = (JobStatus.FAILED.value, JobStatus.CANCELLED.value)

# What every call asks is put together once; that takes longer than SQLite does to answer.


def _same(*columns: sa.Column[Any]) -> list[sa.ColumnElement[bool]]:
    return [column == sa.bindparam(column.name) for column in columns]


_JOB = sa.select(jobs).where(*_same(jobs.c.job_id))
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
_OTHERS = sa.select(jobs.c.job_id).where(
    *_same(jobs.c.content_hash, jobs.c.options_key),
    jobs.c.status == JobStatus.RUNNING.value,
    jobs.c.job_id != sa.bindparam("mine"),
)
_EARLIER = jobs.c.job_id < sa.bindparam("mine")
_EARLIER_WORKED_ON = _OTHERS.where(_EARLIER)
_WORKED_ON = _OTHERS.where(sa.or_(jobs.c.batch_size.is_not(None), jobs.c.at_risk, _EARLIER))


class Store(Transactions):
    """The jobs, their transcripts and workflows, for any process."""

    def __init__(self, data_dir: Path, configured_url: str = "") -> None:
        super().__init__(data_dir, configured_url)
        self.queue = WorkflowQueue(self.engine)
        self._add_together = GroupCommit(self._add_all)

    # --- adding -------------------------------------------------------------------------------------------------------

    def add(self, new: NewJob, limit: int) -> str:
        """Add a job with its workflow, or join one on the same file; gives its id.

        Those of several threads are added in one transaction.

        Raises:
            QueueFullError: more than ``limit`` would wait.
        """
        return self._add_together((new, limit))

    def add_batch(self, new: Sequence[NewJob], refused: Sequence[Refused], limit: int) -> str:
        """Add jobs as one batch, with what it left out; gives its id. Those without room are left out too.

        Raises:
            QueueFullError: none of them has room.
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

    def _add_all(self, wishes: Sequence[tuple[NewJob, int]]) -> list[str | Exception]:
        """For each its job's id or why it has none."""
        return self.transact(lambda connection: adding.add(connection, self.queue, wishes, None))

    def find_finished(self, content: ContentKey, source: str) -> Any | None:
        """The newest finished job with the same content and options whose transcript is here; best of the same file."""
        with self.begin() as connection:
            return connection.execute(_ANSWER, asdict(content) | {"source": source}).first()

    def is_active_elsewhere(
        self, content: ContentKey, mine: str, *, earlier_only: bool = False
    ) -> bool:
        """Whether another running job will have the transcript: one at work, or (``earlier_only``) an earlier one."""
        with self.begin() as connection:
            query = _EARLIER_WORKED_ON if earlier_only else _WORKED_ON
            return connection.execute(query, {**asdict(content), "mine": mine}).first() is not None

    def known_hash(self, path: str, signature: str) -> str | None:
        with self.begin() as connection:
            return connection.execute(_HASH, {"path": path, "signature": signature}).scalar()

    # --- looking ------------------------------------------------------------------------------------------------------

    def get(self, job_id: str, owner: str = "") -> Job | Batch:
        """A job or a batch as its owner sees it: what the owner cancelled is cancelled, though others still want it.

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
                raise not_found(job_id)
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
            raise not_found(job_id)
        return row

    def roots(self, job_id: str) -> tuple[Path, ...] | None:
        """The directories one of which has to hold the job's recording; ``None``: it may be anywhere."""
        with self.begin() as connection:
            found = connection.execute(
                sa.select(job_roots.c.roots).where(job_roots.c.job_id == job_id)
            ).scalar()
        return None if found is None else tuple(map(Path, json.loads(found)))

    def list_jobs(self, which: JobFilter, cursor: str | None, limit: int) -> JobPage:
        """
        Raises:
            UsageError: no cursor of ours, or a limit out of range.
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

    def search(self, query: str, which: JobFilter, cursor: str | None, limit: int) -> HitPage:
        """
        Raises:
            UsageError: no word to look for, no cursor of ours, or a limit out of range.
        """
        _check_limit(limit)
        if cursor is not None and not (
            cursor.isascii() and cursor.isdecimal() and len(cursor) < 10
        ):
            raise _bad_cursor(cursor)
        with self.begin() as connection:
            return transcripts.search(connection, query, which, int(cursor or 0), limit)

    def steps(self, job_id: str) -> list[str]:
        """What the finished steps of a job kept, in order."""
        return self.queue.steps(job_id)

    def transcript(self, transcript_id: str) -> Transcript | None:
        with self.begin() as connection:
            return transcripts.load(connection, transcript_id)

    # --- changing -----------------------------------------------------------------------------------------------------

    def cancel(self, job_id: str, owner: str, *, for_all: bool = False) -> int:
        """An owner does not want a job or a batch any more; what nobody wants is stopped. A final job stays as it is.

        Workers notice; what waits never starts. Gives how many go on because others want them.

        Raises:
            JobNotFoundError: no job and no batch has this id.
        """

        def give_up(connection: sa.Connection) -> tuple[list[str], int]:
            owners.lock(connection)
            ids, batch_id = self._members(connection, job_id)
            return owners.cancel(connection, ids, owner, batch_id, for_all=for_all)

        stopped, n_shared = self.transact(give_up)
        if stopped:
            self.queue.cancel(stopped)
        return n_shared

    def delete(self, job_id: str, owner: str) -> int:
        """Delete a job, or a batch with its jobs, and transcripts that no other job refers to; gives how many jobs.

        What others still wait for, and of a batch also what others have, stays for them.

        Raises:
            JobNotFoundError: no job and no batch has this id.
        """

        def leave(connection: sa.Connection) -> tuple[list[str], list[str]]:
            owners.lock(connection)
            ids, batch_id = self._members(connection, job_id)
            stopped, gone = owners.leave(connection, ids, owner, batch_id)
            copies[:] = transcripts.copies_of(connection, gone)
            self._delete(connection, [*gone, *copies])
            if batch_id is not None:
                connection.execute(batches.delete().where(batches.c.batch_id == batch_id))
            return stopped, gone

        copies: list[str] = []
        stopped, gone = self.transact(leave)
        self._end_workflows(stopped, [*gone, *copies])
        return len(gone)

    def _members(self, connection: sa.Connection, job_id: str) -> tuple[list[str], str | None]:
        found = owners.members(connection, job_id)
        if found is None:
            raise not_found(job_id)
        return found

    def _delete(self, connection: sa.Connection, job_ids: Sequence[str]) -> None:
        of_jobs = sa.select(jobs.c.transcript_id, jobs.c.signature).where(
            jobs.c.job_id.in_(job_ids)
        )
        rows = connection.execute(of_jobs).all()
        connection.execute(jobs.delete().where(jobs.c.job_id.in_(job_ids)))
        transcripts.remove_unused(
            connection, [row.transcript_id for row in rows if row.transcript_id is not None]
        )
        for row in rows:
            spool.drop(self.data_dir, row.signature)

    def _end_workflows(self, cancelled: Sequence[str], deleted: Sequence[str]) -> None:
        if cancelled or deleted:
            self.queue.cancel([*cancelled, *deleted])
        if deleted:
            self.queue.delete(deleted)

    def record_failed_start(
        self, data_dir: Path, reason: str, next_try_s: float, number: int = 0
    ) -> None:
        """Say why a worker of this machine does not run; jobs that wait show it."""
        with self.begin() as connection:
            record_failed_start(
                connection, worker_id(self.url, data_dir, number), reason, next_try_s
            )

    def clear_failed_start(self, data_dir: Path, number: int) -> None:
        """Nobody tries to start this worker any more."""
        with self.begin() as connection:
            clear_failed_start(connection, worker_id(self.url, data_dir, number))

    def unfinished(self, job_ids: Sequence[str]) -> set[str]:
        """Those of the jobs that wait or run."""
        query = sa.select(jobs.c.job_id).where(
            jobs.c.job_id.in_(job_ids), jobs.c.status.in_(UNFINISHED)
        )
        with self.begin() as connection:
            return set(connection.execute(query).scalars())

    def sweep_spool(self) -> None:
        """Delete recordings from standard input whose jobs have ended."""
        spool.sweep(self.data_dir, self.unfinished_by_signature)

    def unfinished_by_signature(self, signatures: Collection[str]) -> dict[str, bool]:
        with self.begin() as connection:
            return adding.unfinished_by_signature(connection, signatures)

    def is_idle(self) -> bool:
        """Whether nothing waits or runs, and no file is still to be written."""
        with self.begin() as connection:
            query = sa.select(jobs.c.job_id).where(jobs.c.status.in_(UNFINISHED)).limit(1)
            return connection.execute(query).first() is None and not outputs.are_due(connection)

    def count_old(self, keep_days: float) -> int:
        """How many jobs ``delete_old`` would delete now."""
        with self.begin() as connection:
            return len(ended_long_ago(connection, keep_days))

    def delete_old(self, keep_days: float) -> int:
        """Delete jobs that ended more than ``keep_days`` ago, none where that is 0; gives how many.

        Raises:
            UsageError: no number of days.
        """
        if kept_since(keep_days) is None:
            return 0

        def delete(connection: sa.Connection) -> list[str]:
            owners.lock(connection)
            ids = ended_long_ago(connection, keep_days)
            self._delete(connection, ids)
            return ids

        if self.count_old(keep_days) == 0:
            return 0
        ids = self.transact(delete)
        self._end_workflows([], ids)
        return len(ids)

    def rejoin(self, job_id: str, owner: str) -> bool:
        """Give a job back to an owner who cancelled it while it went on for others; tells whether there was need."""
        with self.begin() as connection:
            if owners.has_cancelled(connection, job_id, owner) is None:
                return False
        self.transact(lambda connection: owners.want_again(connection, job_id, owner))
        return True

    def retry(self, job_id: str, owner: str) -> None:
        """Queue a failed or cancelled job again; one that goes on for others has its owner back.

        Raises:
            JobNotFoundError: no job has this id.
            JobStateError: it is neither failed nor cancelled.
            SourceNotFoundError: its recording came on standard input and is deleted.
        """
        row = self.row(job_id)
        if row.status not in _ENDED_BADLY and self.rejoin(job_id, owner):
            return
        if row.status not in _ENDED_BADLY:
            hint = (
                "submit the recording again with force"
                if row.status == "completed"
                else "wait for it, or cancel it"
            )
            raise JobStateError(
                f"job {job_id} is {row.status}; only failed and cancelled jobs are retried",
                hint=hint,
            )
        if spool.is_kept(row.signature):
            spool.require_kept(self.data_dir, row.signature)
        self.queue.cancel([job_id])
        change = (
            jobs.update()
            .where(jobs.c.job_id == job_id, jobs.c.status.in_(_ENDED_BADLY))
            .values(
                status=JobStatus.QUEUED.value, stage=JobStatus.QUEUED.value, finished_at=None, started_at=None,
                error_code=None, error_message=None, error_hint=None, crashes=0, speed=None, worker_id=None,
            )
        )  # fmt: skip

        def queue_again(connection: sa.Connection) -> bool:
            owners.lock(connection)
            changed = connection.execute(change).rowcount > 0
            owners.want_again(connection, job_id, owner)
            return changed

        if self.transact(queue_again):
            self.queue.requeue(job_id, row.queue)


def not_found(job_id: str) -> JobNotFoundError:
    return JobNotFoundError(f"there is no job {job_id[:64]!r}", hint="list the jobs that there are")


def _bad_cursor(cursor: str) -> UsageError:
    return UsageError(
        f"no page begins at {cursor[:64]!r}",
        hint="give the next_cursor of the page before, or none",
    )


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= PAGE_LIMIT:
        raise UsageError(f"limit is {limit}", hint=f"it must be from 1 to {PAGE_LIMIT}")
