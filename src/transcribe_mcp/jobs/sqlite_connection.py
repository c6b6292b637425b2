"""A SQLite connection that reads the file itself and sends writing transactions to the writer.

A transaction starts with its first writing statement, as in the standard library; earlier reads are
not part of it. The commit sends all statements in one request. Reading a result earlier makes the
writer try the statements so far and undo them. The commit then fails with ``ConflictError`` unless
the results that were read are the same again (optimistic concurrency). So the writer waits for no
client, and slow code holds no lock.

After ``defer``, statements are tried only when a result is read. An error is raised at the first
such read, or by the commit.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import total_ordering
from itertools import islice
from pathlib import Path
from typing import Any

from .sqlite_version import add_missing_functions
from .writer import identity
from .writer_link import ConflictError, ReplacedError, WriterLink
from .writer_protocol import REPLACED

_READS = re.compile(r"\s*(?:SELECT|PRAGMA|EXPLAIN|VALUES)\b", re.IGNORECASE)
_CONTROL = re.compile(r"\s*(BEGIN|COMMIT|END|ROLLBACK)\b(?!\s+TO\b)", re.IGNORECASE)
_RETURNING = re.compile(r"\bRETURNING\s+(.*)$", re.IGNORECASE | re.DOTALL)


@dataclass(eq=False, slots=True)
class Statement:
    """One statement of a transaction that writes, and its latest result."""

    sql: str
    parameters: Any
    kind: str = "one"
    result: dict[str, Any] | None = None
    was_read: bool = False

    @property
    def message(self) -> list[Any]:
        expected = self.result["digest"] if self.was_read and self.result is not None else None
        return [self.sql, self.parameters, self.kind, expected]


@total_ordering
class Count:
    """The number of rows that a statement changed, read when needed; -1 if unknown."""

    def __init__(self, connection: WritingConnection, statement: Statement) -> None:
        self._connection = connection
        self._statement = statement

    def __index__(self) -> int:
        return int(self._connection.result_of(self._statement).get("count", -1))

    __int__ = __index__

    def __bool__(self) -> bool:
        return self.__index__() != 0

    def __eq__(self, other: object) -> bool:
        return self.__index__() == other

    def __lt__(self, other: int) -> bool:
        return self.__index__() < other

    def __add__(self, other: int) -> int:
        return self.__index__() + other

    __radd__ = __add__

    def __hash__(self) -> int:
        return hash(self.__index__())

    def __repr__(self) -> str:
        return repr(self.__index__())


class WritingConnection(sqlite3.Connection):
    """See the module. Made by ``connection_class``."""

    database_path: Path
    file: tuple[int, int] | None
    patience_s: float

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        add_missing_functions(self)
        self.link = WriterLink(self.database_path, self.patience_s)
        self._statements: list[Statement] = []
        self._n_tried = 0
        self._has_begun = False
        self._is_deferred = False

    @property
    def in_transaction(self) -> bool:
        return self._has_begun

    def defer(self) -> None:
        """Until this transaction ends, try its statements only when a result is read."""
        self._is_deferred = True

    def require(self, sql: str, parameters: Sequence[Any] = ()) -> None:
        """Apply the transaction only if this query's first value is true at its place in the order.

        Otherwise the commit, or reading a result, raises ``RequirementError``.
        """
        self.add(Statement(sql, list(parameters), "require"))

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(factory or WritingCursor)

    def execute(self, sql: str, parameters: Any = ()) -> Any:
        return self.cursor().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any]) -> Any:
        return self.cursor().executemany(sql, parameters)

    def check_file(self) -> None:
        """
        Raises:
            ReplacedError: the file was deleted or replaced.
        """
        if identity(self.database_path) != self.file:
            raise ReplacedError(REPLACED)

    def begin(self) -> None:
        if not self._has_begun:
            self.check_file()
            self._has_begun = True

    def add(self, statement: Statement) -> None:
        """Add a statement to the transaction, which starts with it if there is none."""
        alone = not self._has_begun and self.isolation_level is None
        self.begin()
        self._statements.append(statement)
        if alone:
            self.commit()
        elif not self._is_deferred:
            try:
                self._try()
            except BaseException:  # nothing has changed, so the transaction continues
                self._statements.pop()
                raise

    def result_of(self, statement: Statement) -> dict[str, Any]:
        """The result of a statement, which the commit of its transaction requires from now on."""
        if not statement.was_read and statement in self._statements:
            if self._statements.index(statement) >= self._n_tried:
                self._try()
            statement.was_read = True
        return statement.result or {}

    def _try(self) -> None:
        self._ask(commit=False)
        self._n_tried = len(self._statements)

    def _ask(self, *, commit: bool) -> None:
        results = self.link.ask(
            [statement.message for statement in self._statements], commit=commit
        )
        for statement, result in zip(self._statements, results, strict=True):
            if result is not None:
                statement.result = result

    def commit(self) -> None:
        statements = self._statements
        try:
            if statements:
                self._ask(commit=True)
        except sqlite3.IntegrityError as error:
            if self._n_tried < len(statements):
                raise
            raise ConflictError from error  # all statements succeeded when tried
        except BaseException:
            for statement in statements:
                statement.result = None
            raise
        finally:
            self._end()

    def rollback(self) -> None:
        for statement in self._statements:
            statement.result = None
        self._end()

    def _end(self) -> None:
        self._statements = []
        self._n_tried = 0
        self._has_begun = self._is_deferred = False

    def close(self) -> None:
        self._end()
        self.link.close()
        super().close()


class WritingCursor(sqlite3.Cursor):
    """SQLite's cursor for reads outside a transaction; else the writer's results."""

    connection: WritingConnection

    def __init__(self, connection: sqlite3.Connection) -> None:
        super().__init__(connection)
        self._statement: Statement | None = None
        self._rows: Iterator[Any] | None = None

    def execute(self, sql: str, parameters: Any = ()) -> WritingCursor:
        connection = self.connection
        self._statement = None
        self._rows = None
        if control := _CONTROL.match(sql):
            word = control[1].upper()
            {"BEGIN": connection.begin, "ROLLBACK": connection.rollback}.get(
                word, connection.commit
            )()
        elif not connection.in_transaction and _READS.match(sql):
            connection.check_file()
            super().execute(sql, parameters)
        else:
            kept = parameters if isinstance(parameters, dict) else list(parameters)
            self._statement = Statement(sql, kept)
            connection.add(self._statement)
        return self

    def executemany(self, sql: str, parameters: Iterable[Any]) -> WritingCursor:
        rows = [row if isinstance(row, dict) else list(row) for row in parameters]
        self._statement = Statement(sql, rows, "many")
        self._rows = None
        self.connection.add(self._statement)
        return self

    @property
    def description(self) -> Any:
        if self._statement is None:
            return super().description
        if self._statement.result is None and _READS.match(self._statement.sql):
            self.connection.result_of(self._statement)
        if self._statement.result is not None:
            names = self._statement.result["columns"]
        else:
            returning = _RETURNING.search(self._statement.sql)
            names = _names(returning[1]) if returning else None
        return names and [(name, None, None, None, None, None, None) for name in names]

    @property
    def rowcount(self) -> Any:
        return (
            super().rowcount if self._statement is None else Count(self.connection, self._statement)
        )

    @property
    def lastrowid(self) -> int | None:
        if self._statement is None:
            return super().lastrowid
        last = self.connection.result_of(self._statement).get("last")
        return None if last is None else int(last)

    def __next__(self) -> Any:
        return super().__next__() if self._statement is None else next(self._answer())

    def fetchone(self) -> Any:
        return super().fetchone() if self._statement is None else next(self._answer(), None)

    def fetchmany(self, size: int | None = None) -> list[Any]:
        n = self.arraysize if size is None else size
        if self._statement is None:
            return super().fetchmany(n)
        return list(islice(self._answer(), n))

    def fetchall(self) -> list[Any]:
        return super().fetchall() if self._statement is None else list(self._answer())

    def _answer(self) -> Iterator[Any]:
        if self._rows is None:
            assert self._statement is not None
            self._rows = map(tuple, self.connection.result_of(self._statement).get("rows", []))
        return self._rows


def _names(returning: str) -> list[str]:
    """The column names of a RETURNING clause, before SQLite has executed it."""
    depth = 0
    names = [""]
    for sign in returning:
        depth += (sign == "(") - (sign == ")")
        if sign == "," and not depth:
            names.append("")
        else:
            names[-1] += sign
    return [re.split(r"[\s.]", name.strip())[-1].strip('"') for name in names]


def connection_class(
    path: Path, file: tuple[int, int] | None, patience_s: float
) -> type[WritingConnection]:
    """A class for connections to ``file`` at ``path``. ``patience_s``: see ``WriterLink``."""
    fields = {"database_path": path, "file": file, "patience_s": patience_s}
    return type("Connection", (WritingConnection,), fields)
