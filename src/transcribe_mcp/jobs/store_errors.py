"""The errors of the database and of its drivers, translated into ours."""

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

_LOCKED = ("database is locked", "database table is locked", "deadlock detected")
_DAMAGED = ("malformed", "not a database", "disk image", "file is encrypted")
_FULL = ("disk is full", "no space left", "disk i/o error", "could not extend file")


def shown(url: sa.URL) -> str:
    """The database for a message: a path, or a URL without its password."""
    if url.get_backend_name() == "sqlite":
        return str(url.database)
    return url.set(drivername="postgresql").render_as_string(hide_password=True)


@contextmanager
def store_errors(url: sa.URL) -> Iterator[None]:
    """The one door through which the database's errors leave as ours. They never carry what was to be written."""
    try:
        yield
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise _translated(error, shown(url)) from _without_data(error)


def _translated(error: Exception, place: str) -> StoreError:
    cause = (
        str(error.orig if isinstance(error, DBAPIError) else error).strip() or type(error).__name__
    )
    words = cause.lower()
    origin = error.orig if isinstance(error, DBAPIError) else error
    if isinstance(origin, ReplacedError):
        hint = "the next call opens what is there now; jobs of the file that is gone come back only with that file"
        return StoreReplacedError(
            f"the store {place} was deleted, moved or replaced while it was open", hint=hint
        )
    if isinstance(origin, WriterUnreachableError):
        hint = f"see {LOG_NAME} in the data directory; what was already answered is safe"
        return StoreWriterError(f"nothing can be written to the store {place}: {cause}", hint=hint)
    if isinstance(error, PoolTimeoutError) or any(sign in words for sign in _LOCKED):
        hint = (
            "try again; if it stays, end the program that holds it (a backup, a database browser)"
        )
        return StoreBusyError(f"the store {place} is held by another process: {cause}", hint=hint)
    if any(sign in words for sign in _DAMAGED):
        hint = "it is left as it is: move it away to start anew, or put back a copy of it"
        return StoreDamagedError(
            f"{place} is damaged or no store of this program: {cause}", hint=hint
        )
    if any(sign in words for sign in _FULL):
        hint = "make room on that disk; jobs go on from their last checkpoint"
        return StoreFullError(f"the store {place} cannot be written: {cause}", hint=hint)
    hint = "check that it is there and may be written; TRANSCRIBE_MCP_DATA_DIR and _DATABASE_URL choose another"
    return StoreError(f"the store {place} cannot be used: {cause}", hint=hint)


def _without_data(error: Exception) -> Exception:
    """The database's own error; SQLAlchemy's also shows the parameters, which hold what people said."""
    if isinstance(error, DBAPIError) and isinstance(error.orig, Exception):
        return error.orig
    return error
