"""Notice new work without querying for it, so that an idle worker takes next to no CPU time.

A poll of a queue by dbos takes several queries, and the CPU time of a running model. So one small
query first checks whether a workflow waits. Checking for changes reads no table: on SQLite it reads
the version of the file, on PostgreSQL the notifications of ``notify``.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

CHANNEL = "transcribe_mcp"
IDLE_POLL_S = 5.0  # between polls without a change, in case one was missed
LOOKS = 3  # for changes, in the regular pause between two polls
AWAKE_S = 1.0  # after a notification: a poll fails while another worker polls the same queue
_QUEUED = "SELECT 1 FROM {} WHERE queue_name = '{}' AND status = 'ENQUEUED' LIMIT 1"

Answer = TypeVar("Answer")


def notify(connection: sa.Connection) -> None:
    """Tell all workers, when the transaction commits, that there is new work."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"NOTIFY {CHANNEL}")


class Changes:
    """The changes of a database, for one thread."""

    def __init__(self, url: sa.URL) -> None:
        self._url = url
        self._is_sqlite = url.get_backend_name() == "sqlite"
        self._driver_error: type[Exception] = url.get_dialect().import_dbapi().Error
        self._connection: Any = None
        self._version: int | None = 0
        self._awake_until = 0.0

    def seen(self) -> bool:
        """Whether there may be a change since the last call; true if the database fails."""
        if self._is_sqlite:
            before = self._version
            self._version = self.version()
            return self._version is None or self._version != before
        is_new = self._connection is None
        if self._asked(lambda listening: any(listening.notifies(timeout=0)), True):
            self._awake_until = time.monotonic() + AWAKE_S
        return is_new or time.monotonic() < self._awake_until

    def version(self) -> int | None:
        """On SQLite a number, equal while nobody else changes the file; ``None`` if unknown."""
        if not self._is_sqlite:
            return None
        return self._asked(_data_version, None)

    def has_queued(self, queue: str) -> bool:
        """Whether a workflow waits in the queue; true if the database fails."""
        table = "workflow_status" if self._is_sqlite else "dbos.workflow_status"
        query = _QUEUED.format(table, queue)
        return self._asked(lambda database: bool(database.execute(query).fetchall()), True)

    def _asked(self, ask: Callable[[Any], Answer], otherwise: Answer) -> Answer:
        """The answer of the database, or else this one; the next poll reports the error."""
        try:
            if self._connection is None:
                opened = _open_file if self._is_sqlite else _listen
                self._connection = opened(self._url)
            return ask(self._connection)
        except (self._driver_error, sa.exc.SQLAlchemyError):
            self.close()
            return otherwise

    def close(self) -> None:
        if self._connection is not None:
            with suppress(self._driver_error):
                self._connection.close()
            self._connection = None


def _open_file(url: sa.URL) -> Any:
    uri = Path(str(url.database)).absolute().as_uri()
    return sqlite3.connect(f"{uri}?mode=ro", uri=True, check_same_thread=False)


def _data_version(connection: Any) -> int | None:
    [version] = connection.execute("PRAGMA data_version").fetchone()
    return int(version)


def _listen(url: sa.URL) -> Any:
    pooled = sa.create_engine(url, poolclass=sa.NullPool).raw_connection()
    connection: Any = pooled.driver_connection
    pooled.detach()  # it stays open
    connection.autocommit = True
    connection.execute(f"LISTEN {CHANNEL}")
    return connection


class PollPause(threading.Event):
    """The stop event of a thread that polls a queue. Its ``wait`` is the pause between two polls.

    Args:
        queue: its name.
        is_busy: whether a slot may become free without a change.
    """

    def __init__(self, changes: Changes, queue: str, is_busy: Callable[[], bool]) -> None:
        super().__init__()
        self._changes = changes
        self._queue = queue
        self._is_busy = is_busy

    def wait(self, timeout: float | None = None) -> bool:
        """Return true when stopped, false when it is time to poll.

        Args:
            timeout: seconds until the next poll if there is no change.
        """
        begin = time.monotonic()
        look_s = None if timeout is None else timeout / LOOKS
        while not super().wait(look_s):
            waited_s = time.monotonic() - begin
            may_start = self._changes.seen() or (waited_s >= (timeout or 0.0) and self._is_busy())
            is_due = waited_s >= IDLE_POLL_S
            if is_due or (may_start and self._changes.has_queued(self._queue)):
                return False
        return True
