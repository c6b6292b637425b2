"""What happens once, ahead of time: SQLite's writer process starts, and SQLAlchemy compiles its statements."""

from __future__ import annotations

from contextlib import suppress

import sqlalchemy as sa

from . import adding
from .models import JobOptions
from .queue import SHORT
from .row_mapping import NewJob
from .store import Store

MOST_JOBS = 2**31 - 1  # PostgreSQL's largest integer


class _NotMeantError(Exception):
    """Ends a transaction that is not to be applied."""


def rehearse(store: Store) -> None:
    """Add a job and undo it, so that the first real one does not wait: 0.2 s where several processes begin at once.

    Raises:
        StoreError: the store cannot be written.
    """
    new = NewJob(
        __file__, "", "", JobOptions(), "", force=False, queue=SHORT, priority=1, is_new_hash=True
    )
    with suppress(_NotMeantError), store.begin() as connection:
        adding.add(connection, store.queue, [(new, MOST_JOBS)], None)
        connection.execute(
            sa.select(sa.literal(1))
        ).scalar()  # a look at a result, which asks the writer
        raise _NotMeantError
