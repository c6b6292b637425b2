"""The only process that writes to a SQLite database. Requests come through ``writer_link.py``.

SQLite's busy handler sleeps and retries without a queue, so a writer can starve. This process
applies all writes in the order of their arrival. It never waits for a client: a request contains
all statements of its transaction. Concurrent requests share one commit (group commit),
each in its own savepoint, so that a failing request does not fail the others.

An answer is sent after the commit is on disk. A client whose connection breaks repeats its request.
The number and answer of each client's last request are part of the transaction, so a repeated
request is applied once.

    python -m transcribe_mcp.jobs.writer DATABASE IDLE_S
"""

from __future__ import annotations

import json
import os
import secrets
import selectors
import socket
import sqlite3
import sys
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .sqlite_version import add_missing_functions
from .writer_protocol import (
    ADDRESS_NAME,
    READY,
    REPLACED,
    SOCKET_NAME,
    TAKEN,
    Inbox,
    digest,
    dumps,
    hold_lock,
    listen,
    niceness,
    proof,
    receive_into,
)

LOCK_PATIENCE_S = 1.0  # for a writer that is exiting
RETRY_S = 0.002  # while another program locks the file
MAX_GROUP = 64  # requests per commit
CHECKPOINT_S = 2.0
WAL_CHECKPOINT_PAGES = 8_000  # of 4 KiB: at this size a commit checkpoints the WAL itself
KEEP_ANSWERS_S = 3600.0
LOOK_S = 1.0  # between checks for clients

_REMEMBERED = "SELECT answer FROM store_requests WHERE client = ? AND number = ?"
_REMEMBER = "INSERT OR REPLACE INTO store_requests (client, number, answer, at) VALUES (?, ?, ?, ?)"
_DELETE_OLD = "DELETE FROM store_requests WHERE at < ?"


@dataclass(eq=False, slots=True)
class Client:
    """A connection. It must answer its ``challenge`` before its requests are served."""

    connection: socket.socket
    challenge: str | None = None
    inbox: Inbox = field(default_factory=Inbox)
    unsent: bytearray = field(default_factory=bytearray)


@dataclass(eq=False, slots=True)
class Request:
    """See ``writer_protocol.py``."""

    client: Client
    sender: str
    number: int
    again: bool
    commit: bool
    statements: list[Any]
    deadline: float  # monotonic clock, for a file that another program locks

    @classmethod
    def read(cls, client: Client, fields: dict[str, Any]) -> Request:
        """
        Raises:
            KeyError, TypeError, ValueError: not a request.
        """
        return cls(
            client=client,
            sender=str(fields["client"]),
            number=int(fields["number"]),
            again=bool(fields["again"]),
            commit=bool(fields["commit"]),
            statements=list(fields["statements"]),
            deadline=time.monotonic() + float(fields["patience_s"]),
        )


class _Refused(Exception):
    """An answer without results."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer)
        self.answer = answer


class Writer:
    """Serves until it is retired, idle for ``idle_s`` without clients, or its file is replaced."""

    def __init__(self, path: Path, idle_s: float) -> None:
        self._path = path
        self._idle_s = idle_s
        self._database = connect(path)
        self._file = identity(path)
        self._listener, self._secret = listen(path.parent)
        self._listener.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._clients: set[Client] = set()
        self._waiting: deque[Request] = deque()
        self._busy = False
        self._nice = niceness()
        self._is_retired = False
        self.n_commits = 0

    def serve(self) -> None:
        last_client = cleaned = time.monotonic()
        while True:
            self._look(RETRY_S if self._busy else 0.0 if self._waiting else LOOK_S)
            now = time.monotonic()
            if identity(self._path) != self._file:
                self._say_replaced()
                return
            if self._waiting:
                self._serve_waiting()
            if self._is_retired and not self._waiting:
                return
            if self._clients:
                last_client = now
            elif now - last_client >= self._idle_s:
                return
            if now - cleaned > KEEP_ANSWERS_S / 4:
                cleaned = now
                with suppress(sqlite3.Error):
                    self._database.execute(_DELETE_OLD, (time.time() - KEEP_ANSWERS_S,)).close()

    def close(self) -> None:
        self._listener.close()
        if identity(self._path) == self._file:  # else they belong to another writer
            for name in (SOCKET_NAME, ADDRESS_NAME):
                with suppress(OSError):
                    (self._path.parent / name).unlink()
        for client in list(self._clients):
            self._drop(client)
        self._selector.close()
        self._database.close()

    # --- clients --------------------------------------------------------------------------------

    def _look(self, timeout_s: float) -> None:
        """Receive requests, and send the rest of earlier answers."""
        for key, events in self._selector.select(timeout_s):
            if key.fileobj is self._listener:
                self._accept()
                continue
            client: Client = key.data
            try:
                if events & selectors.EVENT_WRITE:
                    self._send(client, b"")
                if events & selectors.EVENT_READ:
                    self._receive(client)
            except BlockingIOError:
                continue
            except (OSError, EOFError, ValueError, KeyError, TypeError):  # gone, or not our client
                self._drop(client)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # the client has gone
            return
        connection.setblocking(False)
        client = Client(connection, secrets.token_hex(16) if self._secret else None)
        self._clients.add(client)
        self._selector.register(connection, selectors.EVENT_READ, client)

    def _receive(self, client: Client) -> None:
        receive_into(client.inbox, client.connection)
        for message in client.inbox.messages():
            if client.challenge is None and "retire" in message:
                self._is_retired = True
            elif client.challenge is None:
                self._waiting.append(Request.read(client, message))
            elif "challenge" in message:
                mine = proof(self._secret, "writer", message["challenge"])
                self._send(client, dumps({"proof": mine, "challenge": client.challenge}))
            elif secrets.compare_digest(
                message["proof"], proof(self._secret, "client", client.challenge)
            ):
                client.challenge = None
            else:
                raise ValueError("wrong proof")

    def _send(self, client: Client, data: bytes) -> None:
        client.unsent += data
        with suppress(BlockingIOError):
            n_sent = client.connection.send(client.unsent)
            del client.unsent[:n_sent]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if client.unsent else 0)
        self._selector.modify(client.connection, events, client)

    def _drop(self, client: Client) -> None:
        self._clients.discard(client)
        self._selector.unregister(client.connection)
        client.connection.close()

    def _answer(self, request: Request, answer: dict[str, Any]) -> None:
        if request.client not in self._clients:
            return
        if self._nice > 0:
            answer = {**answer, "nice": self._nice}
        try:
            self._send(request.client, dumps(answer))
        except OSError:
            self._drop(request.client)

    # --- requests -------------------------------------------------------------------------------

    def _serve_waiting(self) -> None:
        group = [self._waiting.popleft() for _ in range(min(MAX_GROUP, len(self._waiting)))]
        try:
            self._database.execute("BEGIN IMMEDIATE").close()
        except sqlite3.Error as error:
            self._busy = _is_busy(error)
            now = time.monotonic()
            kept = [request for request in group if self._busy and now < request.deadline]
            for request in group:
                if request not in kept:
                    self._answer(request, _error(error))
            self._waiting.extendleft(reversed(kept))
            return
        self._busy = False
        self._finish(group)

    def _finish(self, group: Sequence[Request]) -> None:
        """In an open transaction: apply the requests, commit, answer."""
        answers = []
        try:
            for request in group:
                answers.append(self._apply(request))
            self._database.execute("COMMIT").close()
        except sqlite3.Error as error:  # the shared transaction is lost
            if self._database.in_transaction:
                self._database.execute("ROLLBACK").close()
            if len(group) == 1:
                self._answer(group[0], _error(error))
                return
            for request in group:
                self._alone(request)
            return
        self.n_commits += 1
        for request, answer in zip(group, answers, strict=True):
            self._answer(request, answer)

    def _alone(self, request: Request) -> None:
        try:
            self._database.execute("BEGIN IMMEDIATE").close()
        except sqlite3.Error as error:
            self._answer(request, _error(error))
            return
        self._finish([request])

    def _apply(self, request: Request) -> dict[str, Any]:
        """Execute a request and return its answer. A failed or tried request is undone.

        Raises:
            sqlite3.Error: the shared transaction is lost.
        """
        database = self._database
        if request.again:
            for (known,) in database.execute(
                _REMEMBERED, (request.sender, request.number)
            ).fetchall():
                return dict(json.loads(known))
        database.execute("SAVEPOINT request").close()
        before = database.total_changes
        try:
            answer: dict[str, Any] = {
                "results": self._results(request.statements, with_rows=not request.commit)
            }
            if request.commit:
                if database.total_changes != before:
                    row = (request.sender, request.number, json.dumps(answer), time.time())
                    database.execute(_REMEMBER, row).close()
                database.execute("RELEASE request").close()
                return answer
        except _Refused as refused:
            answer = refused.answer
        except (sqlite3.Error, OverflowError, TypeError, ValueError) as error:
            if not database.in_transaction:
                raise
            answer = _error(error)
        database.execute("ROLLBACK TO request").close()
        database.execute("RELEASE request").close()
        return answer

    def _results(
        self, statements: Sequence[Sequence[Any]], *, with_rows: bool
    ) -> list[dict[str, Any] | None]:
        results: list[dict[str, Any] | None] = []
        for index, (sql, parameters, kind, expected) in enumerate(statements):
            with closing(self._database.cursor()) as cursor:
                if kind == "many":
                    cursor.executemany(sql, parameters)
                else:
                    cursor.execute(sql, parameters)
                columns = (
                    [column[0] for column in cursor.description] if cursor.description else None
                )
                rows = cursor.fetchall() if columns is not None else []
                if kind == "require" and not (rows and rows[0][0]):
                    raise _Refused({"unmet": index})
                found = digest(columns, rows, cursor.rowcount)
                if expected is not None and expected != found:
                    raise _Refused({"conflict": index})
                result = {
                    "columns": columns,
                    "count": cursor.rowcount,
                    "last": cursor.lastrowid,
                    "digest": found,
                }
                results.append(
                    {**result, "rows": rows if with_rows else []} if expected is None else None
                )
        return results

    def _say_replaced(self) -> None:
        for request in self._waiting:
            self._answer(request, {"error": ["OperationalError", REPLACED]})
        self._waiting.clear()


def connect(path: Path) -> sqlite3.Connection:
    """A writing connection to an existing database."""
    uri = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(
        uri, uri=True, timeout=0, isolation_level=None, cached_statements=512
    )
    add_missing_functions(connection)
    for pragma in (
        "synchronous=FULL",
        "foreign_keys=ON",
        f"wal_autocheckpoint={WAL_CHECKPOINT_PAGES}",
        "busy_timeout=0",
    ):
        connection.execute(f"PRAGMA {pragma}").close()
    return connection


def identity(path: Path) -> tuple[int, int] | None:
    """(device, inode) of the file at a path; ``None`` if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _is_busy(error: sqlite3.Error) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
    )


def _error(error: Exception) -> dict[str, Any]:
    name = type(error).__name__ if isinstance(error, sqlite3.Error) else sqlite3.DataError.__name__
    return {"error": [name, str(error)]}


def _checkpoint_wal(path: Path, writer: Writer, ended: threading.Event) -> None:
    """Checkpoint the WAL in this thread, so that no commit has to."""
    done = 0
    with closing(connect(path)) as connection:
        while not ended.wait(CHECKPOINT_S):
            if writer.n_commits != done:
                done = writer.n_commits
                with suppress(sqlite3.Error):  # a full disk, or a reader: tried again later
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").close()


def _normal_priority() -> None:
    """Undo the low priority of a process that started this one: all writers wait for it."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def main(arguments: Sequence[str]) -> int:
    path = Path(arguments[0])
    os.umask(0o077)  # new files are private
    _normal_priority()
    lock = hold_lock(path.parent, LOCK_PATIENCE_S)
    if lock is None:
        _announce(TAKEN)
        return 0
    writer = Writer(path, idle_s=float(arguments[1]))
    ended = threading.Event()
    checkpoints = threading.Thread(target=_checkpoint_wal, args=[path, writer, ended])
    checkpoints.start()
    _announce(READY)
    try:
        writer.serve()
    finally:
        ended.set()
        checkpoints.join()
        writer.close()
        lock.close()
    return 0


def _announce(word: str) -> None:
    """Tell the process that started this one, if it still exists."""
    with suppress(OSError):
        sys.stdout.write(f"{word}\n")
        sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
