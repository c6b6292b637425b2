"""Requests over HTTP, byte by byte.

``data/http`` has requests of clients, written after their sources: .NET writes some names without
quotes and a file's name twice, Node's form-data writes dashes, httpx a boundary in hexadecimal.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence
from http.client import HTTPResponse
from pathlib import Path

from asgi import Answer
from patience import PATIENCE_S

CLIENTS = sorted((Path(__file__).parent / "data" / "http").glob("*.txt"))


def recorded(client: Path, recording: bytes) -> bytes:
    """The request of a client with its own recording, as it sends it but for closing afterwards."""
    text = client.read_text(encoding="utf-8").replace("\n", "\r\n").encode()
    head, _, body = text.partition(b"\r\n\r\n")
    body = body.replace(b"{recording}", recording)
    more = f"\r\nConnection: close\r\nContent-Length: {len(body)}\r\n\r\n"
    return head + more.encode() + body


def form(
    recording: bytes | None = None, name: str = "a.wav", **fields: str | Sequence[str]
) -> tuple[bytes, str]:
    """A plain form: its body and content type. ``words__`` is the field ``words[]``, which may have
    several values.
    """
    parts = [
        f'--x\r\nContent-Disposition: form-data; name="{field.replace("__", "[]")}"\r\n\r\n'
        f"{value}\r\n".encode()
        for field, values in fields.items()
        for value in ([values] if isinstance(values, str) else values)
    ]
    if recording is not None:
        head = f'--x\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        parts.append(head.encode() + recording + b"\r\n")
    return b"".join([*parts, b"--x--\r\n"]), "multipart/form-data; boundary=x"


def send(url: str, request: bytes) -> Answer:
    """Send a request as it is and read the answer."""
    with connected(url) as connection:
        connection.sendall(request)
        with HTTPResponse(connection) as response:
            response.begin()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read())


def connected(url: str) -> socket.socket:
    host, _, port = url.removeprefix("http://").partition("/")[0].rpartition(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_S)


def post(url: str, path: str, body: bytes, content_type: str, *headers: str) -> Answer:
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *headers,
             f"Content-Type: {content_type}", f"Content-Length: {len(body)}"]  # fmt: skip
    return send(url, "\r\n".join([*lines, "", ""]).encode() + body)
