"""Older versions of SQLite: missing functions, and the minimum version."""

from __future__ import annotations

import sqlite3
import time

from ..errors import StoreError

OLDEST = (3, 35)  # the first with RETURNING
SUBSECONDS = (3, 42)  # the first with unixepoch('subsec')


def check_version() -> None:
    """
    Raises:
        StoreError: the SQLite of this Python is too old.
    """
    if sqlite3.sqlite_version_info < OLDEST:
        needed = ".".join(map(str, OLDEST))
        raise StoreError(
            f"the database of jobs needs SQLite {needed} or newer, "
            f"and this Python has {sqlite3.sqlite_version}",
            hint="use another Python, for example that of `uv venv --python 3.13`, or a PostgreSQL "
            "server (TRANSCRIBE_MCP_DATABASE_URL)",
        )


def add_missing_functions(connection: sqlite3.Connection) -> None:
    """Define ``unixepoch('subsec')`` where SQLite lacks it.

    On Python 3.12 and newer, dbos creates tables with it as a default and uses it in queries.
    """
    if sqlite3.sqlite_version_info < SUBSECONDS:
        connection.create_function("unixepoch", 1, _unixepoch)


def _unixepoch(modifier: str) -> float:
    """Seconds since the epoch in milliseconds, as SQLite's function of this name."""
    if modifier != "subsec":
        raise ValueError(f"unixepoch({modifier!r}) is not supported")
    return round(time.time(), 3)
