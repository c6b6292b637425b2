"""Writers take turns at a SQLite file: those of one process in the order in which they came, processes side by side.

SQLite lets one write at a time and has no queue: who finds the file taken sleeps and tries again, for longer each time,
while others who come later find it free. With eight writers that go on and on, one in a hundred waited for a second.
So one of each process tries, at short intervals, and between two turns of one process others have a moment.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

TRY_S = 0.001  # between two tries of the one whose turn it is
YIELD_S = 0.002  # before a turn that follows another of this process: longer than others wait between two tries

_WRITES = ("BEGIN", "INSERT", "UPDATE", "DELETE", "REPLACE")


class Turns:
    """A lock that is handed on to whoever has waited for it longest."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Event] = deque()

    @property
    def n_waiting(self) -> int:
        return len(self._waiting)

    @property
    def is_taken(self) -> bool:
        return self._taken

    def take(self, patience_s: float) -> bool:
        """Wait for the turn; ``False`` where it did not come in time."""
        with self._lock:
            if not self._taken:
                self._taken = True
                return True
            mine = threading.Event()
            self._waiting.append(mine)
        if mine.wait(patience_s):
            time.sleep(YIELD_S)
            return True
        with self._lock:
            if mine.is_set():  # it came at the last moment
                return True
            self._waiting.remove(mine)
            return False

    def give_back(self) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().set()
            else:
                self._taken = False


class TurnConnection(sqlite3.Connection):
    """One at a time is in a transaction that writes; the others wait for their turn, without holding anything."""

    turns: Turns
    patience_s: float
    _is_my_turn = False

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(factory or TurnCursor)

    def execute(self, sql: str, parameters: Any = ()) -> sqlite3.Cursor:
        return self.cursor().execute(sql, parameters)  # type: ignore[no-any-return]

    def executemany(self, sql: str, parameters: Iterable[Any]) -> sqlite3.Cursor:
        return self.cursor().executemany(sql, parameters)  # type: ignore[no-any-return]

    def begin(self) -> None:
        """Wait for the turn and for the file, then begin to write.

        Raises:
            sqlite3.OperationalError: it took too long.
        """
        deadline = time.monotonic() + self.patience_s
        if not self.turns.take(self.patience_s):
            raise sqlite3.OperationalError("database is locked: other writers of this process were first")
        self._is_my_turn = True
        try:
            self._execute("PRAGMA busy_timeout=0")
            while not self._begun(deadline):
                time.sleep(TRY_S)
        finally:
            self._execute(f"PRAGMA busy_timeout={round(self.patience_s * 1000)}")
            self.end_turn()

    def _begun(self, deadline: float) -> bool:
        try:
            self._execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            return False
        return True

    def _execute(self, sql: str) -> None:
        super().execute(sql).close()

    def end_turn(self) -> None:
        """Unless a transaction is open."""
        if self._is_my_turn and not self.in_transaction:
            self._is_my_turn = False
            self.turns.give_back()

    def commit(self) -> None:
        try:
            super().commit()
        finally:
            self.end_turn()

    def rollback(self) -> None:
        try:
            super().rollback()
        finally:
            self.end_turn()

    def close(self) -> None:
        super().close()
        if self._is_my_turn:
            self._is_my_turn = False
            self.turns.give_back()


class TurnCursor(sqlite3.Cursor):
    connection: TurnConnection

    def execute(self, sql: str, parameters: Any = ()) -> TurnCursor:
        return self._in_turn(sql, super().execute, parameters)

    def executemany(self, sql: str, parameters: Iterable[Any]) -> TurnCursor:
        return self._in_turn(sql, super().executemany, parameters)

    def _in_turn(self, sql: str, execute: Callable[[str, Any], TurnCursor], parameters: Any) -> TurnCursor:
        if sql.lstrip()[:7].upper().startswith(_WRITES) and not self.connection.in_transaction:
            self.connection.begin()
            if sql.lstrip()[:5].upper() == "BEGIN":
                return self
        try:
            return execute(sql, parameters)
        finally:
            self.connection.end_turn()


def connection_class(turns: Turns, patience_s: float) -> type[TurnConnection]:
    """Connections that share ``turns``; a writer waits ``patience_s`` for its own."""
    return type("Connection", (TurnConnection,), {"turns": turns, "patience_s": patience_s})
