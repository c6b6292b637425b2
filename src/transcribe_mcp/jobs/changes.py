"""Notice new work without querying for it, so that an idle worker takes next to no CPU time.

A poll of a queue by dbos takes several queries. A look for changes reads no table: on SQLite it
gets the version of the file, on PostgreSQL the notifications of ``notify``.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import sqlalchemy as sa

CHANNEL = "transcribe_mcp"
IDLE_POLL_S = 5.0  # between polls without a change, in case one was missed
AWAKE_S = 1.0  # after a notification: a poll fails while another worker polls the same queue


def notify(connection: sa.Connection) -> None:
    """Tell all workers, when the transaction commits, that there is new work."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"NOTIFY {CHANNEL}")


class Changes:
    """The changes of a database, for one thread."""

    def __init__(self, url: sa.URL) -> None:
        self._url = url
        self._driver_error: type[Exception] = url.get_dialect().import_dbapi().Error
        self._connection: Any = None
        self._version = 0
        self._awake_until = 0.0

    def seen(self) -> bool:
        """Whether there may be a change since the last call; true if the database fails."""
        is_sqlite = self._url.get_backend_name() == "sqlite"
        before: int | None = self._version
        try:
            if self._connection is None:
                self._connection = _open_file(self._url) if is_sqlite else _listen(self._url)
                before = None
            if is_sqlite:
                [self._version] = self._connection.execute("PRAGMA data_version").fetchone()
            elif any(self._connection.notifies(timeout=0)):
                self._awake_until = time.monotonic() + AWAKE_S
        except (self._driver_error, sa.exc.SQLAlchemyError):  # the poll that follows reports it
            self.close()
            return True
        return self._version != before or time.monotonic() < self._awake_until

    def close(self) -> None:
        if self._connection is not None:
            with suppress(self._driver_error):
                self._connection.close()
            self._connection = None


def _open_file(url: sa.URL) -> Any:
    uri = Path(str(url.database)).absolute().as_uri()
    return sqlite3.connect(f"{uri}?mode=ro", uri=True, check_same_thread=False)


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
        is_busy: whether to poll at the regular interval.
    """

    def __init__(self, changes: Changes, is_busy: Callable[[], bool]) -> None:
        super().__init__()
        self._changes = changes
        self._is_busy = is_busy

    def wait(self, timeout: float | None = None) -> bool:
        """Return true when stopped, false when it is time to poll."""
        until = time.monotonic() + IDLE_POLL_S
        while not super().wait(timeout):
            if self._changes.seen() or self._is_busy() or time.monotonic() >= until:
                return False
        return True
