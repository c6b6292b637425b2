"""The one process that writes to a SQLite store. Requests come through ``writer_link.py``.

SQLite lets one process write at a time and has no queue: whoever finds the file taken sleeps and tries again, while
others who come later find it free. So all writes go through this process, in the order in which they arrive. It never
waits for a client: a request holds all statements of its transaction. Requests that wait together share one commit,
each in a savepoint of its own, so that one that fails costs no other.

An answer is sent after the commit is on the disk. A client whose connection breaks sends its request again: the number
of each client's last request, with its answer, is part of the transaction, so nothing is applied twice.

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

LOCK_PATIENCE_S = 1.0  # a writer that is just ending
RETRY_S = 0.002  # between two tries while another program holds the file
GROUP = 64  # requests that share a commit, at most
CHECKPOINT_S = 2.0
WAL_PAGES = 8_000  # of 4 KiB: a commit moves them itself only where the checkpoints cannot keep up
KEEP_ANSWERS_S = 3600.0
LOOK_S = 1.0  # how often it looks whether anybody is left

_REMEMBERED = "SELECT answer FROM store_requests WHERE client = ? AND number = ?"
_REMEMBER = "INSERT OR REPLACE INTO store_requests (client, number, answer, at) VALUES (?, ?, ?, ?)"
_FORGET = "DELETE FROM store_requests WHERE at < ?"


@dataclass(eq=False, slots=True)
class Client:
    """A connection. Its ``challenge`` is answered before it may ask for anything."""

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
    deadline: float  # monotonic clock; later, a file that another program holds is an error

    @classmethod
    def read(cls, client: Client, fields: dict[str, Any]) -> Request:
        """
        Raises:
            KeyError, TypeError, ValueError: no request.
        """
        deadline = time.monotonic() + float(fields["patience_s"])
        sender, number = str(fields["client"]), int(fields["number"])
        again, commit = bool(fields["again"]), bool(fields["commit"])
        return cls(client, sender, number, again, commit, list(fields["statements"]), deadline)


class _Refused(Exception):
    """What the client is told instead of results."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer)
        self.answer = answer


class Writer:
    """Serves until no client has been there for ``idle_s``, the file is not at its path any more, or it is retired."""

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
        last_client = forgot = time.monotonic()
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
            if now - forgot > KEEP_ANSWERS_S / 4:
                forgot = now
                with suppress(sqlite3.Error):
                    self._database.execute(_FORGET, (time.time() - KEEP_ANSWERS_S,)).close()

    def close(self) -> None:
        self._listener.close()
        if identity(self._path) == self._file:  # else the files there may be another's
            for name in (SOCKET_NAME, ADDRESS_NAME):
                with suppress(OSError):
                    (self._path.parent / name).unlink()
        for client in list(self._clients):
            self._drop(client)
        self._selector.close()
        self._database.close()

    # --- clients ------------------------------------------------------------------------------------------------------

    def _look(self, timeout_s: float) -> None:
        """Take what has arrived, and send on what could not be sent at once."""
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
            except (
                OSError,
                EOFError,
                ValueError,
                KeyError,
                TypeError,
            ):  # it has gone, or is none of ours
                self._drop(client)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it has gone already
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

    # --- requests -----------------------------------------------------------------------------------------------------

    def _serve_waiting(self) -> None:
        group = [self._waiting.popleft() for _ in range(min(GROUP, len(self._waiting)))]
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
        """In the transaction that has begun: carry out, commit, answer."""
        answers = []
        try:
            for request in group:
                answers.append(self._carried_out(request))
            self._database.execute("COMMIT").close()
        except sqlite3.Error as error:  # that ended, or must end, the transaction of all
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

    def _carried_out(self, request: Request) -> dict[str, Any]:
        """The answer to a request. What failed or was only tried has left nothing behind.

        Raises:
            sqlite3.Error: the whole transaction is lost.
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
        except (
            sqlite3.Error,
            OverflowError,
            TypeError,
            ValueError,
        ) as error:  # ValueError: also text that is none
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
    """A connection that may write to a store that is there."""
    address = f"{path.absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(
        address, uri=True, timeout=0, isolation_level=None, cached_statements=512
    )
    for pragma in (
        "synchronous=FULL",
        "foreign_keys=ON",
        f"wal_autocheckpoint={WAL_PAGES}",
        "busy_timeout=0",
    ):
        connection.execute(f"PRAGMA {pragma}").close()
    return connection


def identity(path: Path) -> tuple[int, int] | None:
    """Which file is at a path now; ``None`` where there is none."""
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


def _keep_checkpoints(path: Path, writer: Writer, ended: threading.Event) -> None:
    """Move what was written ahead into the file itself, beside the commits, so that none of them has to."""
    done = 0
    with closing(connect(path)) as connection:
        while not ended.wait(CHECKPOINT_S):
            if writer.n_commits != done:
                done = writer.n_commits
                with suppress(
                    sqlite3.Error
                ):  # the disk is full, or a reader is in the way: the next time, then
                    connection.execute("PRAGMA wal_checkpoint(PASSIVE)").close()


def _normal_priority() -> None:
    """Others wait for this process, whatever the priority of whoever started it."""
    with suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, 0, 0)


def main(arguments: Sequence[str]) -> int:
    path, idle_s = Path(arguments[0]), float(arguments[1])
    os.umask(0o077)  # what this process creates is its owner's alone
    _normal_priority()
    lock = hold_lock(path.parent, LOCK_PATIENCE_S)
    if lock is None:
        _announce(TAKEN)
        return 0
    writer, ended = Writer(path, idle_s), threading.Event()
    checkpoints = threading.Thread(target=_keep_checkpoints, args=[path, writer, ended])
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
    """Tell whoever started this process, who may have gone."""
    with suppress(OSError):
        sys.stdout.write(f"{word}\n")
        sys.stdout.flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
