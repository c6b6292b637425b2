"""Opening the store's database: one SQLite file in the data directory, or a PostgreSQL server.

A damaged file and one of a newer version are never written to.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from ..errors import StoreError, StoreVersionError, UsageError
from .store_errors import shown, store_errors
from .tables import SCHEMA_VERSION, SEARCH, about, metadata
from .turns import Turns, connection_class

FILE_NAME = "transcribe-mcp.db"
BUSY_TIMEOUT_MS = 5_000
AHEAD_PAGES = 8_000  # of 4 KiB: so much is written ahead before a commit stops to move it; the worker does so before
MIGRATION_LOCK = 0x7472616E  # PostgreSQL's advisory lock while tables are made; any constant would do


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
        # Version 2 has more tables than version 1 and no others: they have just been made.
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
