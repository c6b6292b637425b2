"""The store: every job, whoever asks. Front ends and the worker talk to each other through it alone.

The row of a job says what the user sees; its workflow (``queue.py``) only makes sure that it is worked on. A row is
changed under a condition on its state, so that whoever comes second finds nothing to change: a job that was cancelled
stays so, whatever its worker does.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ..errors import JobNotFoundError, JobStateError, QueueFullError, TranscribeError, UsageError
from ..transcript import Transcript
from . import library
from .database import database_url, open_engine, store_errors, write_from_now
from .ids import is_id, new_id
from .library import Content, job_conditions
from .queue import WorkflowQueue
from .records import (
    Batch,
    HitPage,
    Job,
    JobFailure,
    JobFilter,
    JobPage,
    JobStatus,
    Refused,
)
from .rows import UNFINISHED, NewJob, to_jobs, to_row
from .tables import batches, files, job_roots, jobs
from .together import Together

PAGE_LIMIT = 500
DAY_S = 86_400.0


# What every call asks is put together once; that takes longer than SQLite does to answer.


def _same(*columns: sa.Column[Any]) -> list[sa.ColumnElement[bool]]:
    return [column == sa.bindparam(column.name) for column in columns]


_JOB = sa.select(jobs).where(*_same(jobs.c.job_id))
_HASH = sa.select(files.c.content_hash).where(*_same(files.c.path, files.c.signature))
_N_QUEUED = sa.select(sa.func.count()).select_from(jobs).where(jobs.c.status == JobStatus.QUEUED.value)
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
_TWIN = (
    sa.select(jobs.c.job_id)
    .where(*_same(jobs.c.source, jobs.c.signature, jobs.c.options_key), jobs.c.status.in_(UNFINISHED))
    .limit(1)
)


class Store:
    """Open for as long as its process lives; safe from several threads."""

    def __init__(self, data_dir: Path, configured_url: str = "") -> None:
        self.url = database_url(data_dir, configured_url)
        self.engine = open_engine(self.url)
        self.queue = WorkflowQueue(self.engine)
        self._add_together = Together(self._add_all)

    def close(self) -> None:
        self.engine.dispose()

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A transaction; the database's errors leave as ours."""
        with store_errors(self.url), self.engine.begin() as connection:
            yield connection

    # --- adding -------------------------------------------------------------------------------------------------------

    def add(self, new: NewJob, limit: int) -> str:
        """Add a job with its workflow; gives its id. Those of several threads are added in one transaction.

        Raises:
            QueueFullError: more than ``limit`` would wait.
        """
        return self._add_together((new, limit))

    def add_batch(self, new: Sequence[NewJob], refused: Sequence[Refused], limit: int) -> str:
        """Add jobs as one batch, all or none, with what it left out; gives its id. See ``add``."""
        batch_id = new_id()
        rows = [[r.source, r.error.code, r.error.message, r.error.hint] for r in refused]
        with self.begin() as connection:
            values = {"batch_id": batch_id, "created_at": time.time(), "refused": json.dumps(rows)}
            connection.execute(batches.insert().values(**values))
            n_new = sum(job.answer is None for job in new)
            if error := _no_room(self._queued(connection), n_new, limit):
                raise error
            self._insert(connection, new, batch_id)
        return batch_id

    def _add_all(self, wishes: Sequence[tuple[NewJob, int]]) -> list[str | Exception]:
        """For each its job's id or why it has none."""
        with self.begin() as connection:
            write_from_now(connection)  # what is counted must not change before it is acted on
            queued = self._queued(connection)
            answers: list[Exception | None] = []
            for job, limit in wishes:
                error = _no_room(queued, 1, limit) if job.answer is None else None
                queued += error is None and job.answer is None
                answers.append(error)
            room = [job for (job, _), error in zip(wishes, answers, strict=True) if error is None]
            ids = iter(self._insert(connection, room, None))
        return [error or next(ids) for error in answers]

    def _insert(self, connection: sa.Connection, new: Sequence[NewJob], batch_id: str | None) -> list[str]:
        ids = [new_id() for _ in new]
        if new:
            connection.execute(jobs.insert(), [to_row(i, job, batch_id) for i, job in zip(ids, new, strict=True)])
        inside = [{"job_id": i, "roots": json.dumps(job.roots)} for i, job in zip(ids, new, strict=True) if job.roots]
        if inside:
            connection.execute(job_roots.insert(), inside)
        self._know_hashes(connection, [job for job in new if job.is_new_hash])
        for i, job in zip(ids, new, strict=True):
            if job.answer is None:
                self.queue.add(connection, i, job.queue, job.priority)
        return ids

    def _know_hashes(self, connection: sa.Connection, hashed: Sequence[NewJob]) -> None:
        rows = {job.source: (job.signature, job.content_hash) for job in hashed}
        if rows:
            connection.execute(files.delete().where(files.c.path.in_(rows)))
            values = [{"path": path, "signature": sign, "content_hash": hash_} for path, (sign, hash_) in rows.items()]
            connection.execute(files.insert(), values)

    def room(self, limit: int) -> int:
        """How many jobs more may wait."""
        with self.begin() as connection:
            return max(0, limit - self._queued(connection))

    def _queued(self, connection: sa.Connection) -> int:
        return connection.execute(_N_QUEUED).scalar_one()

    def answer_for(self, content: Content, source: str) -> Any | None:
        """The newest finished job with the same content and options whose transcript is here; best of the same file."""
        with self.begin() as connection:
            return connection.execute(_ANSWER, asdict(content) | {"source": source}).first()

    def unfinished_twin(self, source: str, signature: str, options_key: str) -> str | None:
        """A job that waits or runs on the same file with the same options."""
        same = {"source": source, "signature": signature, "options_key": options_key}
        with self.begin() as connection:
            return connection.execute(_TWIN, same).scalar()

    def known_hash(self, path: str, signature: str) -> str | None:
        with self.begin() as connection:
            return connection.execute(_HASH, {"path": path, "signature": signature}).scalar()

    # --- looking ------------------------------------------------------------------------------------------------------

    def get(self, job_id: str) -> Job | Batch:
        """
        Raises:
            JobNotFoundError: no job and no batch has this id.
        """
        with self.begin() as connection:
            row = connection.execute(_JOB, {"job_id": job_id}).first()
            if row is not None:
                return to_jobs(connection, [row])[0]
            batch = connection.execute(sa.select(batches).where(batches.c.batch_id == job_id)).first()
            if batch is None:
                raise not_found(job_id)
            rows = connection.execute(sa.select(jobs).where(jobs.c.batch_id == job_id).order_by(jobs.c.job_id)).all()
            refused = tuple(
                Refused(source, JobFailure(code, message, hint))
                for source, code, message, hint in json.loads(batch.refused)
            )
            return Batch(job_id, tuple(to_jobs(connection, rows)), refused)

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
            found = connection.execute(sa.select(job_roots.c.roots).where(job_roots.c.job_id == job_id)).scalar()
        return None if found is None else tuple(map(Path, json.loads(found)))

    def list_jobs(self, which: JobFilter, cursor: str | None, limit: int) -> JobPage:
        """
        Raises:
            UsageError: no cursor of ours, or a limit out of range.
        """
        _check_limit(limit)
        if cursor is not None and not is_id(cursor):
            raise _bad_cursor(cursor)
        query = sa.select(jobs).where(*job_conditions(which)).order_by(jobs.c.job_id.desc()).limit(limit + 1)
        if not which.batch_id:
            query = query.where(library.is_no_copy())
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
        if cursor is not None and not (cursor.isascii() and cursor.isdecimal() and len(cursor) < 10):
            raise _bad_cursor(cursor)
        with self.begin() as connection:
            return library.search(connection, query, which, int(cursor or 0), limit)

    def steps(self, job_id: str) -> list[str]:
        """What the finished steps of a job kept, in order."""
        with store_errors(self.url):
            return self.queue.steps(job_id)

    def transcript(self, transcript_id: str) -> Transcript | None:
        with self.begin() as connection:
            return library.load(connection, transcript_id)

    # --- changing -----------------------------------------------------------------------------------------------------

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Stop those that wait or run. Their workers notice; what waits never starts."""
        with self.begin() as connection:
            connection.execute(
                jobs.update()
                .where(jobs.c.job_id.in_(job_ids), jobs.c.status.in_(UNFINISHED))
                .values(status=JobStatus.CANCELLED.value, stage="", finished_at=time.time())
            )
        with store_errors(self.url):
            self.queue.cancel(job_ids)

    def delete(self, job_ids: Sequence[str], batch_id: str | None = None) -> None:
        """Forget jobs, their workflows, and transcripts that no other job refers to."""
        with self.begin() as connection:
            job_ids = [*job_ids, *library.copies_of(connection, job_ids)]
        with store_errors(self.url):
            self.queue.cancel(job_ids)
        with self.begin() as connection:
            of_jobs = sa.select(jobs.c.transcript_id).where(jobs.c.job_id.in_(job_ids))
            kept = [t for t in connection.execute(of_jobs).scalars() if t is not None]
            connection.execute(jobs.delete().where(jobs.c.job_id.in_(job_ids)))
            library.remove_unused(connection, kept)
            if batch_id is not None:
                connection.execute(batches.delete().where(batches.c.batch_id == batch_id))
        with store_errors(self.url):
            self.queue.forget(job_ids)

    def fail_all(self, error: TranscribeError) -> None:
        """Whatever waits or runs fails: there is nobody who could work on it."""
        values = {"error_code": error.code, "error_message": str(error), "error_hint": error.hint}
        with self.begin() as connection:
            connection.execute(
                jobs.update()
                .where(jobs.c.status.in_(UNFINISHED))
                .values(status=JobStatus.FAILED.value, stage="", finished_at=time.time(), **values)
            )

    def unfinished(self, job_ids: Sequence[str]) -> set[str]:
        """Those of the jobs that wait or run."""
        query = sa.select(jobs.c.job_id).where(jobs.c.job_id.in_(job_ids), jobs.c.status.in_(UNFINISHED))
        with self.begin() as connection:
            return set(connection.execute(query).scalars())

    def checkpoint(self) -> None:
        """Move what SQLite has written ahead into the file itself. Nobody waits for it."""
        if self.url.get_backend_name() == "sqlite":
            with store_errors(self.url), self.engine.connect() as connection:
                connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").close()

    def is_idle(self) -> bool:
        """Whether nothing waits or runs."""
        with self.begin() as connection:
            query = sa.select(jobs.c.job_id).where(jobs.c.status.in_(UNFINISHED)).limit(1)
            return connection.execute(query).first() is None

    def forget_old(self, keep_days: float) -> int:
        """Delete jobs that ended so long ago; gives how many."""
        with self.begin() as connection:
            old = sa.select(jobs.c.job_id).where(
                jobs.c.status.not_in(UNFINISHED), jobs.c.finished_at < time.time() - keep_days * DAY_S
            )
            ids = list(connection.execute(old).scalars())
        if ids:
            self.delete(ids)
        return len(ids)

    def retry(self, job_id: str) -> None:
        """Queue a failed or cancelled job again.

        Raises:
            JobNotFoundError: no job has this id.
            JobStateError: it is neither failed nor cancelled.
        """
        row = self.row(job_id)
        ended = (JobStatus.FAILED.value, JobStatus.CANCELLED.value)
        if row.status not in ended:
            hint = "submit the recording again with force" if row.status == "completed" else "wait for it, or cancel it"
            raise JobStateError(f"job {job_id} is {row.status}; only failed and cancelled jobs are retried", hint=hint)
        with store_errors(self.url):
            self.queue.cancel([job_id])
        change = (
            jobs.update()
            .where(jobs.c.job_id == job_id, jobs.c.status.in_(ended))
            .values(
                status=JobStatus.QUEUED.value, stage=JobStatus.QUEUED.value, finished_at=None, started_at=None,
                error_code=None, error_message=None, error_hint=None, crashes=0, speed=None, worker_id=None,
            )
        )  # fmt: skip
        with self.begin() as connection:
            changed = connection.execute(change).rowcount
        if changed:
            with store_errors(self.url):
                self.queue.again(job_id, row.queue)


def _no_room(queued: int, n_new: int, limit: int) -> QueueFullError | None:
    if not n_new or queued + n_new <= limit:
        return None
    hint = "wait until some are done, cancel some, or raise TRANSCRIBE_MCP_MAX_QUEUE_LENGTH"
    return QueueFullError(f"{queued} jobs wait, {limit} may: no room for {n_new}", hint=hint)


def not_found(job_id: str) -> JobNotFoundError:
    return JobNotFoundError(f"there is no job {job_id[:64]!r}", hint="list the jobs that there are")


def _bad_cursor(cursor: str) -> UsageError:
    return UsageError(f"no page begins at {cursor[:64]!r}", hint="give the next_cursor of the page before, or none")


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= PAGE_LIMIT:
        raise UsageError(f"limit is {limit}", hint=f"it must be from 1 to {PAGE_LIMIT}")
