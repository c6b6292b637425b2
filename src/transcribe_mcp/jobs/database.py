"""Opening the store's database: one SQLite file in the data directory, or a PostgreSQL server.

A damaged file and one of a newer version are never written to.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from ..errors import (
    StoreBusyError,
    StoreDamagedError,
    StoreError,
    StoreFullError,
    StoreVersionError,
    UsageError,
)
from .tables import SCHEMA_VERSION, SEARCH, TO_VERSION_2, about, metadata
from .turns import Turns, connection_class

FILE_NAME = "transcribe-mcp.db"
BUSY_TIMEOUT_MS = 5_000
AHEAD_PAGES = 8_000  # of 4 KiB: so much is written ahead before a commit stops to move it; the worker does so before
MIGRATION_LOCK = 0x7472616E  # PostgreSQL's advisory lock while tables are made; any constant would do

_LOCKED = ("database is locked", "database table is locked", "deadlock detected")
_DAMAGED = ("malformed", "not a database", "disk image", "file is encrypted")
_FULL = ("disk is full", "no space left", "disk i/o error", "could not extend file")


def database_url(data_dir: Path, configured: str = "") -> sa.URL:
    """The configured server, or the file in the data directory.

    Raises:
        UsageError: the configured URL is none of PostgreSQL.
    """
    if not configured:
        return sa.URL.create("sqlite", database=str(data_dir / FILE_NAME))
    hint = "give one such as postgresql://user:password@host/database, or unset it"
    try:
        url = sa.make_url(configured)
        backend = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError) as error:
        raise UsageError("TRANSCRIBE_MCP_DATABASE_URL is no URL of a database", hint=hint) from error
    if backend != "postgresql":
        raise UsageError(f"TRANSCRIBE_MCP_DATABASE_URL names a {backend} database", hint=hint)
    return url.set(drivername="postgresql+psycopg")


def open_engine(url: sa.URL) -> sa.Engine:
    """Connect, make or check the tables.

    Raises:
        StoreError: see the module's errors.
    """
    if url.get_backend_name() == "sqlite":
        engine = _sqlite(Path(str(url.database)))
    else:
        engine = sa.create_engine(url, hide_parameters=True, pool_size=10, max_overflow=10, pool_pre_ping=True)
    try:
        with store_errors(url):
            _make_tables(engine, url)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _sqlite(path: Path) -> sa.Engine:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # what was said is its owner's
    except OSError as error:
        hint = "choose another directory with TRANSCRIBE_MCP_DATA_DIR"
        raise StoreError(f"the data directory {path.parent} cannot be made: {error.strerror}", hint=hint) from error
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        hide_parameters=True,  # what was said stays out of messages
        pool_size=20,
        max_overflow=20,
        connect_args={
            "check_same_thread": False,
            "timeout": BUSY_TIMEOUT_MS / 1000,
            "factory": connection_class(Turns(), BUSY_TIMEOUT_MS / 1000),
        },
    )

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        # Writers wait at the first write, not at commit; readers are never in their way.
        connection.isolation_level = "IMMEDIATE"
        for pragma in (
            f"busy_timeout={BUSY_TIMEOUT_MS}",
            "journal_mode=WAL",
            "synchronous=FULL",
            f"wal_autocheckpoint={AHEAD_PAGES}",
            "foreign_keys=ON",
        ):
            connection.execute(f"PRAGMA {pragma}").close()

    return engine


def _make_tables(engine: sa.Engine, url: sa.URL) -> None:
    found = _version(engine)
    if found == SCHEMA_VERSION:
        return
    if found is not None and found > SCHEMA_VERSION:
        raise StoreVersionError(
            f"{shown(url)} was written by a newer version of this program (tables {found}, this one knows "
            f"{SCHEMA_VERSION})",
            hint="update this installation, or choose another directory with TRANSCRIBE_MCP_DATA_DIR",
        )
    from .queue import make_workflow_tables

    make_workflow_tables(url)
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        write_from_now(connection)
        metadata.create_all(connection)
        for statement in SEARCH[engine.dialect.name]:
            connection.exec_driver_sql(statement)
        # Version 2 has more tables than version 1, which have just been made; none has other columns.
        for statement in TO_VERSION_2:
            connection.exec_driver_sql(statement)
        connection.execute(about.delete().where(about.c.name == "schema_version"))
        connection.execute(about.insert().values(name="schema_version", value=str(SCHEMA_VERSION)))


def clock(connection: sa.Connection) -> float:
    """Seconds by the clock of the database, so that workers of several machines agree."""
    if connection.dialect.name == "postgresql":
        return float(connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one())
    return time.time()


def write_from_now(connection: sa.Connection) -> None:
    """Wait for SQLite's one place to write now, not at the first change; PostgreSQL has many."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def _version(engine: sa.Engine) -> int | None:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table(about.name):
            return None
        value = connection.execute(sa.select(about.c.value).where(about.c.name == "schema_version")).scalar()
    return int(value) if value is not None else None


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
    cause = str(error.orig if isinstance(error, DBAPIError) else error).strip() or type(error).__name__
    words = cause.lower()
    if isinstance(error, PoolTimeoutError) or any(sign in words for sign in _LOCKED):
        hint = "try again; if it stays, end the program that holds it (a backup, a database browser)"
        return StoreBusyError(f"the store {place} is held by another process: {cause}", hint=hint)
    if any(sign in words for sign in _DAMAGED):
        hint = "it is left as it is: move it away to start anew, or put back a copy of it"
        return StoreDamagedError(f"{place} is damaged or no store of this program: {cause}", hint=hint)
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
