"""How long finished jobs and uploaded recordings are kept."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ..errors import TranscribeError, UsageError
from . import uploads
from .database import Database
from .row_mapping import UNFINISHED
from .schema import jobs

DAY_S = 86_400.0
REFERENCES = "references"  # the option of clips of voices


def kept_since(keep_days: float) -> float | None:
    """Jobs that finished before this time (seconds since the epoch) may be deleted.

    ``None``, for 0 or infinite days: never delete.

    Raises:
        UsageError: negative, or not a number.
    """
    if math.isnan(keep_days) or keep_days < 0:
        raise UsageError(
            f"jobs cannot be kept for {keep_days:g} days",
            hint="give a number of days such as 30 or 0.5; 0 keeps finished jobs forever",
        )
    if keep_days == 0 or math.isinf(keep_days):
        return None
    return time.time() - keep_days * DAY_S


def ended_long_ago(connection: sa.Connection, keep_days: float) -> list[str]:
    """The jobs that may be deleted. Errors: see ``kept_since``."""
    since = kept_since(keep_days)
    if since is None:
        return []
    old = sa.and_(jobs.c.status.not_in(UNFINISHED), jobs.c.finished_at < since)
    return list(connection.execute(sa.select(jobs.c.job_id).where(old)).scalars())


@dataclass(frozen=True, slots=True)
class JobFiles:
    """Files that clients have sent for jobs.

    Attributes:
        sources: of the jobs; only uploads count.
        clips: of voices, by their SHA-256.
    """

    sources: frozenset[str] = frozenset()
    clips: frozenset[str] = frozenset()

    @classmethod
    def of(cls, rows: Iterable[Any]) -> JobFiles:
        """The files of rows of the table of jobs."""
        found = list(rows)
        references = (one for row in found for one in json.loads(row.options).get(REFERENCES, ()))
        clips = frozenset(one.rpartition("=")[2] for one in references)
        return cls(frozenset(row.source for row in found), clips)


def drop_unused_files(database: Database, files: JobFiles) -> None:
    """Delete those files that no job names. Call it after the transaction that deleted the jobs."""
    data_dir = database.data_dir
    named = {source: jobs.c.source == source for source in files.sources}
    named |= {
        str(uploads.clip_path(data_dir, clip)): jobs.c.options.contains(clip)
        for clip in files.clips
    }
    for path, is_named in named.items():
        if not uploads.is_kept(data_dir, path):
            continue
        with uploads.locked(data_dir, [uploads.digest_of(path)]), database.begin() as connection:
            query = sa.select(jobs.c.job_id).where(is_named).limit(1)
            if connection.execute(query).first() is None:
                uploads.drop(path)


@contextmanager
def sent_files(database: Database, upload: uploads.Upload, clips: Sequence[bytes]) -> Iterator[str]:
    """Keep the recording and clips of a request, whose job the block adds; yields the source.

    Nobody deletes them meanwhile. They go again if no job is added.
    """
    data_dir = database.data_dir
    digests = [hashlib.sha256(clip).hexdigest() for clip in clips]
    place = None
    try:
        with uploads.locked(data_dir, [upload.digest, *digests]):
            place = uploads.place_of(data_dir, upload)
            with uploads.disk_errors(data_dir):
                uploads.keep(upload, place)
                for clip in clips:
                    uploads.keep_clip(data_dir, clip)
            yield str(place)
    except TranscribeError:
        if place is not None:
            drop_unused_files(database, JobFiles(frozenset([str(place)]), frozenset(digests)))
        raise
