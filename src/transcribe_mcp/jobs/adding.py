"""Add jobs: each gets a row and a workflow, or joins an unfinished job on the same file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from ..errors import QueueFullError
from . import outputs, owners
from .database import require
from .ids import new_id
from .models import JobFailure, JobStatus, Refused
from .queue import WorkflowQueue
from .row_mapping import IS_UNFINISHED, NewJob, to_row
from .schema import job_roots, jobs

# Statements are built once: building and compiling takes longer than SQLite takes to execute them.
_QUEUED = jobs.c.status == JobStatus.QUEUED.value
_N_QUEUED = sa.select(sa.func.count()).select_from(jobs).where(_QUEUED)
_HAS_ROOM = _N_QUEUED.with_only_columns(
    sa.func.count() + sa.bindparam("n_new", type_=sa.Integer) <= sa.bindparam("limit")
)
_SAME_FILE = sa.and_(
    jobs.c.source == sa.bindparam("source"),
    jobs.c.options_key == sa.bindparam("options_key"),
    jobs.c.signature == sa.bindparam("signature"),
    IS_UNFINISHED,
)
_DUPLICATES = (
    sa.select(jobs.c.job_id, jobs.c.status, job_roots.c.roots)
    .select_from(jobs.outerjoin(job_roots, job_roots.c.job_id == jobs.c.job_id))
    .where(_SAME_FILE)
    .order_by(jobs.c.job_id)
    .with_for_update(of=jobs)  # PostgreSQL: no worker may start one before its roots are stored
)
_NO_MORE_DUPLICATES = (
    sa.select(sa.func.count() == sa.bindparam("n_found")).select_from(jobs).where(_SAME_FILE)
)
_STATUS_UNCHANGED = (
    sa.select(sa.func.count() == 1)
    .select_from(jobs)
    .where(jobs.c.job_id == sa.bindparam("job_id"), jobs.c.status == sa.bindparam("status"))
)
_REMEMBER_HASH = sa.text(
    "INSERT INTO known_files (path, signature, content_hash) "
    "VALUES (:source, :signature, :content_hash) ON CONFLICT (path) "
    "DO UPDATE SET signature = excluded.signature, content_hash = excluded.content_hash"
)


def add(
    connection: sa.Connection,
    queue: WorkflowQueue,
    requests: Sequence[tuple[NewJob, int]],
    batch_id: str | None,
) -> list[str | Exception]:
    """Add jobs, each with its limit of queued jobs.

    Returns:
        For each the id of its row or of the job that it joined, or the error to raise.

    Raises:
        RequirementError: another call added or finished jobs meanwhile; try again.
    """
    owners.lock_server(connection)
    # All reads come first: on SQLite, a read after a write is a round trip to the writer.
    n_queued = connection.execute(_N_QUEUED).scalar_one()
    found = [_find_active_duplicate(connection, job) for job, _ in requests]
    duplicates = [duplicate for duplicate, _ in found]
    job_ids = {duplicate.job_id for duplicate in duplicates if duplicate is not None}
    sharing = owners.Sharing.read(connection, job_ids)
    has_room = _admit(n_queued, requests, duplicates)
    for _, requirement in found:
        if requirement is not None:
            require(connection, *requirement)
    n_new = sum(room is True for room in has_room)
    if n_new:
        limit = min(limit for _, limit in requests)
        require(connection, _HAS_ROOM, {"n_new": n_new, "limit": limit})
    answers: list[str | Exception] = []
    added: dict[tuple[str, ...], str] = {}
    for (job, limit), duplicate, room in zip(requests, duplicates, has_room, strict=True):
        if room is False:
            answers.append(_queue_full(n_queued + n_new, limit))
            continue
        if duplicate is not None:
            job_id = duplicate.job_id
            if job.roots is not None and _roots(job) != duplicate.roots:
                _insert_roots(connection, job_id, job)
        elif _may_join(job) and _key(job) in added:
            job_id = added[_key(job)]
        else:
            job_id = _insert(connection, queue, job, batch_id)
            if _may_join(job):
                added[_key(job)] = job_id
        owner_id = sharing.add(connection, job_id, job.owner, batch_id)
        outputs.add(connection, job_id, owner_id, job.outputs)
        answers.append(job_id)
    return answers


def _admit(
    n_queued: int, requests: Sequence[tuple[NewJob, int]], duplicates: Sequence[Any | None]
) -> list[bool | None]:
    """Whether the queue has room for each new job; ``None`` for a job that needs no place."""
    found: list[bool | None] = []
    n_new = 0
    keys: set[tuple[str, ...]] = set()
    for (job, limit), duplicate in zip(requests, duplicates, strict=True):
        joins = duplicate is not None or (_may_join(job) and _key(job) in keys)
        room = None if joins or job.answer is not None else n_queued + n_new < limit
        n_new += room is True
        if _may_join(job) and room is not False:
            keys.add(_key(job))
        found.append(room)
    return found


def refused(new: Sequence[NewJob], added: Sequence[str | Exception]) -> list[Refused]:
    """The jobs of a batch for which the queue had no room."""
    return [
        Refused(
            job.source,
            JobFailure(QueueFullError.code, str(error), "submit it again when some jobs are done"),
        )
        for job, error in zip(new, added, strict=True)
        if isinstance(error, QueueFullError)
    ]


def _find_active_duplicate(
    connection: sa.Connection, job: NewJob
) -> tuple[Any | None, tuple[sa.Select[Any], dict[str, Any]] | None]:
    """An unfinished job on the same file with the same options, and the condition to require.

    Forced jobs and jobs that are answered join none. A job with roots joins a job with other roots
    only while it is queued and has none: it can still be limited to these. Otherwise it gets its
    own row, opens the file itself, and is answered when the other job finishes.
    """
    if not _may_join(job):
        return None, None
    same = {"source": job.source, "signature": job.signature, "options_key": job.options_key}
    rows = connection.execute(_DUPLICATES, same).all()
    equal = [row for row in rows if job.roots is None or row.roots == _roots(job)]
    queued = JobStatus.QUEUED.value
    open_to_all = [row for row in rows if row.roots is None and row.status == queued]
    for row in (*equal, *open_to_all):
        return row, (_STATUS_UNCHANGED, {"job_id": row.job_id, "status": row.status})
    return None, (_NO_MORE_DUPLICATES, {**same, "n_found": len(rows)})


def _may_join(job: NewJob) -> bool:
    return not job.force and job.answer is None


def _key(job: NewJob) -> tuple[str, ...]:
    """Equal for jobs of one call that become one row."""
    return (job.source, job.signature, job.options_key, _roots(job) or "")


def _roots(job: NewJob) -> str | None:
    return None if job.roots is None else json.dumps(job.roots)


def _insert(
    connection: sa.Connection, queue: WorkflowQueue, job: NewJob, batch_id: str | None
) -> str:
    job_id = new_id()
    row = to_row(job_id, job, batch_id)
    connection.execute(jobs.insert(), row)
    if job.roots is not None:
        _insert_roots(connection, job_id, job)
    if job.is_new_hash:
        connection.execute(_REMEMBER_HASH, row)
    if job.answer is None:
        queue.add(connection, job_id, job.queue, job.priority)
    return job_id


def _insert_roots(connection: sa.Connection, job_id: str, job: NewJob) -> None:
    connection.execute(job_roots.insert(), {"job_id": job_id, "roots": _roots(job)})


def _queue_full(n_queued: int, limit: int) -> QueueFullError:
    hint = "wait until some are done, cancel some, or raise TRANSCRIBE_MCP_MAX_QUEUE_LENGTH"
    return QueueFullError(f"the queue is full: {n_queued} jobs wait, {limit} may", hint=hint)
