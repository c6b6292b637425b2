"""How long finished jobs and uploaded recordings are kept."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from pathlib import Path

import sqlalchemy as sa

from ..errors import UsageError
from . import uploads
from .row_mapping import UNFINISHED
from .schema import jobs

DAY_S = 86_400.0


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


def drop_unused_uploads(connection: sa.Connection, data_dir: Path, sources: Iterable[str]) -> None:
    """Delete those of the sources that are uploads and that no job names."""
    for source in set(sources):
        named = sa.select(jobs.c.job_id).where(jobs.c.source == source).limit(1)
        if uploads.is_kept(data_dir, source) and connection.execute(named).first() is None:
            uploads.drop(source)
