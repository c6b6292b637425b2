"""Adding jobs: each becomes a row with its workflow, or joins a job that waits or runs on the same file."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from typing import Any

import sqlalchemy as sa

from ..errors import QueueFullError
from . import outputs, owners
from .ids import new_id
from .queue import WorkflowQueue
from .records import JobFailure, JobStatus, Refused
from .rows import UNFINISHED, NewJob, to_row
from .tables import files, job_roots, jobs

# What every call asks is put together once; that takes longer than SQLite does to answer.
_N_QUEUED = sa.select(sa.func.count()).select_from(jobs).where(jobs.c.status == JobStatus.QUEUED.value)
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
    connection: sa.Connection, queue: WorkflowQueue, wishes: Sequence[tuple[NewJob, int]], batch_id: str | None
) -> list[str | Exception]:
    """For each job and its limit of the queue: the id of its row, or of the job that it joins, or why it has none.

    The caller's transaction holds ``owners.lock``: what is counted and looked up must not change before it is acted on.
    """
    queued = connection.execute(_N_QUEUED).scalar_one()
    answers: list[str | Exception] = []
    for job, limit in wishes:
        job_id = _twin(connection, job)
        if job_id is None:
            waits = job.answer is None
            if waits and queued >= limit:
                answers.append(_full(queued, limit))
                continue
            queued += waits
            job_id = _insert(connection, queue, job, batch_id)
        owner_id = owners.add(connection, job_id, job.owner, batch_id)
        outputs.add(connection, job_id, owner_id, job.outputs)
        answers.append(job_id)
    return answers


def refused(new: Sequence[NewJob], added: Sequence[str | Exception]) -> list[Refused]:
    """What a batch keeps of the jobs that had no room."""
    return [
        Refused(job.source, JobFailure(QueueFullError.code, str(error), "submit it again when some are done"))
        for job, error in zip(new, added, strict=True)
        if isinstance(error, QueueFullError)
    ]


def _twin(connection: sa.Connection, job: NewJob) -> str | None:
    """A job that waits or runs on the same file with the same options. Forced and answered jobs join none.

    Who may read below some roots alone joins a job of other roots only while that can still be held to these. Otherwise
    a job of its own opens the file, and is answered when the other ends.
    """
    if job.force or job.answer is not None:
        return None
    same: dict[str, Any] = {"source": job.source, "signature": job.signature, "options_key": job.options_key}
    roots = _roots(job)
    for twin in connection.execute(_TWINS, same):
        if roots is None or roots == twin.roots:
            return str(twin.job_id)
        if twin.roots is None and twin.status == JobStatus.QUEUED.value:
            connection.execute(job_roots.insert().values(job_id=twin.job_id, roots=roots))
            return str(twin.job_id)
    return None


def _roots(job: NewJob) -> str | None:
    """As in the table."""
    return json.dumps(job.roots) if job.roots else None


def unfinished_by_signature(connection: sa.Connection, signatures: Collection[str]) -> dict[str, bool]:
    """Whether the jobs that have these signatures wait or run."""
    query = sa.select(jobs.c.signature, jobs.c.status).where(jobs.c.signature.in_(signatures))
    return {signature: status in UNFINISHED for signature, status in connection.execute(query)}


def _insert(connection: sa.Connection, queue: WorkflowQueue, job: NewJob, batch_id: str | None) -> str:
    job_id = new_id()
    connection.execute(jobs.insert(), to_row(job_id, job, batch_id))
    if roots := _roots(job):
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
