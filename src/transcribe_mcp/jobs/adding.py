"""Adding jobs: each becomes a row with its workflow, or joins a job that waits or runs on the same file."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from ..errors import QueueFullError
from . import outputs, owners
from .database import require
from .ids import new_id
from .models import JobFailure, JobStatus, Refused
from .queue import WorkflowQueue
from .row_mapping import UNFINISHED, NewJob, to_row
from .schema import files, job_roots, jobs

# What every call asks is put together once; that takes longer than SQLite does to answer.
_N_QUEUED = (
    sa.select(sa.func.count()).select_from(jobs).where(jobs.c.status == JobStatus.QUEUED.value)
)
_TWINS = (
    sa.select(jobs.c.job_id, jobs.c.status, job_roots.c.roots)
    .select_from(jobs.outerjoin(job_roots, job_roots.c.job_id == jobs.c.job_id))
    .where(
        jobs.c.source == sa.bindparam("source"),
        jobs.c.options_key == sa.bindparam("options_key"),
        jobs.c.signature == sa.bindparam("signature"),
        jobs.c.status.in_(UNFINISHED),
    )
    .order_by(jobs.c.job_id)
    .with_for_update(of=jobs)  # on PostgreSQL: none begins before its roots are known
)


def add(
    connection: sa.Connection,
    queue: WorkflowQueue,
    wishes: Sequence[tuple[NewJob, int]],
    batch_id: str | None,
) -> list[str | Exception]:
    """For each job and its limit of the queue: the id of its row, or of the job that it joins, or why it has none.

    What is counted and looked up here must still be so when the transaction is applied.

    Raises:
        RequirementError: it is not, because another call added or ended jobs meanwhile: try again.
    """
    owners.lock_server(connection)
    # All is read before anything is required or written: on SQLite, what is read later costs a call of the writer.
    queued = connection.execute(_N_QUEUED).scalar_one()
    found = [_find_active_duplicate(connection, job) for job, _ in wishes]
    twins = [twin for twin, _ in found]
    fitting: list[bool] = []
    n_new = 0
    alike: set[tuple[str, ...]] = set()
    for (job, limit), twin in zip(wishes, twins, strict=True):
        waits = twin is None and job.answer is None and (job.force or _key(job) not in alike)
        fits = not waits or queued + n_new < limit
        n_new += waits and fits
        alike.add(_key(job))
        fitting.append(fits)
    for _, condition in found:
        if condition is not None:
            require(connection, condition)
    if n_new:
        require(
            connection,
            _N_QUEUED.with_only_columns(
                sa.func.count() + n_new <= min(limit for _, limit in wishes)
            ),
        )
    sharing = owners.Sharing.read(connection, {twin.job_id for twin in twins if twin is not None})
    answers: list[str | Exception] = []
    added: dict[tuple[str, ...], str] = {}
    for (job, limit), twin, fits in zip(wishes, twins, fitting, strict=True):
        if not fits:
            answers.append(_full(queued + n_new, limit))
            continue
        job_id = twin.job_id if twin is not None else added.get(_key(job)) if _joins(job) else None
        if twin is not None and _roots(job) not in (None, twin.roots):
            connection.execute(job_roots.insert().values(job_id=job_id, roots=_roots(job)))
        if job_id is None:
            job_id = _insert(connection, queue, job, batch_id)
            if _joins(job):
                added[_key(job)] = job_id
        owner_id = sharing.add(connection, job_id, job.owner, batch_id)
        outputs.add(connection, job_id, owner_id, job.outputs)
        answers.append(job_id)
    return answers


def refused(new: Sequence[NewJob], added: Sequence[str | Exception]) -> list[Refused]:
    """What a batch keeps of the jobs that had no room."""
    return [
        Refused(
            job.source,
            JobFailure(QueueFullError.code, str(error), "submit it again when some are done"),
        )
        for job, error in zip(new, added, strict=True)
        if isinstance(error, QueueFullError)
    ]


def _find_active_duplicate(
    connection: sa.Connection, job: NewJob
) -> tuple[Any | None, sa.Select[Any] | None]:
    """A job that waits or runs on the same file with the same options, and the condition under which that stays so.

    Forced and answered jobs join none.
    Who may read below some roots alone joins a job of other roots only while that can still be held to these. Otherwise
    a job of its own opens the file, and is answered when the other ends.
    """
    if not _joins(job):
        return None, None
    same = {"source": job.source, "signature": job.signature, "options_key": job.options_key}
    found = connection.execute(_TWINS, same).all()
    roots = _roots(job)
    twin = next((row for row in found if roots in (None, row.roots)), None)
    if twin is None:
        twin = next(
            (row for row in found if row.roots is None and row.status == JobStatus.QUEUED.value),
            None,
        )
    unfinished = sa.select(sa.func.count()).select_from(jobs).where(jobs.c.status.in_(UNFINISHED))
    if twin is None:
        is_same = [jobs.c[name] == value for name, value in same.items()]
        return None, unfinished.where(*is_same).with_only_columns(sa.func.count() == len(found))
    is_there = (jobs.c.job_id == twin.job_id, jobs.c.status == twin.status)
    return twin, unfinished.where(*is_there).with_only_columns(sa.func.count() == 1)


def _joins(job: NewJob) -> bool:
    return not job.force and job.answer is None


def _key(job: NewJob) -> tuple[str, ...]:
    """Jobs of one call that are equal in this are one."""
    return (job.source, job.signature, job.options_key, _roots(job) or "")


def _roots(job: NewJob) -> str | None:
    """As in the table."""
    return None if job.roots is None else json.dumps(job.roots)


def unfinished_by_signature(
    connection: sa.Connection, signatures: Collection[str]
) -> dict[str, bool]:
    """Whether the jobs that have these signatures wait or run."""
    query = sa.select(jobs.c.signature, jobs.c.status).where(jobs.c.signature.in_(signatures))
    return {signature: status in UNFINISHED for signature, status in connection.execute(query)}


def _insert(
    connection: sa.Connection, queue: WorkflowQueue, job: NewJob, batch_id: str | None
) -> str:
    job_id = new_id()
    connection.execute(jobs.insert(), to_row(job_id, job, batch_id))
    if (roots := _roots(job)) is not None:
        connection.execute(job_roots.insert().values(job_id=job_id, roots=roots))
    if job.is_new_hash:
        known = {"path": job.source, "signature": job.signature, "content_hash": job.content_hash}
        connection.execute(files.delete().where(files.c.path == job.source))
        connection.execute(files.insert().values(**known))
    if job.answer is None:
        queue.add(connection, job_id, job.queue, job.priority)
    return job_id


def _full(queued: int, limit: int) -> QueueFullError:
    hint = "wait until some are done, cancel some, or raise TRANSCRIBE_MCP_MAX_QUEUE_LENGTH"
    return QueueFullError(f"the queue is full: {queued} jobs wait, {limit} may", hint=hint)
