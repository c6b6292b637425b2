"""Workers that cannot start: why, since when, and the time of the next try. One row per worker."""

from __future__ import annotations

import hashlib
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from .database import clock
from .schema import failed_starts, workers

GRACE_S = 30.0  # for a start; an older row is stale, because nobody retries


@dataclass(frozen=True, slots=True)
class FailedStart:
    """A worker that could not start.

    Attributes:
        failures: failed starts in a row.
        since: time of the first of them, by the clock of the database.
        next_try_s: seconds until the next try; at most 0 while it is under way.
    """

    host: str
    reason: str
    failures: int
    since: float
    next_try_s: float

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        times = (
            "1 failed start"
            if self.failures == 1
            else f"{self.failures} failed starts since {since}"
        )
        soon = (
            f"next try in {self.next_try_s:.0f} s" if self.next_try_s >= 1 else "trying again now"
        )
        return f"{self.reason} ({times}); {soon}"


def worker_id(url: sa.URL, data_dir: Path, number: int) -> str:
    """The id of all successive workers of a slot, so that each resumes its predecessor's jobs.

    On a server that machines share, it contains the machine and its data directory.
    """
    if url.get_backend_name() == "sqlite":
        return f"device-{number}"
    place = hashlib.sha256(str(data_dir.absolute()).encode()).hexdigest()[:8]
    return f"{platform.node()}-{place}-device-{number}"


def record_failed_start(
    connection: sa.Connection, worker: str, reason: str, next_try_s: float
) -> None:
    """Record why this worker does not run."""
    now = clock(connection)
    mine = failed_starts.c.worker_id == worker
    before = connection.execute(sa.select(failed_starts).where(mine)).first()
    connection.execute(workers.delete().where(workers.c.worker_id == worker))
    connection.execute(failed_starts.delete().where(mine))
    row = {
        "worker_id": worker,
        "host": platform.node(),
        "reason": reason,
        "failures": before.failures + 1 if before else 1,
        "since": before.since if before else now,
        "next_try_at": now + next_try_s,
    }
    connection.execute(failed_starts.insert().values(**row))


def clear_failed_start(connection: sa.Connection, worker: str) -> None:
    """Delete the record, because the worker has started or nobody retries."""
    connection.execute(failed_starts.delete().where(failed_starts.c.worker_id == worker))


def read_failed_starts(connection: sa.Connection) -> list[FailedStart]:
    """The workers whose supervisor still retries, earliest first."""
    now = clock(connection)
    query = sa.select(failed_starts).where(failed_starts.c.next_try_at > now - GRACE_S)
    rows = connection.execute(query.order_by(failed_starts.c.next_try_at)).all()
    return [
        FailedStart(row.host, row.reason, row.failures, row.since, row.next_try_at - now)
        for row in rows
    ]


def no_worker(connection: sa.Connection) -> str | None:
    """Why no worker runs; ``None`` if no start has failed."""
    failed = read_failed_starts(connection)
    if not failed:
        return None
    if len({start.host for start in failed}) == 1:
        return f"no worker: {failed[0]}"
    of_host = {start.host: start for start in reversed(failed)}  # keeps the next try of each host
    return "no worker: " + "; ".join(f"{host}: {start}" for host, start in sorted(of_host.items()))
