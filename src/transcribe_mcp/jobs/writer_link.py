"""The connection to the writer process, which is started if needed. See ``writer.py``."""

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

from ..domain.private_files import open_private
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

IDLE_S = 5.0  # after which a writer without clients exits
CONNECT_S = 5.0
START_S = 20.0  # for starting a writer
# Beyond the patience: longer than any commit, shorter than the minute that MCP clients wait.
ANSWER_S = 45.0
TAIL_BYTES = 2_000
LOG_BYTES = 100_000

_lock = threading.Lock()
_started: list[subprocess.Popen[bytes]] = []  # kept to reap them


class WriterUnreachableError(sqlite3.OperationalError):
    """The writer does not answer, or cannot be started."""


class ReplacedError(sqlite3.OperationalError):
    """The database file is not the one that was opened."""


class ConflictError(sqlite3.OperationalError):
    """Data that a transaction has read changed before it was applied. dbos retries this message."""

    def __init__(self) -> None:
        super().__init__("database is locked: data that the transaction has read was changed")


class RequirementError(Exception):
    """A transaction was not applied because a required condition is false."""


class WriterLink:
    """One client of the writer, for one thread at a time.

    Args:
        path: the database.
        patience_s: how long a request may wait while another program locks the file.
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
        """Try or apply a transaction; returns the results of statements without expected result.

        Raises:
            sqlite3.Error: the writer's error, or one of this module.
            RequirementError: a required condition is false.
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
        """Replace a writer of low priority: the next request starts another."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.sendall(dumps({"retire": True}))
        self.close()

    def _exchanged(self, first: bytes, again: bytes) -> Any:
        """Send; repeat if the writer exits before its answer, perhaps after the commit."""
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
                raise WriterUnreachableError(
                    "the writer process does not answer; it may still make this change later"
                ) from error
            except (OSError, EOFError, ValueError) as error:
                self.close()
                message = again
                if time.monotonic() > deadline:
                    raise WriterUnreachableError(
                        f"the writer process ended repeatedly: {error}"
                    ) from error


def _connected(path: Path, deadline: float) -> socket.socket:
    """Connect to the writer, starting it if there is none.

    Raises:
        WriterUnreachableError, ReplacedError: it cannot be started.
    """
    while True:
        with suppress(OSError):
            return connect(path.parent, CONNECT_S)
        if not path.is_file():
            raise ReplacedError(REPLACED)
        starting = hold_lock(path.parent, max(0.0, deadline - time.monotonic()), START_LOCK_NAME)
        if starting is None:
            raise WriterUnreachableError(
                "the writer process cannot be started: another start has not finished"
            )
        with closing(starting):
            with suppress(OSError):  # another process started it meanwhile
                return connect(path.parent, CONNECT_S)
            word = _start(path)
        if word not in (READY, TAKEN):
            raise WriterUnreachableError(f"the writer process cannot be started: {word}")
        if word == TAKEN and time.monotonic() > deadline:
            raise WriterUnreachableError(
                "another writer process holds the lock but cannot be reached"
            )


def _start(path: Path) -> str:
    """Start a writer; returns ``READY``, ``TAKEN``, or why it exited."""
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
    """Normal priority, because all writers wait for this process."""
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
