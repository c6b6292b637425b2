"""Opening the store's database: one SQLite file in the data directory, or a PostgreSQL server.

A damaged file and one of a newer version are never written to. A SQLite file is read by every process and written by
one (``writer.py``).
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, NoSuchModuleError

from ..errors import StoreError, StoreVersionError, UsageError
from .private_files import create_private, make_private_dir
from .schema import FOR_WRITER, SCHEMA_VERSION, SEARCH, TO_VERSION_2, about, metadata
from .sqlite_connection import WritingConnection, connection_class
from .store_errors import shown, store_errors
from .writer import identity
from .writer_link import RequirementError
from .writer_protocol import hold_lock

FILE_NAME = "transcribe-mcp.db"
BUSY_TIMEOUT_MS = 5_000
MIGRATION_PATIENCE_S = 30.0  # while another process makes the tables
MIGRATION_LOOK_S = 0.5  # how often it is asked meanwhile whether they are there
MIGRATION_LOCK = (
    0x7472616E  # PostgreSQL's advisory lock while tables are made; any constant would do
)


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
        raise UsageError(
            "TRANSCRIBE_MCP_DATABASE_URL is no URL of a database", hint=hint
        ) from error
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
        engine = sa.create_engine(
            url, hide_parameters=True, pool_size=10, max_overflow=10, pool_pre_ping=True
        )
    try:
        with store_errors(url):
            _make_tables(engine, url)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _sqlite(path: Path) -> sa.Engine:
    try:
        make_private_dir(path.parent)
        if not path.exists():
            create_private(path)
    except OSError as error:
        hint = "choose another directory with TRANSCRIBE_MCP_DATA_DIR"
        raise StoreError(
            f"the data directory {path.parent} cannot be made: {error.strerror}", hint=hint
        ) from error
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        hide_parameters=True,  # what was said stays out of messages
        pool_size=20,
        max_overflow=20,
        connect_args={
            "check_same_thread": False,
            "timeout": BUSY_TIMEOUT_MS / 1000,
            "factory": connection_class(path, identity(path), BUSY_TIMEOUT_MS / 1000),
        },
    )
    # Not to be asked for by the way: keys that SQLite makes up by chance are others when a transaction is applied.
    engine.dialect.insert_returning = False

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = (
            "IMMEDIATE"  # anything but None, which would commit every statement
        )
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}").close()
        connection.execute("PRAGMA query_only=ON").close()  # only the writer process writes

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
    if engine.dialect.name != "sqlite":
        _migrate(engine, url)
        return
    give_up_at = time.monotonic() + MIGRATION_PATIENCE_S
    # Asked again between tries: who made the tables may have a writer by now, and that keeps the lock.
    while _version(engine) != SCHEMA_VERSION:
        with _sole_writer(Path(str(url.database)), url) as own:
            if own is not None and _version(own) != SCHEMA_VERSION:
                _migrate(own, url)
            if own is None and time.monotonic() > give_up_at:
                message = "database is locked: another process updates it, or still writes to it"
                raise sqlite3.OperationalError(message)


@contextmanager
def _sole_writer(path: Path, url: sa.URL) -> Iterator[sa.Engine | None]:
    """An engine that writes by itself, while no writer process can start; ``None`` while another process writes."""
    lock = hold_lock(path.parent, MIGRATION_LOOK_S)
    if lock is None:
        yield None
        return
    engine = sa.create_engine(url, hide_parameters=True, poolclass=sa.NullPool)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = "IMMEDIATE"
        for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}").close()

    with closing(lock):
        yield engine


def _migrate(engine: sa.Engine, url: sa.URL) -> None:
    """Make the tables of a new store; give those of an earlier version what they lack."""
    from .queue import make_workflow_tables

    make_workflow_tables(url)
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(
                sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK}
            )
        write_from_now(connection)
        metadata.create_all(connection)
        for statement in (*SEARCH[engine.dialect.name], *FOR_WRITER[engine.dialect.name]):
            connection.exec_driver_sql(statement)
        # Version 2 has more tables than version 1, which have just been made; none has other columns.
        for statement in TO_VERSION_2:
            connection.exec_driver_sql(statement)
        connection.execute(about.delete().where(about.c.name == "schema_version"))
        connection.execute(about.insert().values(name="schema_version", value=str(SCHEMA_VERSION)))


def clock(connection: sa.Connection) -> float:
    """Seconds by the clock of the database, so that workers of several machines agree."""
    if connection.dialect.name == "postgresql":
        return float(
            connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
        )
    return time.time()


def write_from_now(connection: sa.Connection) -> None:
    """What is read from now on must not change before this transaction is applied. PostgreSQL is not asked for it."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def defer(connection: sa.Connection) -> None:
    """Send this transaction to SQLite's writer as a whole: errors of its statements come when it ends."""
    if connection.dialect.name == "sqlite":
        _writing(connection).defer()


def require(connection: sa.Connection, condition: sa.Select[Any]) -> None:
    """Apply this transaction only where the first value of ``condition`` is true.

    Raises:
        RequirementError: it is not; at the latest when the transaction ends.
    """
    if connection.dialect.name == "sqlite":
        # Rendered whole, with a place for every value of an IN: the writer does not know SQLAlchemy.
        compiled = condition.compile(
            dialect=connection.dialect, compile_kwargs={"render_postcompile": True}
        )
        parameters = [compiled.params[name] for name in compiled.positiontup or ()]
        _writing(connection).require(str(compiled), parameters)
    elif not connection.execute(condition).scalar():
        raise RequirementError


def check_file(engine: sa.Engine) -> None:
    """
    Raises:
        ReplacedError: SQLite's file was deleted, or another lies at its path.
    """
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            _writing(connection).check_file()


def _writing(connection: sa.Connection) -> WritingConnection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, WritingConnection)
    return driver


def _version(engine: sa.Engine) -> int | None:
    with engine.connect() as connection:
        if not sa.inspect(connection).has_table(about.name):
            return None
        value = connection.execute(
            sa.select(about.c.value).where(about.c.name == "schema_version")
        ).scalar()
    return int(value) if value is not None else None
