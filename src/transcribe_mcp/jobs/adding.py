"""Add jobs: each gets a row and a workflow, or joins an unfinished job on the same file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from ..errors import QueueFullError
from . import outputs, owners
from .changes import notify
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
REMEMBER_HASH = sa.text(
    "INSERT INTO known_files (path, signature, content_hash) "
    "VALUES (:source, :signature, :content_hash) ON CONFLICT (path) "
    "DO UPDATE SET signature = excluded.signature, content_hash = excluded.content_hash"
)

_QUEUE_FULL_HINT = "wait until some are done, cancel some, or raise TRANSCRIBE_MCP_MAX_QUEUE_LENGTH"


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
    places, n_new = _places(n_queued, requests, duplicates)
    for _, requirement in found:
        if requirement is not None:
            require(connection, *requirement)
    if n_new:
        limit = min(limit for _, limit in requests)
        require(connection, _HAS_ROOM, {"n_new": n_new, "limit": limit})
    inserted: set[str] = set()
    for (job, _), duplicate, place in zip(requests, duplicates, places, strict=True):
        if isinstance(place, Exception):
            continue
        if duplicate is None and place not in inserted:
            _insert(connection, queue, place, job, batch_id)
            inserted.add(place)
        elif duplicate is not None and job.roots is not None and _roots(job) != duplicate.roots:
            _insert_roots(connection, place, job)
        owner_id = sharing.add(connection, place, job.owner, batch_id)
        outputs.add(connection, place, owner_id, job.outputs)
    notify(connection)
    return places


def _places(
    n_queued: int, requests: Sequence[tuple[NewJob, int]], duplicates: Sequence[Any | None]
) -> tuple[list[str | Exception], int]:
    """For each job the id of its row, or an error if the queue is full; and the number of new
    rows in the queue.
    """
    places: list[str | Exception] = []
    ids: dict[tuple[str, ...], str] = {}
    n_new = 0
    for (job, limit), duplicate in zip(requests, duplicates, strict=True):
        shared = ids.get(_key(job)) if _may_join(job) else None
        job_id = duplicate.job_id if duplicate is not None else shared
        if job_id is None and job.answer is None:
            if n_queued + n_new >= limit:
                message = f"the queue is full: {n_queued + n_new} jobs wait; the limit is {limit}"
                places.append(QueueFullError(message, hint=_QUEUE_FULL_HINT))
                continue
            n_new += 1
        places.append(job_id or new_id())
        if _may_join(job):
            ids.setdefault(_key(job), str(places[-1]))
    return places, n_new


def refused(new: Sequence[NewJob], added: Sequence[str | Exception]) -> list[Refused]:
    """The jobs of a batch that did not fit into the queue."""
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
    connection: sa.Connection, queue: WorkflowQueue, job_id: str, job: NewJob, batch_id: str | None
) -> None:
    row = to_row(job_id, job, batch_id)
    connection.execute(jobs.insert(), row)
    if job.roots is not None:
        _insert_roots(connection, job_id, job)
    if job.is_new_hash:
        connection.execute(REMEMBER_HASH, row)
    if job.answer is None:
        queue.add(connection, job_id, job.queue, job.priority)


def _insert_roots(connection: sa.Connection, job_id: str, job: NewJob) -> None:
    connection.execute(job_roots.insert(), {"job_id": job_id, "roots": _roots(job)})
