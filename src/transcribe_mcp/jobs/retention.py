"""How long finished jobs are kept."""

from __future__ import annotations

import math
import time

import sqlalchemy as sa

from ..errors import UsageError
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
