"""The way to the writer process, which is started where there is none. See ``writer.py``."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from .private_files import open_private
from .writer_protocol import (
    LOG_NAME,
    READY,
    REPLACED,
    START_LOCK_NAME,
    TAKEN,
    Inbox,
    connect,
    dumps,
    hold_lock,
    niceness,
    receive,
)

IDLE_S = 5.0  # a writer without clients ends after so long
CONNECT_S = 5.0
START_S = 20.0  # until a writer must be there
ANSWER_S = (
    90.0  # after its patience; longer than any commit takes, so that a writer that hangs is noticed
)
TAIL_BYTES = 2_000
LOG_BYTES = 100_000

_lock = threading.Lock()
_started: list[subprocess.Popen[bytes]] = []  # kept, so that their ends are noticed


class WriterUnreachableError(sqlite3.OperationalError):
    """There is no writer, and none can be started; or it does not answer."""


class ReplacedError(sqlite3.OperationalError):
    """The file at the path of the database is not the one that was opened."""


class ConflictError(sqlite3.OperationalError):
    """Something that a transaction acted on has changed before it was applied. dbos tries again by these words."""

    def __init__(self) -> None:
        super().__init__("database is locked: what the transaction has read was changed by another")


class RequirementError(Exception):
    """A transaction was not applied, because what it requires does not hold."""


class WriterLink:
    """One client of the writer: a thread at a time.

    Args:
        path: the database.
        patience_s: how long a request may wait while another program holds the file.
    """

    def __init__(self, path: Path, patience_s: float) -> None:
        self._path = path
        self._patience_s = patience_s
        self._id = uuid.uuid4().hex
        self._number = 0
        self._socket: socket.socket | None = None
        self._inbox = Inbox()

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def ask(self, statements: Sequence[Sequence[Any]], *, commit: bool) -> list[Any]:
        """Try a transaction, or apply it; gives the results of the statements of which none is expected.

        Raises:
            sqlite3.Error: that of the writer, or one of this module.
            RequirementError: one of the statements requires what does not hold.
        """
        self._number += 1
        request = {
            "client": self._id,
            "number": self._number,
            "commit": commit,
            "patience_s": self._patience_s,
        }
        try:
            first, again = (
                dumps({**request, "again": a, "statements": statements}) for a in (False, True)
            )
        except TypeError as error:
            raise sqlite3.InterfaceError(str(error)) from error
        answer = self._exchanged(first, again)
        if answer.get("nice", 0) > niceness():
            self._retire()
        if "results" in answer:
            return list(answer["results"])
        if "unmet" in answer:
            raise RequirementError
        if "conflict" in answer:
            raise ConflictError
        name, message = answer["error"]
        if message == REPLACED:
            raise ReplacedError(message)
        raise getattr(sqlite3, name, sqlite3.OperationalError)(message)

    def _retire(self) -> None:
        """A process of low priority had to start this writer. The next request starts another."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.sendall(dumps({"retire": True}))
        self.close()

    def _exchanged(self, first: bytes, again: bytes) -> Any:
        """Send, and send again where the writer ends before its answer: it may have ended after the commit."""
        deadline = time.monotonic() + START_S
        message = first
        while True:
            try:
                if self._socket is None:
                    self._inbox = Inbox()
                    self._socket = _connected(self._path, deadline)
                    self._socket.settimeout(self._patience_s + ANSWER_S)
                self._socket.sendall(message)
                return receive(self._inbox, self._socket)
            except TimeoutError as error:
                self.close()
                raise WriterUnreachableError("the writer process does not answer") from error
            except (OSError, EOFError, ValueError) as error:
                self.close()
                message = again
                if time.monotonic() > deadline:
                    raise WriterUnreachableError(
                        f"the writer process ended again and again: {error}"
                    ) from error


def _connected(path: Path, deadline: float) -> socket.socket:
    """A connection to the writer, which is started if there is none.

    Raises:
        WriterUnreachableError, ReplacedError: there is none.
    """
    while True:
        with suppress(OSError):
            return connect(path.parent, CONNECT_S)
        if not path.is_file():
            raise ReplacedError(REPLACED)
        starting = hold_lock(path.parent, max(0.0, deadline - time.monotonic()), START_LOCK_NAME)
        if starting is None:
            raise WriterUnreachableError(
                "the writer process cannot be started: another is starting, and never does"
            )
        with closing(starting):
            with suppress(OSError):  # one that was started while this process waited for the lock
                return connect(path.parent, CONNECT_S)
            word = _start(path)
        if word not in (READY, TAKEN):
            raise WriterUnreachableError(f"the writer process cannot be started: {word}")
        if word == TAKEN and time.monotonic() > deadline:
            raise WriterUnreachableError(
                "another writer process holds the lock, but nobody can reach it"
            )


def _start(path: Path) -> str:
    """Start a writer and wait until it says that it is ready, or not needed; else why it ended."""
    path = path.absolute()
    command = [sys.executable, "-P", "-m", "transcribe_mcp.jobs.writer", str(path), str(IDLE_S)]
    log_path = path.parent / LOG_NAME
    try:
        with open_private(log_path, "ab") as log:
            if log.tell() > LOG_BYTES:
                log.truncate(0)
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=path.anchor,
                **_detached(),
            )
    except OSError as error:
        return str(error)
    with _lock:
        _started[:] = [one for one in _started if one.poll() is None]
        _started.append(process)
    assert process.stdout is not None
    with process.stdout as out:
        word = out.readline().decode("ascii", "replace").strip()
    return word or f"exit code {process.wait()}: {_last_line(log_path)}"


def _detached() -> dict[str, Any]:
    """At normal priority: everybody who writes waits for this process."""
    if sys.platform == "win32":
        flags = (
            subprocess.DETACHED_PROCESS
            | subprocess.CREATE_NEW_PROCESS_GROUP
            | subprocess.NORMAL_PRIORITY_CLASS
        )
        return {"creationflags": flags}
    return {"start_new_session": True}


def _last_line(log_path: Path) -> str:
    try:
        text = log_path.read_bytes()[-TAIL_BYTES:].decode("utf-8", "replace")
    except OSError:
        return ""
    return (text.strip().splitlines() or [""])[-1]
