"""The protocol of the writer process: JSON messages with a length prefix.

The writer listens on a Unix socket in the data directory, which only its owner may open. Without
Unix sockets, or if the path is too long, it listens on a loopback port. Then a file in the data
directory holds the port and a secret, and both sides prove that they know it (HMAC).

A request is one transaction:

    {"client": id, "number": n, "again": bool, "commit": bool, "patience_s": s,
     "statements": [[sql, parameters, kind, expected], ...]}

``kind`` is ``one``, ``many`` (a list of parameters) or ``require`` (the first value must be true).
``expected`` is null, or the digest of the result that the client has read. Without ``commit`` the
statements are tried and undone. The answer is one of

    {"results": [{"columns": names or null, "rows": rows, "count": n, "last": rowid,
                  "digest": d}, ...]}
    {"unmet": index of the requirement}
    {"conflict": index of the statement whose result has changed}
    {"error": [name of the exception of sqlite3, message]}

with ``nice`` if the system did not allow the writer normal priority. A client with a higher
priority then sends ``{"retire": true}`` and starts another writer.

Standard library only, so that the writer starts quickly.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import os
import secrets
import socket
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

WRITER = "writer"
SOCKET_NAME = f"{WRITER}.sock"
ADDRESS_NAME = f"{WRITER}.address"
LOCK_NAME = "writer.lock"
START_LOCK_NAME = "writer.start"
LOG_NAME = "writer.log"
READY = "ready"
TAKEN = "taken"
REPLACED = "file replaced"  # error message: the file at the path is another one

_HEADER = struct.Struct(">I")
_CHUNK_BYTES = 1 << 18
_BYTES = "base64"


# --- messages -------------------------------------------------------------------------------------


def dumps(message: object) -> bytes:
    """
    Raises:
        TypeError: a value of a type that SQLite does not support.
    """
    text = json.dumps(message, separators=(",", ":"), default=_encoded).encode()
    return _HEADER.pack(len(text)) + text


def _encoded(value: object) -> dict[str, str]:
    if isinstance(value, bytes | bytearray | memoryview):
        return {_BYTES: base64.b64encode(value).decode("ascii")}
    raise TypeError(f"SQLite does not support {type(value).__name__}")


def _decoded(fields: dict[str, Any]) -> Any:
    return base64.b64decode(fields[_BYTES]) if fields.keys() == {_BYTES} else fields


def loads(text: bytes) -> Any:
    return json.loads(text, object_hook=_decoded)


def digest(columns: object, rows: object, count: int) -> str:
    """Equal for equal results."""
    return hashlib.sha256(
        json.dumps([columns, rows, count], default=_encoded).encode()
    ).hexdigest()[:32]


class Inbox:
    """Splits received bytes into messages."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def add(self, data: bytes) -> None:
        self._bytes += data

    def messages(self) -> Iterator[Any]:
        """
        Raises:
            ValueError: not a message of this protocol.
        """
        while len(self._bytes) >= _HEADER.size:
            [n_bytes] = _HEADER.unpack_from(self._bytes)
            end = _HEADER.size + n_bytes
            if len(self._bytes) < end:
                return
            text = bytes(self._bytes[_HEADER.size : end])
            del self._bytes[:end]
            yield loads(text)


def receive_into(inbox: Inbox, connection: socket.socket) -> None:
    """
    Raises:
        EOFError: the other side has closed.
        OSError: see ``socket``.
    """
    data = connection.recv(_CHUNK_BYTES)
    if not data:
        raise EOFError("closed by the other side")
    inbox.add(data)


def receive(inbox: Inbox, connection: socket.socket) -> Any:
    """The next message, from a socket that blocks."""
    while True:
        for message in inbox.messages():
            return message
        receive_into(inbox, connection)


def niceness() -> int:
    """The niceness of this process; 0 on systems without it."""
    return os.getpriority(os.PRIO_PROCESS, 0) if hasattr(os, "getpriority") else 0


# --- connecting -----------------------------------------------------------------------------------


def listen(data_dir: Path, name: str = WRITER) -> tuple[socket.socket, bytes]:
    """A listening socket, and the secret for a loopback port (empty for a Unix socket).

    Only the holder of the lock of ``name`` may call this: it replaces an earlier listener.
    """
    path = data_dir / f"{name}.sock"
    address = data_dir / f"{name}.address"
    with suppress(OSError):
        path.unlink()
    if hasattr(socket, "AF_UNIX"):
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(str(path))
            path.chmod(0o600)
            listener.listen(128)
        except OSError:  # path too long, or no sockets on this file system
            listener.close()
        else:
            with suppress(OSError):
                address.unlink()
            return listener, b""
    listener = socket.create_server(("127.0.0.1", 0), backlog=128)
    secret = secrets.token_bytes(32)
    new = address.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"port": listener.getsockname()[1], "secret": secret.hex()}, file)
    new.replace(address)
    return listener, secret


def connect(data_dir: Path, timeout_s: float, name: str = WRITER) -> socket.socket:
    """A connection to the listener of this name.

    Raises:
        OSError: nobody listens.
    """
    if hasattr(socket, "AF_UNIX"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(timeout_s)
        try:
            connection.connect(str(data_dir / f"{name}.sock"))
        except OSError:
            connection.close()
        else:
            return connection
    try:
        address = json.loads((data_dir / f"{name}.address").read_text(encoding="ascii"))
        port = int(address["port"])
        secret = bytes.fromhex(address["secret"])
    except (ValueError, KeyError) as error:
        raise ConnectionError(f"{name}.address is damaged") from error
    connection = socket.create_connection(("127.0.0.1", port), timeout_s)
    try:
        _prove_as_client(connection, secret)
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        connection.close()
        raise ConnectionError(f"another program listens at the {name}'s port") from error
    return connection


def _prove_as_client(connection: socket.socket, secret: bytes) -> None:
    """Authenticate both sides, the writer first: another listener at its port learns nothing."""
    inbox = Inbox()
    challenge = secrets.token_hex(16)
    connection.sendall(dumps({"challenge": challenge}))
    answer = receive(inbox, connection)
    if not hmac.compare_digest(answer["proof"], proof(secret, "writer", challenge)):
        raise ValueError("wrong proof")
    connection.sendall(dumps({"proof": proof(secret, "client", answer["challenge"])}))


def prove_as_listener(connection: socket.socket, secret: bytes) -> None:
    """The other side of a loopback port, for a connection that blocks.

    Raises:
        EOFError, KeyError, TypeError, ValueError: the client does not know the secret.
    """
    if not secret:
        return
    inbox = Inbox()
    challenge = secrets.token_hex(16)
    mine = proof(secret, "writer", receive(inbox, connection)["challenge"])
    connection.sendall(dumps({"proof": mine, "challenge": challenge}))
    answer = receive(inbox, connection)
    if not hmac.compare_digest(answer["proof"], proof(secret, "client", challenge)):
        raise ValueError("wrong proof")


def proof(secret: bytes, side: str, challenge: str) -> str:
    return hmac.new(secret, f"{side}:{challenge}".encode(), "sha256").hexdigest()


def hold_lock(
    data_dir: Path, patience_s: float, name: str = LOCK_NAME
) -> sqlite3.Connection | None:
    """The exclusive right to write, until the connection is closed; ``None`` if another has it.

    It is SQLite's lock on an empty file: portable, and in the standard library.
    """
    path = data_dir / name
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    lock = sqlite3.connect(path, timeout=patience_s, isolation_level=None, check_same_thread=False)
    try:
        lock.execute("PRAGMA journal_mode=MEMORY").close()  # no file, for a full disk
        lock.execute("BEGIN EXCLUSIVE").close()
    except sqlite3.OperationalError as error:
        lock.close()
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
            raise
        return None
    return lock
