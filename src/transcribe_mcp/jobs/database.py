"""The database and its transactions: a SQLite file in the data directory, or a PostgreSQL server.

A damaged file and one of a newer version are never written to. Every process reads the SQLite file;
one process writes to it (``writer.py``).
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError, NoSuchModuleError
from sqlalchemy.schema import CreateColumn
from sqlalchemy.sql.compiler import SQLCompiler

from ..domain.private_files import create_private, make_private_dir
from ..errors import StoreBusyError, StoreError, StoreVersionError, UsageError
from .changes import Changes
from .schema import (
    DROP_WORKERS,
    FOR_WRITER,
    SCHEMA_VERSION,
    SEARCH,
    SINCE_VERSION_3,
    TO_VERSION_2,
    TO_VERSION_4,
    about,
    metadata,
    segments,
)
from .sqlite_connection import WritingConnection, connection_class
from .sqlite_version import add_missing_functions, check_version
from .store_errors import shown, store_errors
from .transcripts import index_speakers
from .writer import identity
from .writer_link import ConflictError, RequirementError
from .writer_protocol import hold_lock

FILE_NAME = "transcribe-mcp.db"
BUSY_TIMEOUT_MS = 5_000
CONNECT_S = 10  # to a PostgreSQL server
LOCK_TIMEOUT_MS = 30_000  # of PostgreSQL, for locks of other programs
MIGRATION_PATIENCE_S = 30.0  # while another process creates the tables
MIGRATION_LOOK_S = 0.5  # between checks for the tables
MIGRATION_LOCK = 0x7472616E  # key of PostgreSQL's advisory lock: any constant
CONFLICT_TRIES = 20  # of a transaction in conflict with other writers

Result = TypeVar("Result")


class Database:
    """An open database. Safe to use from several threads."""

    def __init__(self, data_dir: Path, configured_url: str = "") -> None:
        self.data_dir = data_dir
        self.url = database_url(data_dir, configured_url)
        self.engine = open_engine(self.url)
        self._versions = Changes(self.url)
        self._versions_lock = threading.Lock()

    def close(self) -> None:
        self.engine.dispose()
        with self._versions_lock:
            self._versions.close()

    def version(self) -> int | None:
        """Equal while the content does not change. ``None`` if unknown, as on PostgreSQL."""
        with self._versions_lock:
            return self._versions.version()

    def check_file(self) -> None:
        """
        Raises:
            StoreReplacedError: the file was deleted, or another one is at its path.
        """
        if self.engine.dialect.name == "sqlite":
            with store_errors(self.url), self.engine.connect() as connection:
                _writing(connection).check_file()

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """A transaction. On SQLite, errors of its statements are raised when it ends.

        On SQLite, a transaction that reads its own writes, or reads after ``write_from_now``, may
        fail with ``StoreBusyError`` because of another writer. ``transact`` tries again.
        """
        with store_errors(self.url), self.engine.begin() as connection:
            if connection.dialect.name == "sqlite":
                _writing(connection).defer()
            yield connection

    def transact(self, work: Callable[[sa.Connection], Result]) -> Result:
        """Return ``work(connection)`` from a transaction that is repeated after a conflict.

        Raises:
            StoreBusyError: every try was in conflict with other writers.
        """
        last: Exception | None = None
        for _ in range(CONFLICT_TRIES):
            try:
                with self.begin() as connection:
                    result = work(connection)
            except RequirementError as error:
                last = error
            except StoreBusyError as error:
                if not isinstance(error.__cause__, ConflictError):
                    raise
                last = error
            else:
                return result
        message = (
            f"other processes changed the same jobs in {shown(self.url)} {CONFLICT_TRIES} times"
        )
        raise StoreBusyError(message, hint="try again") from last


def database_url(data_dir: Path, configured: str = "") -> sa.URL:
    """The configured server, or the file in the data directory.

    Raises:
        UsageError: the configured URL does not name a PostgreSQL database.
    """
    if not configured:
        return sa.URL.create("sqlite", database=str(data_dir / FILE_NAME))
    hint = "give one such as postgresql://user:password@host/database, or unset it"
    try:
        url = sa.make_url(configured)
        backend = url.get_backend_name()
    except (ArgumentError, NoSuchModuleError, ValueError) as error:  # a port is no number
        raise UsageError(
            "TRANSCRIBE_MCP_DATABASE_URL is not the URL of a database", hint=hint
        ) from error
    if backend not in ("postgresql", "postgres"):  # hosts of databases give either
        raise UsageError(f"TRANSCRIBE_MCP_DATABASE_URL names a {backend} database", hint=hint)
    return url.set(drivername="postgresql+psycopg")


def open_engine(url: sa.URL) -> sa.Engine:
    """Connect; create, update or check the tables.

    Raises:
        StoreError: see ``store_errors.py``.
    """
    if url.get_backend_name() == "sqlite":
        check_version()
        engine = _sqlite(Path(str(url.database)))
    else:
        engine = _postgresql(url)
    try:
        with store_errors(url):
            _make_tables(engine, url)
    except BaseException:
        engine.dispose()
        raise
    return engine


def _postgresql(url: sa.URL) -> sa.Engine:
    """Waits neither for a server nor for a lock longer than clients wait for a call."""
    engine = sa.create_engine(
        url,
        hide_parameters=True,
        pool_size=10,
        max_overflow=10,
        pool_pre_ping=True,
        connect_args={"connect_timeout": url.query.get("connect_timeout", CONNECT_S)},
    )

    @event.listens_for(engine, "connect")
    def limit(connection: Any, _: object) -> None:
        with connection.cursor() as cursor:
            cursor.execute(f"SET lock_timeout = {LOCK_TIMEOUT_MS}")
        connection.commit()

    return engine


def _sqlite(path: Path) -> sa.Engine:
    try:
        make_private_dir(path.parent)
        if not path.exists():
            create_private(path)
    except OSError as error:
        hint = "choose another directory with TRANSCRIBE_MCP_DATA_DIR"
        raise StoreError(
            f"cannot create the data directory {path.parent}: {error.strerror}", hint=hint
        ) from error
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        hide_parameters=True,  # transcripts stay out of messages
        pool_size=20,
        max_overflow=20,
        connect_args={
            "check_same_thread": False,
            "timeout": BUSY_TIMEOUT_MS / 1000,
            "factory": connection_class(path, identity(path), BUSY_TIMEOUT_MS / 1000),
        },
    )
    # No implicit RETURNING: a key may differ between the try of a transaction and its commit.
    engine.dialect.insert_returning = False

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = "IMMEDIATE"  # None would commit every statement
        connection.execute(f"PRAGMA busy_timeout={BUSY_TIMEOUT_MS}").close()
        connection.execute("PRAGMA query_only=ON").close()  # only the writer process writes

    return engine


def _make_tables(engine: sa.Engine, url: sa.URL) -> None:
    found = _version(engine)
    if found == SCHEMA_VERSION:
        return
    if found is not None and found > SCHEMA_VERSION:
        raise StoreVersionError(
            f"{shown(url)} was written by a newer version of this program "
            f"(its tables: {found}, known: {SCHEMA_VERSION})",
            hint="update this installation, or choose another TRANSCRIBE_MCP_DATA_DIR",
        )
    if engine.dialect.name != "sqlite":
        _migrate(engine)
        return
    deadline = time.monotonic() + MIGRATION_PATIENCE_S
    # Check between tries: the process that created the tables may have started a writer, with the
    # lock.
    while _version(engine) != SCHEMA_VERSION:
        with _sole_writer(Path(str(url.database)), url) as own:
            if own is not None and _version(own) != SCHEMA_VERSION:
                _migrate(own)
            if own is None and time.monotonic() > deadline:
                message = "database is locked: another process is updating it or writing to it"
                raise sqlite3.OperationalError(message)


@contextmanager
def _sole_writer(path: Path, url: sa.URL) -> Iterator[sa.Engine | None]:
    """An engine that writes directly and keeps writers out; ``None`` while another one writes."""
    lock = hold_lock(path.parent, MIGRATION_LOOK_S)
    if lock is None:
        yield None
        return
    engine = sa.create_engine(url, hide_parameters=True, poolclass=sa.NullPool)

    @event.listens_for(engine, "connect")
    def prepare(connection: Any, _record: Any) -> None:
        connection.isolation_level = "IMMEDIATE"
        add_missing_functions(connection)
        for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}").close()

    with closing(lock):
        yield engine


def _migrate(engine: sa.Engine) -> None:
    """Create the tables of a new database; update those of an earlier version."""
    from .queue import WorkflowQueue

    WorkflowQueue(engine).make_tables()
    with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            connection.execute(
                sa.text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK}
            )
            if _version_of(connection) == SCHEMA_VERSION:  # another machine was first
                return
        write_from_now(connection)
        connection.exec_driver_sql(DROP_WORKERS)
        metadata.create_all(connection)
        _add_columns(connection)
        for statement in (*SEARCH[engine.dialect.name], *FOR_WRITER[engine.dialect.name]):
            connection.exec_driver_sql(statement)
        for statement in (*TO_VERSION_2, TO_VERSION_4):
            connection.exec_driver_sql(statement)
        connection.execute(about.delete().where(about.c.name == "schema_version"))
        connection.execute(about.insert().values(name="schema_version", value=str(SCHEMA_VERSION)))


def _add_columns(connection: sa.Connection) -> None:
    """Add the columns that tables of an earlier version lack."""
    for column in SINCE_VERSION_3:
        table = column.table.name
        if column.name not in {each["name"] for each in sa.inspect(connection).get_columns(table)}:
            definition = CreateColumn(column).compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table} ADD COLUMN {definition}")
            if column is segments.c.speaker:
                index_speakers(connection)


def clock(connection: sa.Connection) -> float:
    """The database's time in seconds since the epoch, the same for workers of all machines."""
    if connection.dialect.name == "postgresql":
        now = sa.text("SELECT extract(epoch FROM clock_timestamp())")
        return float(connection.execute(now).scalar_one())
    return time.time()


def write_from_now(connection: sa.Connection) -> None:
    """On SQLite: later reads must not change before this transaction is applied."""
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql("BEGIN IMMEDIATE")


def require(
    connection: sa.Connection, condition: sa.Select[Any], parameters: Mapping[str, Any]
) -> None:
    """Apply this transaction only if the first value of ``condition``, a constant, is true.

    Raises:
        RequirementError: it is false; raised by the end of the transaction at the latest.
    """
    if connection.dialect.name == "sqlite":
        compiled = _compiled(condition, connection.dialect)
        values = compiled.construct_params(dict(parameters))
        ordered = [values[name] for name in compiled.positiontup or ()]
        _writing(connection).require(str(compiled), ordered)
    elif not connection.execute(condition, parameters).scalar():
        raise RequirementError


@lru_cache(maxsize=32)
def _compiled(condition: sa.Select[Any], dialect: sa.Dialect) -> SQLCompiler:
    """SQL for the writer, which does not use SQLAlchemy. Compiling takes 2 ms."""
    compiled = condition.compile(dialect=dialect)
    assert isinstance(compiled, SQLCompiler)
    return compiled


def _writing(connection: sa.Connection) -> WritingConnection:
    driver = connection.connection.driver_connection
    assert isinstance(driver, WritingConnection)
    return driver


def _version(engine: sa.Engine) -> int | None:
    with engine.connect() as connection:
        return _version_of(connection)


def _version_of(connection: sa.Connection) -> int | None:
    """The version of the tables; ``None`` in an empty database."""
    if not sa.inspect(connection).has_table(about.name):
        return None
    query = sa.select(about.c.value).where(about.c.name == "schema_version")
    value = connection.execute(query).scalar()
    return int(value) if value is not None else None
