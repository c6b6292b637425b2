"""Translate errors of the database and its drivers into ours."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ..errors import (
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreReplacedError,
    StoreWriterError,
)
from .writer_link import ReplacedError, WriterUnreachableError
from .writer_protocol import LOG_NAME

_LOCKED = (
    "database is locked", "database table is locked", "deadlock detected", "due to lock timeout",
)  # fmt: skip
_DAMAGED = (
    "malformed", "not a database", "disk image", "file is encrypted", "vtable constructor failed",
)  # fmt: skip
_FULL = ("disk is full", "no space left", "disk i/o error", "could not extend file")


def shown(url: sa.URL) -> str:
    """The database in a message: a path, or a URL without its password."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return url.set(drivername="postgresql").render_as_string(hide_password=True)


@contextmanager
def store_errors(url: sa.URL) -> Iterator[None]:
    """Raise the database's errors as ours, without the data of their statements."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise _translated(error, shown(url)) from _without_data(error)


def _hint(place: str) -> str:
    if place.startswith("postgresql:"):
        return (
            "check host, port, user, password and database in TRANSCRIBE_MCP_DATABASE_URL, "
            "and whether the server runs"
        )
    return "check its permissions, or choose another directory with TRANSCRIBE_MCP_DATA_DIR"


def _translated(error: Exception, place: str) -> StoreError:
    origin = _without_data(error)
    cause = str(origin).strip() or type(error).__name__
    words = cause.lower()
    if isinstance(origin, ReplacedError):
        hint = "the next call opens the new file; jobs of the old file are only in that file"
        return StoreReplacedError(
            f"the database {place} was deleted, moved or replaced while it was open", hint=hint
        )
    if isinstance(origin, WriterUnreachableError):
        hint = f"see {LOG_NAME} in the data directory; acknowledged writes are safe"
        return StoreWriterError(f"cannot write to the database {place}: {cause}", hint=hint)
    if isinstance(error, PoolTimeoutError) or any(sign in words for sign in _LOCKED):
        hint = "try again, or stop the program that locks it (a backup, a database browser)"
        return StoreBusyError(
            f"the database {place} is locked by another process: {cause}", hint=hint
        )
    if any(sign in words for sign in _DAMAGED):
        hint = "it was not changed; move it away to start a new database, or restore a backup"
        return StoreDamagedError(
            f"{place} is damaged or not a database of this program: {cause}", hint=hint
        )
    if any(sign in words for sign in _FULL):
        hint = "free some disk space; jobs resume from their last checkpoint"
        return StoreFullError(f"cannot write to the database {place}: {cause}", hint=hint)
    return StoreError(f"cannot use the database {place}: {cause}", hint=_hint(place))


def _without_data(error: Exception) -> Exception:
    """The driver's error. SQLAlchemy's error also shows parameters, which hold transcripts."""
    if isinstance(error, DBAPIError) and isinstance(error.orig, Exception):
        return error.orig
    return error
