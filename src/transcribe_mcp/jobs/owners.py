"""The owners of jobs. A shared job is cancelled when its last owner cancels.

An owner is the command line of this user, a client's session, or a single submission of an unknown
caller. A batch owns its jobs separately from its submitter. Functions take the connection of their
caller's transaction.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from ..errors import JobNotFoundError
from .database import write_from_now
from .ids import new_id
from .models import Job, JobStatus
from .row_mapping import IS_UNFINISHED
from .schema import batches, jobs, owners

SHARING_LOCK = 0x73686172  # key of PostgreSQL's advisory lock for joining and cancelling

_OF_JOBS = (
    sa.select(owners)
    .where(owners.c.job_id.in_(sa.bindparam("job_ids", expanding=True)))
    .order_by(owners.c.owner_id)
)


def lock(connection: sa.Connection) -> None:
    """Later reads must not change before the transaction is applied."""
    write_from_now(connection)
    lock_server(connection)


def lock_server(connection: sa.Connection) -> None:
    """On PostgreSQL, exclude others from adding, joining and cancelling until the end."""
    if connection.dialect.name == "postgresql":
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": SHARING_LOCK})


class Sharing:
    """The owners of some jobs, read once. Other jobs have none yet."""

    def __init__(self, rows: Iterable[Any]) -> None:
        self._ids = {
            (row.job_id, row.owner, row.batch_id): row.owner_id for row in reversed(list(rows))
        }

    @classmethod
    def read(cls, connection: sa.Connection, job_ids: Collection[str]) -> Sharing:
        return cls(_rows(connection, job_ids) if job_ids else ())

    def add(self, connection: sa.Connection, job_id: str, owner: str, batch_id: str | None) -> str:
        """Add an owner, with one row per job and batch if it is known; returns the row's id."""
        known = self._ids.get((job_id, owner, batch_id)) if owner or batch_id else None
        if known is not None:
            _set(connection, [known], cancelled_at=None)
            return str(known)
        owner_id = self._ids[job_id, owner, batch_id] = new_id()
        connection.execute(
            owners.insert().values(owner_id=owner_id, job_id=job_id, owner=owner, batch_id=batch_id)
        )
        return owner_id


def not_found(job_id: str) -> JobNotFoundError:
    return JobNotFoundError(
        f"there is no job {job_id[:64]!r}", hint="list the jobs to see their IDs"
    )


def members(connection: sa.Connection, job_id: str) -> tuple[list[str], str | None]:
    """The jobs of an id, and the id if it is a batch's.

    Raises:
        JobNotFoundError: no job and no batch has this id.
    """
    job = sa.select(jobs.c.job_id).where(jobs.c.job_id == job_id)
    if connection.execute(job).first() is not None:
        return [job_id], None
    batch = sa.select(batches.c.batch_id).where(batches.c.batch_id == job_id)
    if connection.execute(batch).first() is None:
        raise not_found(job_id)
    return [each for each, _ in of_batch(connection, job_id)], job_id


def cancel(
    connection: sa.Connection,
    job_ids: Sequence[str],
    owner: str,
    batch_id: str | None,
    *,
    for_all: bool,
) -> tuple[list[str], int]:
    """Cancel jobs for an owner. Returns the stopped jobs and the number that continue for others.

    A batch cancels only its own rows. A caller without a row, such as a restarted client, cancels
    the oldest one. Finished jobs stay as they are.
    """
    unfinished = _unfinished(connection, job_ids)
    rows = _by_job(connection, unfinished)
    mine = [row for each in rows for row in (each if for_all else _own(each, owner, batch_id))]
    live = [row.owner_id for row in mine if row.cancelled_at is None]
    _set(connection, live, cancelled_at=time.time())
    return _stop_unwanted(connection, unfinished)


def leave(
    connection: sa.Connection, job_ids: Sequence[str], owner: str, batch_id: str | None
) -> tuple[list[str], list[str]]:
    """Remove an owner from jobs to delete. Returns the stopped and the deletable jobs.

    Jobs of a batch stay for their other owners. A finished single job is deleted for everybody:
    deleted content must be gone.
    """
    live = _unfinished(connection, job_ids)
    rows = _by_job(connection, job_ids if batch_id is not None else live)
    left = [row.owner_id for each in rows for row in _own(each, owner, batch_id)]
    connection.execute(owners.delete().where(owners.c.owner_id.in_(left)))
    stopped, _ = _stop_unwanted(connection, live)
    kept = _owned(connection, job_ids) if batch_id is not None else set(live) - set(stopped)
    return stopped, [job_id for job_id in job_ids if job_id not in kept]


def rejoin(connection: sa.Connection, job_id: str, owner: str) -> None:
    """Make the caller that retries a job its owner again."""
    rows = _rows(connection, [job_id])
    mine = [row for row in rows if row.owner == owner]
    if owner:
        cancelled = [row.owner_id for row in mine if row.cancelled_at is not None]
        _set(connection, cancelled, cancelled_at=None)
    elif not any(row.cancelled_at is None for row in mine):
        latest = max(mine, key=lambda row: row.cancelled_at, default=None)
        _set(connection, [latest.owner_id] if latest is not None else [], cancelled_at=None)
    if not mine:
        Sharing(rows).add(connection, job_id, owner, None)


def has_cancelled(connection: sa.Connection, job_id: str, owner: str) -> float | None:
    """Time at which an owner cancelled a job; ``None`` if it did not, or is unknown."""
    if not owner:
        return None
    mine = [row.cancelled_at for row in _rows(connection, [job_id]) if row.owner == owner]
    return max(mine) if mine and None not in mine else None


def of_batch(connection: sa.Connection, batch_id: str) -> list[tuple[str, float | None]]:
    """(job id, when the batch cancelled it) in the order of submission."""
    query = sa.select(owners.c.job_id, owners.c.cancelled_at).where(owners.c.batch_id == batch_id)
    return [
        (job_id, cancelled_at)
        for job_id, cancelled_at in connection.execute(query.order_by(owners.c.owner_id))
    ]


def as_cancelled(job: Job, cancelled_at: float) -> Job:
    """The job as seen by an owner who cancelled it."""
    if job.status in (JobStatus.CANCELLED, JobStatus.FAILED):
        return job
    ended = replace(job, status=JobStatus.CANCELLED, finished_at=cancelled_at)
    return replace(ended, stage="", eta_s=None, queue_position=None)


def _own(rows: Sequence[Any], owner: str, batch_id: str | None) -> list[Any]:
    if batch_id is not None:
        return [row for row in rows if row.batch_id == batch_id]
    mine = [row for row in rows if row.owner == owner]
    if owner and mine:
        return mine
    live = [row for row in rows if row.cancelled_at is None]
    return ([row for row in live if row.owner == owner] or live)[:1]


def _stop_unwanted(connection: sa.Connection, job_ids: Sequence[str]) -> tuple[list[str], int]:
    """Cancel unfinished jobs without owners; returns them and the number that continue."""
    query = sa.select(owners.c.job_id).where(
        owners.c.job_id.in_(job_ids), owners.c.cancelled_at.is_(None)
    )
    requested = set(connection.execute(query).scalars())
    stopped = [job_id for job_id in job_ids if job_id not in requested]
    values = {"status": JobStatus.CANCELLED.value, "stage": "", "finished_at": time.time()}
    stop = jobs.update().where(jobs.c.job_id.in_(stopped), IS_UNFINISHED)
    connection.execute(stop.values(**values))
    return stopped, len(requested)


def _unfinished(connection: sa.Connection, job_ids: Collection[str]) -> list[str]:
    query = sa.select(jobs.c.job_id).where(jobs.c.job_id.in_(job_ids), IS_UNFINISHED)
    return list(connection.execute(query).scalars())


def _owned(connection: sa.Connection, job_ids: Collection[str]) -> set[str]:
    query = sa.select(owners.c.job_id).where(owners.c.job_id.in_(job_ids))
    return set(connection.execute(query).scalars())


def _rows(connection: sa.Connection, job_ids: Collection[str]) -> Sequence[Any]:
    return connection.execute(_OF_JOBS, {"job_ids": list(job_ids)}).all()


def _by_job(connection: sa.Connection, job_ids: Collection[str]) -> Collection[list[Any]]:
    """The owners of each of the jobs."""
    found: dict[str, list[Any]] = {job_id: [] for job_id in job_ids}
    for row in _rows(connection, job_ids):
        found[row.job_id].append(row)
    return found.values()


def _set(
    connection: sa.Connection, owner_ids: Sequence[str], *, cancelled_at: float | None
) -> None:
    connection.execute(
        owners.update().where(owners.c.owner_id.in_(owner_ids)).values(cancelled_at=cancelled_at)
    )
