"""Output files requested with a job. ``output_writer.py`` writes them when the job is completed.

Functions take the connection of their caller's transaction.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from ..domain.transcript import Notice
from ..errors import TranscribeError
from ..formats import FormatOptions, SubtitleRules
from .ids import new_id
from .models import JobStatus
from .schema import jobs, outputs, owners

PENDING = "pending"
WRITTEN = "written"
FAILED = "failed"
BATCH_FILES = 50

_WANTED = sa.and_(outputs.c.owner_id == owners.c.owner_id, owners.c.cancelled_at.is_(None))
_DUE = (
    sa.select(outputs, jobs.c.source, jobs.c.transcript_id)
    .select_from(outputs.join(jobs, jobs.c.job_id == outputs.c.job_id).join(owners, _WANTED))
    .where(outputs.c.state == PENDING, jobs.c.status == JobStatus.COMPLETED.value)
    .order_by(outputs.c.output_id)
    .limit(BATCH_FILES)
)
_OF_JOBS = (
    sa.select(
        outputs.c.job_id,
        outputs.c.path,
        outputs.c.state,
        outputs.c.error_code,
        outputs.c.error_message,
    )
    .select_from(outputs.join(owners, _WANTED))
    .where(outputs.c.job_id.in_(sa.bindparam("job_ids", expanding=True)))
    .order_by(outputs.c.output_id)
)


@dataclass(frozen=True, slots=True)
class NewOutput:
    """A file to write. ``look`` is JSON with fields of ``formats.FormatOptions``."""

    path: str
    format: str
    overwrite: bool
    look: str


@dataclass(slots=True)
class Outputs:
    """The files of one job: the written ones, whether others are pending, and failures."""

    written: tuple[str, ...] = ()
    is_pending: bool = False
    notices: tuple[Notice, ...] = ()


def dump_look(look: FormatOptions) -> str:
    return json.dumps(asdict(look))


def load_look(text: str) -> FormatOptions:
    fields: dict[str, Any] = json.loads(text)
    return FormatOptions(**{**fields, "subtitles": SubtitleRules(**fields["subtitles"])})


def add(connection: sa.Connection, job_id: str, owner_id: str, new: Sequence[NewOutput]) -> None:
    values = [
        {
            "output_id": new_id(),
            "owner_id": owner_id,
            "job_id": job_id,
            "state": PENDING,
            **asdict(one),
        }
        for one in new
    ]
    if values:
        connection.execute(outputs.insert(), values)


def of_jobs(connection: sa.Connection, job_ids: Collection[str]) -> dict[str, Outputs]:
    """The files of the jobs that have any."""
    found: dict[str, Outputs] = {}
    for row in connection.execute(_OF_JOBS, {"job_ids": list(job_ids)}):
        of_job = found.setdefault(row.job_id, Outputs())
        if row.state == PENDING:
            of_job.is_pending = True
        elif row.state == WRITTEN:
            of_job.written = tuple(dict.fromkeys((*of_job.written, row.path)))
        else:
            of_job.notices += (Notice(row.error_code, row.error_message),)
    return found


def due(connection: sa.Connection) -> Sequence[Any]:
    """Files to write now, a batch of rows with their job's ``source`` and ``transcript_id``."""
    return connection.execute(_DUE).all()


def end(
    connection: sa.Connection, output_id: str, path: str, error: TranscribeError | None
) -> None:
    """Record that a file is written, or why it cannot be."""
    values: dict[str, Any] = {"state": WRITTEN}
    if error is not None:
        message = f"{path} was not written: {error}; the transcript is kept"
        values = {"state": FAILED, "error_code": error.code, "error_message": message}
    mine = outputs.update().where(outputs.c.output_id == output_id, outputs.c.state == PENDING)
    connection.execute(mine.values(**values))
